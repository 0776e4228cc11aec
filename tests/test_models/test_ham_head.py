"""HamHead and NMF against mmseg's own, draws of bases, wide depth-wise kernels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_xmodal.models.decode_heads import HamHead
from mmseg_xmodal.models.layers.nmf import NMF
from mmseg_xmodal.models.layers.wide_depthwise import depthwise_conv
from tests.reference_forms.ham_head import published_ham_head

from .helpers import rand, randomise


def _head(**changes: Any) -> HamHead:
    fields: dict[str, Any] = dict(
        in_channels=(8, 12, 16),
        channels=20,
        ham_channels=24,
        ham_kwargs=dict(MD_R=6),
        num_classes=3,
        dropout_ratio=0.0,
    )
    head = HamHead(**fields | changes)
    randomise(head)
    return head


def _levels(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    shapes = ((2, 4, 16, 17), (2, 8, 8, 9), (2, 12, 5, 5), (2, 16, 3, 2))
    return [rand(*s, seed=i, dtype=dtype) for i, s in enumerate(shapes)]


@pytest.mark.parametrize('train', [True, False])
@pytest.mark.parametrize(
    'norm', [dict(type='BN', eps=1e-3), dict(type='GN', num_groups=2), None]
)
def test_equals_the_head_of_mmseg(norm: dict | None, train: bool) -> None:
    head = _head(norm_cfg=norm).double()
    stock = published_ham_head(head).double()
    stock.load_state_dict(head.state_dict(), strict=True)
    head.train(train), stock.train(train)
    ours = [x.requires_grad_() for x in _levels(torch.float64)]
    theirs = [x.requires_grad_() for x in _levels(torch.float64)]
    a, b = head(ours), stock(theirs)
    torch.testing.assert_close(a, b)
    a.square().sum().backward()
    b.square().sum().backward()
    for x, y in zip(ours[1:], theirs[1:], strict=True):
        torch.testing.assert_close(x.grad, y.grad)
    for p, q in zip(head.parameters(), stock.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, atol=1e-8, rtol=1e-6)


def test_evaluation_gives_one_answer_unless_random() -> None:
    fixed, random = _head().eval(), _head(bases='random').eval()
    feats = _levels()
    assert torch.equal(fixed(feats), fixed(feats))
    assert torch.equal(fixed(feats), _head().eval()(feats))
    assert not torch.equal(fixed(feats), _head(seed=1).eval()(feats))
    assert not torch.equal(random(feats), random(feats))
    assert fixed.state_dict().keys() == random.state_dict().keys()


def test_a_draw_can_be_injected() -> None:
    head, feats = _head(bases='random').eval(), _levels()
    outs = []
    for _ in range(2):
        head.nmf.generator = torch.Generator().manual_seed(3)
        outs.append(head(feats))
    assert torch.equal(*outs)
    drawn = torch.rand(2, 24, 6, generator=torch.Generator().manual_seed(3))
    head.nmf.set_bases(F.normalize(drawn, dim=1))
    assert torch.equal(head(feats), outs[0])
    head.nmf.set_bases(None)
    assert not torch.equal(head(feats), head(feats))


def test_errors_name_the_remedy() -> None:
    with pytest.raises(ValueError, match="bases='learned', expected one of.*fixed"):
        _head(bases='learned')
    with pytest.raises(ValueError, match=r'\(1, 5, 6\), expected \(1, 24, 6\)'):
        _head().nmf.set_bases(torch.zeros(1, 5, 6))
    with pytest.raises(ValueError, match='MD_S=2, expected 1.*LightHamHead'):
        _head(ham_kwargs=dict(MD_S=2))


def test_gradients_of_the_factorisation() -> None:
    """Of tokens and of bases, against finite differences."""
    nmf = NMF(5, 2, train_steps=2)
    x = rand(2, 7, 5, dtype=torch.float64).abs().requires_grad_()
    start = rand(2, 5, 2, seed=1, dtype=torch.float64).abs().requires_grad_()

    def run(x: Tensor, start: Tensor) -> tuple[Tensor, ...]:
        nmf.bases = start
        return nmf.factors(x)

    assert torch.autograd.gradcheck(run, (x, start))


def test_head_exports() -> None:
    head = _head().eval()
    feats = _levels()
    exported = torch.export.export(_Tuple(head), tuple(feats))
    torch.testing.assert_close(exported.module()(*feats), head(feats))


class _Tuple(torch.nn.Module):
    """Exporters want tensors, not a list of them."""

    def __init__(self, head: HamHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, *feats: Tensor) -> Tensor:
        return self.head(feats)


@pytest.mark.parametrize('kernel', [3, 5, 7, 9])
@pytest.mark.parametrize('size', [(6, 9), (1, 12), (8, 2)])
def test_wide_depthwise_gradients(kernel: int, size: tuple[int, int]) -> None:
    x = rand(2, 4, *size, dtype=torch.float64)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = rand(4, 1, kernel, kernel, seed=1, dtype=torch.float64).requires_grad_()
    bias = rand(4, seed=2, dtype=torch.float64).requires_grad_()
    out = depthwise_conv(x, weight, bias)
    expected = F.conv2d(x, weight, bias, padding=kernel // 2, groups=4)
    torch.testing.assert_close(out, expected)
    grad = rand(*out.shape, seed=3, dtype=torch.float64)
    ours = torch.autograd.grad(out, (x, weight, bias), grad)
    theirs = torch.autograd.grad(expected, (x, weight, bias), grad)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_wide_depthwise_has_second_gradients() -> None:
    x = rand(1, 2, 4, 6, dtype=torch.float64).requires_grad_()
    weight = rand(2, 1, 5, 5, seed=1, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(
        lambda x, w: depthwise_conv(x, w, None), (x, weight)
    )
