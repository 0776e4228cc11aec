"""One backward pass after the other gives the gradients of the sum."""

from __future__ import annotations

import functools
import gc
import weakref
from typing import Any, ClassVar

import pytest
import torch
import torch.distributed as dist
from mmengine.model import MMDistributedDataParallel, is_model_wrapper
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper
from torch import Tensor, nn

from mmseg_xmodal.engine import AdaptationDistributedDataParallel, SkippingOptimWrapper
from mmseg_xmodal.models import AdaptationTerm
from mmseg_xmodal.models.layers.photometric import Photometric
from mmseg_xmodal.models.segmentors.domain_adaptive_step import term_groups

from .adaptation_toys import batch, wrapper

MIX = dict(type='mmseg_xmodal.ClassMixSelfTraining', augment=None)
ANCHOR = dict(type='mmseg_xmodal.FeatureAnchor', classes=[1, 3])
MASKED = dict(type='mmseg_xmodal.MaskedConsistency', block=16)
ENTROPY = dict(type='mmseg_xmodal.EntropyMinimization', weight=0.1)
ADVERSARIAL = dict(type='mmseg_xmodal.OutputAdversarial', weight=0.1, channels=4)
FOURIER = dict(type='mmseg_xmodal.FourierDomainAdaptation', beta=0.2)
# Shared graphs stand apart, and the last goes back with the source.
TERMS = [FOURIER, ENTROPY, MIX, ADVERSARIAL, MASKED, ANCHOR]
PSEUDO = dict(threshold=0.3)


def adapted(terms: list, backward: str = 'sequential', **kwargs: Any) -> Any:
    return wrapper(
        terms, anchor='copy', pseudo_labels=PSEUDO, backward=backward, **kwargs
    )


def draws() -> dict[str, Any]:
    return {
        'mix.classes': [[1, 255], [0, 3]],
        'masked.augment': [Photometric()] * 2,
        'masked.uniform': torch.linspace(0.5, 1, 12).view(2, 1, 2, 3),
    }


def train(model: Any, wrap: OptimWrapper, steps: int = 3) -> list[dict]:
    logs = []
    for t in range(steps):
        model.next_draws = draws()
        logs.append(model.train_step(batch(t), wrap))
    return logs


def noted(model: Any, every: int = 1, **kwargs: Any) -> tuple[OptimWrapper, list]:
    """An optimiser wrapper, and the gradients before each of its steps."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    grads: list[dict[str, Tensor]] = []
    optimiser.register_step_pre_hook(
        lambda *_: grads.append(
            {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
        )
    )
    wrap = OptimWrapper(optimiser, accumulative_counts=every, **kwargs)
    wrap.initialize_count_status(model, 0, 3)
    return wrap, grads


@pytest.mark.parametrize(('every', 'updates'), [(1, 3), (2, 2)])
def test_gradients_are_those_of_the_sum(every: int, updates: int) -> None:
    """Logs, gradients, weights and buffers; with accumulation to the last batch."""
    models, logs, grads = [], [], []
    for backward in ('summed', 'sequential'):
        model = adapted(TERMS, backward)
        wrap, kept = noted(model, every, clip_grad=dict(max_norm=0.5))
        logs.append(train(model, wrap))
        assert wrap.inner_count == 3
        models.append(model)
        grads.append(kept)
    assert [len(g) for g in grads] == [updates] * 2
    for summed, sequential in zip(*logs, strict=True):
        assert summed.keys() == sequential.keys()
    # Equal up to the order of float32 sums.
    close = dict(rtol=1e-4, atol=2e-6)
    torch.testing.assert_close(logs[1], logs[0], **close)
    torch.testing.assert_close(grads[1], grads[0], **close)
    states = [dict(model.state_dict()) for model in models]
    torch.testing.assert_close(states[1], states[0], **close)
    assert logs[1][0]['anchor.loss_distance'] > 0


class Spy(AdaptationTerm):
    """Runs the student, and says which graphs of others are alive meanwhile."""

    NAME = 'spy'

    def __init__(self, name: str, alive: dict[str, list]) -> None:
        super().__init__(name=name)
        self.alive = alive

    def forward(self, step: Any) -> dict[str, Tensor]:
        gc.collect()
        maps = self.alive['maps']
        self.alive['seen'].append([ref() is not None for ref in maps])
        return dict(loss=step.student.extract_feat(step.target.inputs)[-1].mean())


@pytest.mark.parametrize(
    ('backward', 'expected'),
    [('summed', [[True], [True, True]]), ('sequential', [[False], [False, False]])],
)
def test_one_graph_lives_at_a_time(backward: str, expected: list) -> None:
    alive: dict[str, list] = dict(maps=[], seen=[])
    model = adapted([Spy('first', alive), Spy('second', alive), ANCHOR], backward)
    # Inside of the norm, where backward needs it and nothing else holds it.
    model.student.backbone.second[0].register_forward_hook(
        lambda _, args, out: alive['maps'].append(weakref.ref(out))
    )
    train(model, noted(model)[0], steps=1)
    assert alive['seen'] == expected


# What goes backward together


class On(AdaptationTerm):
    """A term with given graphs."""

    def __init__(self, *graphs: str) -> None:
        super().__init__()
        self.GRAPHS = graphs  # type: ignore[misc]

    def forward(self, step: Any) -> dict[str, Tensor]:
        raise NotImplementedError


@pytest.mark.parametrize(
    ('graphs', 'expected'),
    [
        ([], [[]]),
        ([(), (), ('source',)], [[2], [0], [1]]),
        ([('target',), (), ('target',)], [[], [0, 2], [1]]),
        # Both graphs are one where a term reads both.
        ([('target',), (), ('target', 'source'), ('target',)], [[0, 2, 3], [1]]),
    ],
)
def test_terms_of_one_graph_go_together(graphs: list, expected: list) -> None:
    terms = [On(*names) for names in graphs]
    groups = term_groups(terms)
    assert [[terms.index(t) for t in g.terms] for g in groups] == expected
    assert 'source' in groups[0].graphs


class Late(AdaptationTerm):
    """Reads the graph of the target without saying so."""

    NAME: ClassVar[str] = 'late'

    def forward(self, step: Any) -> dict[str, Tensor]:
        return dict(loss=step.target_logits[0].mean())


def test_a_graph_that_is_gone_is_not_read() -> None:
    model = adapted([ENTROPY, Late()])
    with pytest.raises(ValueError, match="'target' in GRAPHS"):
        train(model, noted(model)[0], steps=1)


# Optimiser wrappers


class Scaled(OptimWrapper):
    """Loss scale as in mixed precision."""

    passes = 0

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        self.passes += 1
        super().backward(loss * 8, **kwargs)

    def step(self, **kwargs: Any) -> None:
        for group in self.optimizer.param_groups:
            for parameter in group['params']:
                if parameter.grad is not None:
                    parameter.grad /= 8
        super().step(**kwargs)


def test_the_wrapper_scales_every_pass() -> None:
    models = [adapted(TERMS) for _ in range(2)]
    plain, _ = noted(models[0])
    scaled = Scaled(torch.optim.SGD(models[1].parameters(), lr=0.05, momentum=0.9))
    for model, wrap in zip(models, (plain, scaled), strict=True):
        train(model, wrap, steps=2)
    # The source with the anchor, entropy with the adversary, mix, masks.
    assert scaled.passes == 2 * 4
    for mine, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-7)


@pytest.fixture
def amp_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``AmpOptimWrapper`` be built without a GPU, with torch's scaler for CPUs."""
    scaler = functools.partial(torch.amp.GradScaler, 'cpu')
    monkeypatch.setattr(amp_optimizer_wrapper, 'GradScaler', scaler)
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)


@pytest.mark.usefixtures('amp_on_cpu')
def test_mixed_precision() -> None:
    """Every pass is in half precision and scaled; the scale moves once."""
    models = [adapted(TERMS, backward) for backward in ('summed', 'sequential')]
    grads = []
    for model in models:
        optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
        kept: list[Tensor] = []
        optimiser.register_step_pre_hook(
            lambda *_, m=model, k=kept: k.extend(
                p.grad.flatten() for p in m.parameters() if p.requires_grad
            )
        )
        dtypes = set()
        model.student.backbone.second[0].register_forward_hook(
            lambda _, args, out, d=dtypes: d.add(out.dtype)
        )
        model.next_draws = draws()
        wrap = AmpOptimWrapper(
            optimizer=optimiser, loss_scale=dict(init_scale=8.0, growth_interval=1)
        )
        model.train_step(batch(), wrap)
        assert dtypes == {torch.bfloat16}
        assert wrap.loss_scaler.get_scale() == 16
        grads.append(torch.cat(kept))
    # bfloat16 has 8 bits, and gradients are summed in another order.
    assert (grads[1] - grads[0]).norm() < 0.02 * grads[0].norm()


def test_wrappers_with_an_update_of_their_own_are_refused() -> None:
    model = adapted([MIX])
    wrap = SkippingOptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(ValueError, match=r"SkippingOptimWrapper.*backward='summed'"):
        train(model, wrap)


def test_unknown_order() -> None:
    with pytest.raises(ValueError, match="backward='parallel'"):
        adapted([], 'parallel')


# Under wrappers of distributed training


@pytest.fixture
def one_process():
    """A group of one."""
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures('one_process')
def test_the_stock_wrapper_is_refused_and_ours_takes_the_step() -> None:
    model = adapted(TERMS)
    wrap, grads = noted(model)
    stock = MMDistributedDataParallel(model)
    model.next_draws = draws()
    with pytest.raises(ValueError, match=r'DistributedDataParallel does. Set model_wr'):
        stock.train_step(batch(), wrap)
    assert not grads
    expected = adapted(TERMS)
    train(expected, noted(expected)[0])
    ours = AdaptationDistributedDataParallel(adapted(TERMS))
    assert is_model_wrapper(ours)
    wrap, _ = noted(ours.module)
    for t in range(3):
        ours.module.next_draws = draws()
        ours.train_step(batch(t), wrap)
    for mine, other in zip(ours.parameters(), expected.parameters(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.usefixtures('one_process')
def test_our_wrapper_goes_backward_once_where_that_is_enough() -> None:
    ours = AdaptationDistributedDataParallel(adapted([MIX], 'summed'))
    reduced = []
    ours.register_comm_hook(
        None,
        lambda _, bucket: (
            reduced.append(bucket.index())
            or dist.all_reduce(bucket.buffer(), async_op=True)
            .get_future()
            .then(lambda f: f.value()[0])
        ),
    )
    ours.module.next_draws = draws()
    ours.train_step(batch(), noted(ours.module)[0])
    assert reduced
    with pytest.raises(TypeError, match='got a Linear'):
        AdaptationDistributedDataParallel(nn.Linear(1, 1))
