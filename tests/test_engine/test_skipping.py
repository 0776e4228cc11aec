from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper
from torch import Tensor, nn

from mmseg_xmodal.models.layers.task_batch import TaskBatch, connected_zero, guard
from mmseg_xmodal.registry import OPTIM_WRAPPERS


def build(model: nn.Module, name: str = 'SkippingOptimWrapper', **kwargs: Any) -> Any:
    """Momentum and weight decay: a step on a zero gradient moves parameters."""
    optimizer = torch.optim.SGD(
        model.parameters(), 0.1, momentum=0.9, weight_decay=0.01
    )
    cfg = dict(type=f'mmseg_xmodal.{name}', optimizer=optimizer, **kwargs)
    return OPTIM_WRAPPERS.build(cfg)


def scalar(model: nn.Module, skip: bool, value: float = 1.0) -> Tensor:
    """What a multi-task model returns for a batch."""
    zero = connected_zero(model)
    total: Any = zero if skip else (model(torch.full((2, 3), value)).sum() + zero)
    batch = TaskBatch(skip=skip)
    total = guard(total, batch)
    total.multitask = batch
    return total


def run(skips: list[bool], **kwargs: Any) -> list[Tensor]:
    """Weights after each batch."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    wrapper = build(model, **kwargs)
    seen = []
    for i, skip in enumerate(skips):
        wrapper.update_params(scalar(model, skip, 1.0 + i))
        seen.append(model.weight.detach().clone())
    return seen


def test_a_skipped_batch_moves_nothing():
    first, second, third = run([False, True, False])
    assert torch.equal(first, second)
    assert not torch.equal(second, third)
    # As if the skipped batch had not been there.
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    plain = OptimWrapper(
        torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    )
    for value in (1.0, 3.0):
        plain.update_params(model(torch.full((2, 3), value)).sum())
    assert torch.equal(model.weight, third)


def test_accumulation_leaves_out_the_batch_and_keeps_the_others():
    skips = [False, True, True, True, True, False]
    weights = run(skips, accumulative_counts=2)
    # The first pair steps on half the first batch's gradient, as on a zero in the
    # second; the pair of skipped batches leaves the step out; the third one steps.
    start = run([True])[0]
    grad = torch.full((1, 3), 2.0)  # of a sum over two rows of ones
    torch.testing.assert_close(weights[1], start - 0.1 * (grad / 2 + 0.01 * start))
    assert torch.equal(weights[0], start)
    assert torch.equal(weights[3], weights[1])
    assert not torch.equal(weights[5], weights[3])


def test_losses_of_other_models_and_direct_steps_are_stock():
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    wrapper = build(model)
    before = model.weight.detach().clone()
    wrapper.update_params(model(torch.ones(2, 3)).sum())
    middle = model.weight.detach().clone()
    assert not torch.equal(before, middle)
    model(torch.ones(2, 3)).sum().backward()
    wrapper.step()
    assert not torch.equal(middle, model.weight)


def test_an_unaware_wrapper_fails_before_its_step():
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    before = model.weight.detach().clone()
    plain = OptimWrapper(torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.01))
    for skip in (True, False):
        with pytest.raises(
            ValueError, match="type='mmseg_xmodal.SkippingOptimWrapper'"
        ):
            plain.update_params(scalar(model, skip))
    assert torch.equal(model.weight, before)


def test_mixed_precision_form(monkeypatch):
    # mmengine wants a GPU to build it; and its scaler wants one too.
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    weights = run(
        [False, True], name='SkippingAmpOptimWrapper', loss_scale=dict(enabled=False)
    )
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], run([False])[0])


def test_note_reads_and_acknowledges():
    wrapper = build(nn.Linear(3, 1))
    for skip in (True, False):
        batch = TaskBatch(skip=skip)
        assert wrapper.note(SimpleNamespace(multitask=batch)) is skip
        assert batch.acknowledged
    assert wrapper.note(torch.zeros(())) is False
