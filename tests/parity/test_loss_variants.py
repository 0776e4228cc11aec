"""The runner of the adaptation operations: losses, entropies, and what is unknown."""

from __future__ import annotations

import functools
import math
import re
from typing import Any

import numpy as np
import pytest
import torch.nn.functional as F
from torch import Tensor

from .fill import make_input, make_uniform
from .fixture import NoRunner
from .make_fixtures import compared, make_labels, uda, write_fixture
from .runners.uda_ops import INPUTS

CLASSES = 5
names = functools.partial(compared, inputs=INPUTS)


def _loss_arrays(classes: int = CLASSES) -> tuple[dict[str, Any], Tensor]:
    logits = 2 * make_input('l', [2, classes, 4, 6])
    label = make_labels('t', [2, 4, 6])
    label[label == CLASSES] = 255
    weight = make_uniform('w', [2, 4, 6])
    arrays = {'loss.logits': logits, 'loss.label': label, 'loss.weight': weight}
    return arrays, logits.clone().requires_grad_()


def _entropy(logits: Tensor) -> Tensor:
    odds = logits.softmax(1)
    return -(odds * odds.log()).sum(1)


CHARBONNIER = 'loss.charbonnier_entropy_fda_eta1.25'


def _charbonnier(
    classes: int, divisor: float, stated: float | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arrays with a loss of this divisor, and a section that states another."""
    arrays, logits = _loss_arrays(classes)
    loss = ((_entropy(logits) / divisor).square() + 1e-8).pow(1.25).mean()
    loss.backward()
    assert logits.grad is not None
    arrays[CHARBONNIER] = loss.detach()
    arrays[f'{CHARBONNIER}.grad_ch0_3'] = logits.grad[:, :4]
    rule = f'((entropy/{stated})^2 + 1e-8)^eta, mean over pixels'
    return arrays, dict(rules=dict(charbonnier=rule)) if stated else {}


@pytest.mark.parametrize(
    ('classes', 'divisor', 'stated'),
    [
        (CLASSES, math.log(CLASSES), math.log(CLASSES)),
        (CLASSES, 2.9444, 2.9444),
        (CLASSES, 3, 3),
        # The constant of the official code.
        (19, 2.9444, None),
    ],
)
def test_charbonnier(tmp_path, classes: int, divisor: float, stated) -> None:
    arrays, section = _charbonnier(classes, divisor, stated)
    expected = [CHARBONNIER, f'{CHARBONNIER}.grad_ch0_3']
    assert names(uda(tmp_path, arrays, losses=section)) == expected
    # Nothing is read from what is recorded.
    del arrays[CHARBONNIER]
    assert names(uda(tmp_path, arrays, losses=section)) == expected[1:]


@pytest.mark.parametrize('divisor', [math.log(CLASSES), 1.7])
def test_another_charbonnier_constant_than_stated_is_seen(tmp_path, divisor) -> None:
    arrays, section = _charbonnier(CLASSES, divisor, 2.9444)
    with pytest.raises(AssertionError, match='charbonnier'):
        names(uda(tmp_path, arrays, losses=section))


def test_a_charbonnier_constant_that_is_not_stated_is_named(tmp_path) -> None:
    arrays, section = _charbonnier(CLASSES, 2.9444)
    with pytest.raises(NoRunner, match='variant.*Charbonnier loss of 5 classes'):
        names(uda(tmp_path, arrays, losses=section))


def test_one_loss_without_its_gradient(tmp_path) -> None:
    arrays, logits = _loss_arrays()
    each = F.cross_entropy(
        logits, arrays['loss.label'], ignore_index=255, reduction='none'
    )
    arrays['loss.ce_all_weighted_mic'] = (each * arrays['loss.weight']).mean().detach()
    fixture = uda(tmp_path, arrays, losses={})
    assert names(fixture) == ['loss.ce_all_weighted_mic']


def test_gradients_of_other_channels(tmp_path) -> None:
    arrays, logits = _loss_arrays()
    F.cross_entropy(logits, arrays['loss.label'], ignore_index=255).backward()
    arrays['loss.ce_valid_dacs.grad_ch0_1'] = logits.grad[:, :2]
    assert names(uda(tmp_path, arrays, losses={})) == ['loss.ce_valid_dacs.grad_ch0_1']


def test_an_unknown_loss_is_named(tmp_path) -> None:
    arrays, _ = _loss_arrays()
    arrays |= {'loss.lovasz': np.zeros(()), 'loss.lovasz.grad_ch0_3': np.zeros(1)}
    with pytest.raises(NoRunner, match='variant.*lovasz'):
        names(uda(tmp_path, arrays, losses={}))


def test_advent_alone(tmp_path) -> None:
    logits = make_input('l', [1, CLASSES, 4, 6]).requires_grad_()
    loss = _entropy(logits).mean() / math.log(CLASSES)
    arrays = {'advent.logits': logits, 'advent.minent_loss': loss}
    arrays = {name: value.detach() for name, value in arrays.items()}
    assert names(uda(tmp_path, arrays, advent={})) == ['advent.minent_loss']


# Whole fixtures


def _advent() -> dict[str, Tensor]:
    logits = make_input('l', [1, CLASSES, 4, 6])
    loss = _entropy(logits).mean() / math.log(CLASSES)
    return {'advent.logits': logits, 'advent.minent_loss': loss}


@pytest.mark.parametrize(
    ('sections', 'others', 'name'),
    [
        (dict(sampling={}), {'sampling.order': np.zeros(3)}, r"\['sampling'\]"),
        (dict(sampling={}), {}, r"\['sampling'\]"),
        (
            dict(losses={}),
            {'loss.logits': np.zeros((1, 2, 1, 1)), 'loss.lovasz': np.zeros(())},
            'lovasz',
        ),
    ],
)
def test_what_is_unknown_is_named_and_hides_nothing(
    tmp_path, sections: dict, others: dict, name: str
) -> None:
    arrays = _advent() | others
    with pytest.raises(NoRunner, match=f'variant.*{name}'):
        names(uda(tmp_path, arrays, advent={}, **sections))
    arrays['advent.minent_loss'] = arrays['advent.minent_loss'] + 1e-3
    with pytest.raises(AssertionError, match='advent.minent_loss'):
        names(uda(tmp_path, arrays, advent={}, **sections))


def test_what_is_not_computed_is_no_expected_failure(tmp_path) -> None:
    logits = make_input('l', [1, CLASSES, 2, 2])
    arrays = {'advent.logits': logits, 'advent.other': np.zeros(1)}
    with pytest.raises(AssertionError, match=re.escape("['advent.other']")):
        names(uda(tmp_path, arrays, advent={}))


def test_tolerances_beside_the_arrays(tmp_path) -> None:
    fixture = write_fixture(tmp_path, _advent(), sections=dict(advent={}))
    assert 'advent.minent_loss' in names(fixture)


def test_a_section_of_which_nothing_is_recorded(tmp_path) -> None:
    fixture = uda(tmp_path, _advent(), advent={}, fdist={}, pseudo=dict(q=0.1))
    assert names(fixture) == ['advent.minent_loss']
