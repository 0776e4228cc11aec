"""The operators under ``opcheck``, ``torch.compile`` and ``torch.export``."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from torch import nn
from torch._ops import HigherOrderOperator

from mmseg_xmodal import ops

from .inputs import LEVELS, msda_inputs

HALF = dict(rtol=4e-3, atol=4e-3)  # a few roundings of float16 around 1
FLAT = [side for shape in LEVELS for side in shape]


def plain(x):
    return x.clone()


def turned(x):
    """The same numbers, with the axes after the first laid out from last to first."""
    axes = (0, *range(x.dim() - 1, 0, -1))
    return x.permute(axes).contiguous().permute(axes)


# The fakes promise strides: a view that keeps those of an input is another matter with
# one image than with two.
LAYOUTS = pytest.mark.parametrize('layout', [plain, turned])
BATCHES = pytest.mark.parametrize('batch', [1, 2])
QUICK = ('test_schema', 'test_autograd_registration', 'test_faketensor')


def opcheck(name, arguments, layout, batch):
    """Trace for all sizes, which takes seconds, in one of the layouts only."""
    every = (*QUICK, 'test_aot_dispatch_dynamic')
    whole = layout is plain and batch == 2
    operator = getattr(torch.ops.xmodal, name).default
    torch.library.opcheck(operator, arguments, test_utils=every if whole else QUICK)


def criss_cross_inputs(batch=2):
    torch.manual_seed(0)
    sizes = [(batch, 3, 4, 5), (batch, 3, 4, 5), (batch, 6, 4, 5)]
    return [torch.randn(s, dtype=torch.float64) for s in sizes]


@LAYOUTS
@BATCHES
def test_msda_operators(layout, batch):
    inputs = [layout(x).requires_grad_() for x in msda_inputs(batch=batch)]
    arguments = (inputs[0], FLAT, inputs[1], inputs[2], 'torch')
    opcheck('msda', arguments, layout, batch)
    grad = layout(torch.randn(batch, 7, 10, dtype=torch.float64)).requires_grad_()
    for needs in ((True, True), (True, False), (False, True)):
        opcheck('msda_backward', (grad, *arguments, *needs), layout, batch)


@LAYOUTS
@BATCHES
def test_criss_cross_operators(layout, batch):
    inputs = [layout(x).requires_grad_() for x in criss_cross_inputs(batch)]
    opcheck('criss_cross', (*inputs, 0.5, 'torch'), layout, batch)
    out, total = torch.ops.xmodal.criss_cross(*inputs, 0.5, 'torch')
    grad = layout(torch.randn(out.shape, dtype=out.dtype))
    tensors = [x.detach() for x in (grad, *inputs, out, total)]
    opcheck('criss_cross_backward', (*tensors, 0.5, 'torch'), layout, batch)


def modality_inputs(stacked, batch):
    torch.manual_seed(0)
    tokens = torch.randn(batch, 3, 2, 6, 2, 4, dtype=torch.float64)
    q, k, v = (x.contiguous() for x in tokens.unbind(1))
    return [
        q[:, 0],
        [k] if stacked else [*k.unbind(1)],
        [v] if stacked else [*v.unbind(1)],
    ]


@LAYOUTS
@BATCHES
@pytest.mark.parametrize('stacked', [False, True])
def test_modality_operators(stacked, layout, batch):
    q, k, v = modality_inputs(stacked, batch)
    q, *rest = (layout(x).requires_grad_() for x in (q, *k, *v))
    mask = layout(torch.rand(batch, 2, 6) > 0.3)
    arguments = (q, rest[: len(k)], rest[len(k) :], mask)
    opcheck('modality', (*arguments, 0.5, 'torch'), layout, batch)
    out, weights = torch.ops.xmodal.modality(*arguments, 0.5, 'torch')
    grad = layout(torch.randn(out.shape, dtype=out.dtype))
    for given in (None, layout(torch.randn(weights.shape, dtype=weights.dtype))):
        tensors = (grad, given, *arguments, weights.detach())
        opcheck('modality_backward', (*tensors, 0.5, 'torch'), layout, batch)


class Msda(nn.Module):
    def forward(self, value, locations, weights):
        weights = weights.flatten(3).softmax(-1).view_as(weights)
        return ops.multi_scale_deformable_attention(value, LEVELS, locations, weights)


class CrissCross(nn.Module):
    def forward(self, q, k, v):
        return ops.criss_cross_attention(q * 2, k, v)


class Windowed(nn.Module):
    def forward(self, q, k, v):
        return ops.windowed_cross_attention(q * 2, k, v, 3)


class Modality(nn.Module):
    def forward(self, q, k, v, mask):
        return ops.modality_attention(q * 2, k, v, mask)


def cases():
    maps = [torch.randn(1, 5, 7, 2, 4, dtype=torch.float64) for _ in range(3)]
    tokens = torch.randn(2, 3, 6, 2, 4, dtype=torch.float64)
    mask = torch.rand(2, 3, 6) > 0.3
    return {
        'msda': (Msda(), msda_inputs()),
        'criss_cross': (CrissCross(), criss_cross_inputs()),
        'windowed': (Windowed(), maps),
        'modality': (Modality(), (tokens[:, 0], tokens, tokens, mask)),
    }


NAMES = ['msda', 'criss_cross', 'windowed', 'modality']


@pytest.mark.parametrize('name', NAMES)
def test_compiles_without_a_graph_break(name):
    torch.manual_seed(0)
    module, inputs = cases()[name]
    leaves = [x.requires_grad_() for x in inputs if x.is_floating_point()]
    compiled = torch.compile(module, fullgraph=True, backend='aot_eager')
    got, want = compiled(*inputs), module(*inputs)
    torch.testing.assert_close(got, want)
    cotangent = torch.randn_like(want)
    for a, b in zip(
        torch.autograd.grad(got, leaves, cotangent),
        torch.autograd.grad(want, leaves, cotangent),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@BATCHES
def test_compiles_with_inductor(batch):
    """It checks the strides that the fakes promise. No code is generated around the
    operator alone, so no C++ compiler is needed.
    """
    inputs = [turned(x).requires_grad_() for x in msda_inputs(batch=batch)]

    def call(value, locations, weights):
        return ops.multi_scale_deformable_attention(value, LEVELS, locations, weights)

    torch._dynamo.reset()
    got = torch.compile(call, fullgraph=True, backend='inductor')(*inputs)
    want = call(*inputs)
    torch.testing.assert_close(got, want)
    cotangent = torch.randn_like(want)
    for a, b in zip(
        torch.autograd.grad(got, inputs, cotangent),
        torch.autograd.grad(want, inputs, cotangent),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('name', NAMES)
def test_exports_to_plain_operations(name):
    """The exported graph holds operations of ATen only, as an exporter needs them."""
    torch.manual_seed(0)
    module, inputs = cases()[name]
    program = torch.export.export(module, tuple(inputs))
    torch.testing.assert_close(program.module()(*inputs), module(*inputs))
    targets = [n.target for n in program.graph.nodes if n.op == 'call_function']
    assert targets
    others = [t for t in targets if getattr(t, 'namespace', 'aten') != 'aten']
    # Operators of higher order hide further graphs, as one of autocast would.
    assert not [t for t in targets if isinstance(t, HigherOrderOperator)] + others


NEEDS_ONNX = pytest.mark.skipif(
    any(find_spec(name) is None for name in ('onnx', 'onnxscript', 'onnxruntime')),
    reason='needs onnx, onnxscript and onnxruntime',
)


def _run(program, inputs):
    """Output of the exported program in ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    names = [i.name for i in session.get_inputs()]
    feed = {n: x.numpy() for n, x in zip(names, inputs, strict=True)}
    return torch.from_numpy(session.run(None, feed)[0])


def _dynamic(name):
    """Module, inputs of two sizes, and which axes differ."""
    batch, other = torch.export.Dim('batch'), torch.export.Dim('other')
    if name == 'msda':
        sizes = [msda_inputs(batch=b, queries=q) for b, q in ((2, 7), (3, 4))]
        return Msda(), *sizes, [{0: batch}, {0: batch, 1: other}, {0: batch, 1: other}]
    if name == 'windowed':
        sizes = [[torch.randn(b, 5, 7, 2, 4) for _ in range(3)] for b in (2, 3)]
        return Windowed(), *sizes, [{0: batch}] * 3
    sizes = [criss_cross_inputs(batch=b) for b in (2, 3)]
    return CrissCross(), *sizes, [{0: batch}] * 3


@NEEDS_ONNX
@pytest.mark.parametrize('name', ['msda', 'windowed', 'criss_cross'])
def test_exports_to_onnx_with_dynamic_sizes(name):
    torch.manual_seed(0)
    module, first, second, axes = _dynamic(name)
    first, second = ([x.detach().float() for x in y] for y in (first, second))
    program = torch.onnx.export(
        module.eval(), tuple(first), dynamo=True, dynamic_shapes=tuple(axes)
    )
    for inputs in (first, second):
        got, want = _run(program, inputs), module(*inputs)
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@NEEDS_ONNX
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize('name', NAMES)
def test_exports_to_onnx(name, dtype):
    torch.manual_seed(0)
    module, inputs = cases()[name]
    inputs = [x.to(dtype) if x.is_floating_point() else x for x in inputs]
    if name == 'msda':
        inputs[1] = inputs[1].float()  # locations, of which half is too coarse
    program = torch.onnx.export(module, tuple(inputs), dynamo=True)
    torch.testing.assert_close(
        _run(program, inputs),
        module(*inputs),
        # In half precision weights are rounded before a product, in another order.
        **(dict(rtol=1e-4, atol=1e-5) if dtype == torch.float32 else HALF),
    )
