"""Losses that are no numbers, and batches without labels."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
from mmengine.optim import OptimWrapper

from mmseg_xmodal.engine.optimizers import SkippingOptimWrapper
from mmseg_xmodal.models.segmentors import multitask_losses

from .multitask_toys import step, toy_inputs, toy_model, toy_samples


def poison(model: Any, value: float = float('nan')) -> None:
    """Let the loss of the task ``height`` be no number."""
    with torch.no_grad():
        model.task_heads.height.conv.bias.fill_(value)


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_a_bad_loss_is_raised_with_its_samples(value):
    model = toy_model()
    poison(model, value)
    samples = toy_samples(3)
    del samples[1].gt_height
    with pytest.raises(ValueError, match='expected a finite number') as caught:
        step(model, samples)
    text = str(caught.value)
    assert f"loss of task 'height' is {value} (height.loss_square={value})" in text
    assert "on ['0.png', '2.png']" in text
    assert "on_bad_loss='skip'" in text
    assert "task 'seg'" not in text


def test_no_labels_at_all_is_raised():
    fields = ['gt_sem_seg', 'gt_height', 'gt_cover', 'gt_instances']
    with pytest.raises(ValueError, match='has labels in the batch') as caught:
        step(toy_model(), toy_samples(without=fields))
    assert "['seg', 'height', 'cover', 'det']" in str(caught.value)
    assert "['0.png', '1.png']" in str(caught.value)


def optimised(model: Any, wrapper: type = SkippingOptimWrapper, **kwargs: Any) -> Any:
    """AdamW with weight decay: it moves parameters of zero gradient as well."""
    return wrapper(
        torch.optim.AdamW(model.parameters(), 0.01, weight_decay=0.1), **kwargs
    )


def batch() -> dict:
    return dict(inputs=toy_inputs(), data_samples=toy_samples())


@pytest.mark.parametrize('cause', ['nan', 'image', 'unlabelled'])
def test_a_bad_step_is_skipped_with_one_warning(monkeypatch, cause):
    warned = []
    monkeypatch.setattr(
        multitask_losses,
        'print_log',
        lambda text, logger, level: warned.append((text, level)),
    )
    model = toy_model(on_bad_loss='skip')
    wrapper = optimised(model)
    model.train_step(batch(), wrapper)
    assert warned == []
    if cause == 'nan':
        poison(model)
    before = copy.deepcopy(model.state_dict())
    state = copy.deepcopy(wrapper.state_dict())
    data = batch()
    if cause == 'unlabelled':
        fields = ['gt_sem_seg', 'gt_height', 'gt_cover', 'gt_instances']
        data['data_samples'] = toy_samples(without=fields)
    if cause == 'image':
        data['inputs'][0, 0, 0, 0] = float('nan')
    logged = model.train_step(data, wrapper)
    ((text, level),) = warned
    assert level == logging.WARNING
    assert text.startswith('This step is skipped.')
    assert "'0.png', '1.png'" in text
    assert all(value.isfinite() for value in logged.values())
    after = model.state_dict()
    # Running statistics too: a NaN among them would stay.
    assert any('running_mean' in name for name in before)
    for name, value in before.items():
        torch.testing.assert_close(
            after[name], value, rtol=0, atol=0, equal_nan=True, msg=name
        )
    torch.testing.assert_close(wrapper.state_dict(), state, rtol=0, atol=0)


def test_training_goes_on_after_a_skipped_step():
    model = toy_model(on_bad_loss='skip')
    wrapper = optimised(model)
    poison(model)
    model.train_step(batch(), wrapper)
    poison(model, 0.0)
    before = model.backbone.stages[0].norm.weight.clone()
    model.train_step(batch(), wrapper)
    assert not torch.equal(model.backbone.stages[0].norm.weight, before)


def test_a_wrapper_that_would_step_is_refused_at_the_first_step():
    model = toy_model(on_bad_loss='skip')
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match='SkippingOptimWrapper'):
        model.train_step(batch(), optimised(model, OptimWrapper))
    named = dict(model.named_parameters())
    assert all(torch.equal(p, before[name]) for name, p in named.items())


def test_a_balancer_that_spoils_a_loss_is_found():
    balancer = dict(type='mmseg_xmodal.ToyBalancer', factor=float('inf'))
    with pytest.raises(ValueError, match="loss of task 'seg' is inf"):
        step(toy_model(balancer=balancer))
