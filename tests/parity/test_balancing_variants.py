"""The runner of loss balancing on variants of the official fixture."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from .fixture import Fixture, NoRunner, all_fixtures
from .make_fixtures import LIBMTL, compared, write_fixture
from .runners import run
from .runners.mtl_balancing import INPUTS, pcgrad
from .runners.mtl_case import cases
from .runners.sections import load

# Task 0, after it has been projected against 1 and 2, points against itself.
TURNED = torch.tensor([[1.0, -2.0], [0.0, 1.0], [-1.0, 1.0]])
ORDERS = [[1, 2, 0], [2, 0, 1], [0, 1, 2]]
LOSSES = torch.tensor([2.0, 0.5, 1.25])


def made(folder, arrays: dict[str, Any], **settings: Any) -> Fixture:
    words = dict(tolerance='rtol 1e-4, atol 1e-5 unless a section says otherwise')
    return write_fixture(
        folder, arrays, LIBMTL, in_words=True, settings=settings, **words
    )


names = functools.partial(compared, inputs=INPUTS)


def project(grads: Tensor, orders: list, own: bool) -> Tensor:
    """PCGrad on explicit vectors; also against the gradient itself, or not."""
    update = torch.zeros_like(grads[0])
    for i, order in enumerate(orders):
        g = grads[i].clone()
        for j in order:
            if (own or j != i) and g @ grads[j] < 0:
                g -= g @ grads[j] / grads[j].square().sum() * grads[j]
        update += g
    return update


def test_pcgrad_as_libmtl_runs_it(tmp_path) -> None:
    combined = project(TURNED, ORDERS, own=True)
    assert not torch.allclose(combined, project(TURNED, ORDERS, own=False))
    name = 'PCGrad.turned.combined_grad'
    arrays = dict(grads=TURNED, losses=LOSSES) | {name: combined}
    fixture = made(tmp_path, arrays, PCGrad=dict(orders=dict(turned=ORDERS)))
    assert names(fixture) == [name]


def test_pcgrad_by_default_on_the_official_numbers() -> None:
    """What LibMTL does otherwise never acts on these gradients, their fixture says."""
    fixture = next(f for f in all_fixtures() if f.name == 'mtl_balancing')
    assert 'never fires here' in fixture.meta['settings']['PCGrad']['order']
    outputs, arrays = run(fixture), load(fixture)
    found = 0
    for case in cases(arrays, fixture.meta['settings']):
        for name, value in pcgrad(case, others_only=True).items():
            outputs[case.prefix + name] = value.to(arrays[case.prefix + name].dtype)
            found += 1
    assert found == 12
    fixture.compare(outputs)


@pytest.mark.parametrize('kind', ['list', 'dict', 'number'])
def test_uncertainty_by_task(tmp_path, kind: str) -> None:
    init = [0.3, -0.2, 0.5] if kind != 'number' else [0.4] * 3
    s = torch.tensor(init, requires_grad=True)
    total = (s.neg().exp() / 2 * LOSSES + s / 2).sum()
    total.backward()
    weights = (s.neg().exp() / 2).detach()
    arrays = {
        'grads': TURNED,
        'losses': LOSSES,
        'UW.weights': weights,
        'UW.combined_grad': weights @ TURNED,
        'UW.grad_log_var': s.grad,
    }
    stated: Any = dict(list=init, dict=dict(zip('abc', init, strict=True)))
    stated = stated.get(kind, init[0])
    fixture = made(tmp_path, arrays, UW=dict(log_var_init=stated))
    assert len(names(fixture)) == 3


def test_one_output_of_uncertainty(tmp_path) -> None:
    arrays = {'grads': TURNED, 'losses': LOSSES, 'UW.combined_grad': TURNED.sum(0) / 2}
    fixture = made(tmp_path, arrays, UW=dict(log_var_init=0.0))
    assert names(fixture) == ['UW.combined_grad']


def test_four_tasks_with_losses_of_their_sets(tmp_path) -> None:
    grads = torch.from_numpy(np.random.RandomState(0).randn(4, 5)).float()
    # Parallel: the shortest one, divided by its loss, has all the weight.
    parallel = torch.eye(1, 5) * torch.tensor([[4.0], [9.0], [5.0], [0.5]])
    own = torch.tensor([0.5, 3.0, 1.0, 0.25])
    arrays = {
        'grads': TURNED,
        'losses': LOSSES,
        'C.grads': grads,
        'C.losses': own,
        'C.GLS.combined_grad': own.prod() ** 0.25 / 4 / own @ grads,
        'D.grads': parallel,
        'D.losses': own,
        'D.MGDA.loss.weights': torch.tensor([0.0, 0.0, 0.0, 1.0]),
    }
    assert names(made(tmp_path, arrays)) == [
        'C.GLS.combined_grad',
        'D.MGDA.loss.weights',
    ]


def test_settings_and_histories_of_a_set(tmp_path) -> None:
    history = torch.tensor([[2.0, 1.0], [3.0, 3.0], [1.0, 0.8]])
    ratio = history[:, 1] / history[:, 0]
    weights = 3 * torch.softmax(ratio / 1.5, 0)
    arrays = {
        'B.grads': TURNED,
        'B.losses': LOSSES,
        'B.DWA.loss_history': history,
        'B.DWA.weights_epoch2': weights,
        'B.DWA.combined_grad_epoch2': weights @ TURNED,
    }
    fixture = made(tmp_path, arrays, B=dict(DWA=dict(T=1.5)))
    assert names(fixture) == ['B.DWA.combined_grad_epoch2', 'B.DWA.weights_epoch2']


def test_geometric_mean(tmp_path) -> None:
    """What LibMTL logs as weights, and is recorded, is not what it uses."""
    weights = LOSSES.prod() ** (1 / 3) / 3 / LOSSES
    arrays = {
        'grads': TURNED,
        'losses': LOSSES,
        'GLS.combined_grad': weights @ TURNED,
        'GLS.weights': LOSSES / (3 * LOSSES.prod()),
    }
    assert len(names(made(tmp_path, arrays))) == 2
    for wrong in (1.01 * arrays['GLS.weights'], weights):
        with pytest.raises(AssertionError, match='weights'):
            names(made(tmp_path, arrays | {'GLS.weights': wrong}))


def test_equal_weights(tmp_path) -> None:
    arrays = {'grads': TURNED, 'losses': LOSSES, 'EW.weights': torch.ones(3)}
    arrays['EW.combined_grad'] = TURNED.sum(0)
    assert names(made(tmp_path, arrays)) == ['EW.combined_grad', 'EW.weights']


def test_upgrad(tmp_path) -> None:
    """Two gradients: each loses what points against the other."""
    grads = torch.tensor([[1.0, 0.0], [-3.0, 4.0]], dtype=torch.float64)
    added = -grads[0] @ grads[1] / grads.square().sum(1)
    weights = (1 + added) / 2
    losses = torch.ones(2)
    arrays = {'grads': grads.float(), 'losses': losses, 'UPGrad.weights': weights}
    arrays['UPGrad.combined_grad'] = (weights @ grads).float()
    fixture = made(tmp_path, arrays, UPGrad=dict(UPGrad_reg_eps=0.0))
    assert names(fixture) == ['UPGrad.combined_grad', 'UPGrad.weights']


@pytest.mark.parametrize('prefix', ['', 'B.'])
def test_methods_without_a_runner_are_named(tmp_path, prefix: str) -> None:
    arrays = {f'{prefix}grads': TURNED, 'losses': LOSSES}
    arrays[f'{prefix}Nash_MTL.weights'] = LOSSES
    _named_and_hides_nothing(tmp_path, arrays, prefix, r"variant.*\['Nash_MTL'\]")


@pytest.mark.parametrize('prefix', ['', 'B.'])
def test_upgrad_without_what_was_added_is_named(tmp_path, prefix: str) -> None:
    arrays = {f'{prefix}grads': TURNED, 'losses': LOSSES}
    arrays[f'{prefix}UPGrad.weights'] = LOSSES
    _named_and_hides_nothing(tmp_path, arrays, prefix, 'variant.*UPGrad_reg_eps')


def _named_and_hides_nothing(folder, arrays: dict, prefix: str, reason: str) -> None:
    with pytest.raises(NoRunner, match=reason):
        names(made(folder, arrays))
    arrays = arrays | {f'{prefix}EW.weights': torch.ones(3)}
    with pytest.raises(NoRunner, match=reason):
        names(made(folder, arrays))
    arrays[f'{prefix}EW.weights'] = torch.tensor([1.0, 1.0, 1.01])
    with pytest.raises(AssertionError, match='EW.weights'):
        names(made(folder, arrays))


def test_an_unknown_output_is_no_expected_failure(tmp_path) -> None:
    arrays = {'grads': TURNED, 'losses': LOSSES, 'EW.other': torch.ones(3)}
    with pytest.raises(AssertionError, match=r'EW\.other'):
        names(made(tmp_path, arrays))


# Delta_m


def _one(**more: Any) -> dict[str, Any]:
    single = dict(seg=dict(mIoU=50.0), depth=dict(absrel=0.2), edge=dict(odsF=0.5))
    multi = dict(seg=dict(mIoU=55.0), depth=dict(absrel=0.1), edge=dict(odsF=0.6))
    return dict(single=single, multi=multi) | more


def test_delta_m_with_further_errors(tmp_path) -> None:
    name = 'delta_m.one_metric_per_task'
    arrays = {name: np.array((0.1 + 0.5 + 0.2) / 3)}
    fixture = made(tmp_path, arrays, delta_m=dict(one_metric_per_task=_one()))
    assert names(fixture) == [name]


@pytest.mark.parametrize(
    'higher', [[1, 0, 1], [[1], [0], [1]], [dict(mIoU=1), dict(absrel=0), dict(odsF=1)]]
)
def test_delta_m_in_the_stated_direction(tmp_path, higher: list) -> None:
    name = 'delta_m.one_metric_per_task'
    one = _one(higher_better=dict(zip(('seg', 'depth', 'edge'), higher, strict=True)))
    arrays = {name: np.array((0.1 + 0.5 + 0.2) / 3)}
    assert names(made(tmp_path, arrays, delta_m=dict(one_metric_per_task=one)))
    # What is stated counts, whatever the name says.
    one['higher_better']['depth'] = 1
    arrays = {name: np.array((0.1 - 0.5 + 0.2) / 3)}
    assert names(made(tmp_path, arrays, delta_m=dict(one_metric_per_task=one)))


def test_a_metric_without_a_direction_is_named(tmp_path) -> None:
    one = _one()
    for table in (one['single'], one['multi']):
        table['depth'] = dict(fancy=1.0)
    arrays = {'delta_m.one_metric_per_task': np.array(0.1)}
    with pytest.raises(NoRunner, match='variant.*fancy'):
        names(made(tmp_path, arrays, delta_m=dict(one_metric_per_task=one)))
    # The other grouping is compared all the same.
    rows = dict(base=dict(a=[2.0]), new=dict(a=[3.0]), higher_better=dict(a=[1]))
    spec = dict(one_metric_per_task=one, **rows)
    arrays['delta_m.libmtl'] = np.array(0.5)
    with pytest.raises(NoRunner, match='variant.*fancy'):
        names(made(tmp_path, arrays, delta_m=spec))
    arrays['delta_m.libmtl'] = np.array(0.51)
    with pytest.raises(AssertionError, match='libmtl'):
        names(made(tmp_path, arrays, delta_m=spec))


def test_famo_from_its_second_step(tmp_path) -> None:
    """Steps before the first one that is recorded are run."""
    before = torch.tensor([[2.0, 1.0, 3.0], [1.5, 1.0, 2.5]])
    after = torch.tensor([[1.8, 0.7, 2.9], [1.4, 0.9, 2.4]])
    logits = torch.zeros(3, requires_grad=True)
    delta = before[0].log() - after[0].log()
    (torch.softmax(logits, 0) @ delta).backward()
    moved = -0.025 * logits.grad.sign()  # Adam's first step
    arrays = {
        'grads': TURNED,
        'losses': LOSSES,
        'FAMO.losses_before': before,
        'FAMO.losses_after': after,
        'FAMO.step1.z_used': torch.softmax(moved, 0),
    }
    fixture = made(tmp_path, arrays, FAMO=dict(lr=0.025, weight_decay=0.0))
    assert names(fixture) == ['FAMO.step1.z_used']
    assert math.isclose(float(arrays['FAMO.step1.z_used'].sum()), 1, rel_tol=1e-6)
