"""The runner of the adaptation operations on variants of the official fixture."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from .fill import make_input, make_uniform
from .fixture import Fixture, NoRunner
from .runners import run
from .variant_helpers import write

CLASSES = 5


def uda(folder, arrays: dict[str, Any], exact: tuple = (), **sections: Any) -> Fixture:
    """A fixture with tolerances in words, as the official one states them."""
    return write(
        folder,
        arrays,
        in_words=True,
        exact=exact,
        tolerance={'masks': 'exact', 'others': 'rtol 1e-5, atol 1e-6'},
        sections=sections,
    )


def names(fixture: Fixture) -> list[str]:
    """Run, compare, and tell what has been compared."""
    return sorted(fixture.compare(run(fixture)))


def _labels(name: str, shape: list[int], top: int = CLASSES) -> Tensor:
    return (make_uniform(name, shape) * (top + 1)).long()


# Losses and entropies


def _loss_arrays() -> tuple[dict[str, Any], Tensor]:
    logits = 2 * make_input('l', [2, CLASSES, 4, 6])
    label = _labels('t', [2, 4, 6])
    label[label == CLASSES] = 255
    weight = make_uniform('w', [2, 4, 6])
    arrays = {'loss.logits': logits, 'loss.label': label, 'loss.weight': weight}
    return arrays, logits.clone().requires_grad_()


def _entropy(logits: Tensor) -> Tensor:
    odds = logits.softmax(1)
    return -(odds * odds.log()).sum(1)


@pytest.mark.parametrize('divisor', [math.log(CLASSES), 2.9444])
def test_charbonnier_with_five_classes(tmp_path, divisor: float) -> None:
    """The constant is that of 19 classes, or it has been changed as the rule asks."""
    arrays, logits = _loss_arrays()
    loss = ((_entropy(logits) / divisor).square() + 1e-8).pow(1.25).mean()
    loss.backward()
    name = 'loss.charbonnier_entropy_fda_eta1.25'
    arrays |= {name: loss.detach(), f'{name}.grad_ch0_3': logits.grad[:, :4]}
    assert names(uda(tmp_path, arrays, losses={})) == [name, f'{name}.grad_ch0_3']


def test_a_wrong_charbonnier_constant_is_seen(tmp_path) -> None:
    arrays, logits = _loss_arrays()
    loss = ((_entropy(logits) / 1.7).square() + 1e-8).square().mean().detach()
    fixture = uda(tmp_path, arrays | {'loss.charbonnier_entropy_fda_eta2.0': loss})
    fixture.meta['sections'] = dict(losses={})
    with pytest.raises(AssertionError, match='charbonnier'):
        names(fixture)


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


def test_an_unknown_section_is_named(tmp_path) -> None:
    arrays = {'advent.logits': np.zeros((1, 2, 1, 1)), 'sampling.order': np.zeros(3)}
    with pytest.raises(NoRunner, match=r"variant.*\['sampling'\]"):
        names(uda(tmp_path, arrays, advent={}, sampling={}))


def test_what_is_not_computed_is_no_expected_failure(tmp_path) -> None:
    logits = make_input('l', [1, CLASSES, 2, 2])
    arrays = {'advent.logits': logits, 'advent.other': np.zeros(1)}
    with pytest.raises(AssertionError, match=re.escape("['advent.other']")):
        names(uda(tmp_path, arrays, advent={}))


def test_tolerances_beside_the_arrays(tmp_path) -> None:
    logits = make_input('l', [1, CLASSES, 4, 6])
    loss = _entropy(logits).mean() / math.log(CLASSES)
    arrays = {'advent.logits': logits, 'advent.minent_loss': loss}
    fixture = write(tmp_path, arrays, sections=dict(advent={}))
    assert 'advent.minent_loss' in names(fixture)


def test_a_section_of_which_nothing_is_recorded(tmp_path) -> None:
    logits = make_input('l', [1, CLASSES, 4, 6])
    loss = _entropy(logits).mean() / math.log(CLASSES)
    arrays = {'advent.logits': logits, 'advent.minent_loss': loss}
    fixture = uda(tmp_path, arrays, advent={}, fdist={}, pseudo=dict(q=0.1))
    assert names(fixture) == ['advent.minent_loss']


# Sections


def test_mixing_without_drawn_classes(tmp_path) -> None:
    label = _labels('t', [3, 1, 4, 6])
    source, target = (make_input(n, [3, 2, 4, 6]) for n in 'st')
    chosen = [[0, 2], [1], [3, 4, 5]]
    mask = torch.stack(
        [sum(x == c for c in own) for x, own in zip(label, chosen, strict=True)]
    )
    arrays = {
        'classmix.src_label': label,
        'classmix.src_img': source,
        'classmix.trg_img': target,
        'classmix.mask': mask.to(torch.uint8),
        'classmix.mixed_img': mask * source + (1 - mask.long()) * target,
    }
    spec = dict(chosen_classes_per_image=chosen)
    fixture = uda(tmp_path, arrays, ('classmix.mask',), classmix=spec)
    assert names(fixture) == ['classmix.mask', 'classmix.mixed_img']


@pytest.mark.parametrize('scope', ['BATCH', 'image'])
def test_classes_drawn(tmp_path, scope: str) -> None:
    label = _labels('t', [2, 1, 4, 6])
    label[0] = label[0].clamp(max=2)
    rng, masks = np.random.RandomState(7), []
    for own in label:
        found = np.unique(label if scope == 'BATCH' else own)
        picked = rng.choice(len(found), (len(found) + 1) // 2, replace=False)
        masks.append(np.isin(own, found[picked]))
    arrays = {'classmix.src_label': label, 'classmix.rng_mask': np.uint8(masks)}
    rule = f'n = number of unique labels of the WHOLE {scope}'
    if scope == 'image':
        rule = 'n = number of unique labels of the image itself'
    drawn = dict(numpy_seed=7, rule=rule)
    fixture = uda(
        tmp_path, arrays, ('classmix.rng_mask',), classmix=dict(rng_mask=drawn)
    )
    assert names(fixture) == ['classmix.rng_mask']


def test_pseudo_labels_of_five_classes(tmp_path) -> None:
    logits = 4 * make_input('l', [3, CLASSES, 12, 8])
    confidence, label = logits.softmax(1).max(1)
    share = (confidence >= 0.9).float().mean()
    weight = torch.full((3, 12, 8), float(share))
    weight[:, :2] = weight[:, -4:] = 0
    full = torch.ones(2, 30, 3)
    full[:, :5] = full[:, -7:] = 0
    arrays = {
        'pseudo.logits': logits,
        'pseudo.label': label,
        'pseudo.weight': weight,
        'pseudo.full_rows_weight': full,
    }
    spec = dict(threshold=0.9, ignore_top=2, ignore_bottom=4)
    text = 'logits: zeros (2,4,30,3) with channel 1 = 6; ignore_top 5, ignore_bottom 7'
    fixture = uda(tmp_path, arrays, pseudo=spec | dict(full_rows_weight=text))
    assert len(names(fixture)) == 3
    fixture.meta['sections']['pseudo']['full_rows_weight'] = 'all rows'
    with pytest.raises(NoRunner, match='full_rows_weight'):
        names(fixture)


@pytest.mark.parametrize('alpha', ['0.9', '0.9995'])
def test_averages_with_another_share(tmp_path, alpha: str) -> None:
    students, teacher = make_input('s', [30, 4]), make_input('t', [4])
    rows, own = [], teacher
    for t, student in enumerate(students):
        share = min(1 - 1 / (t + 1), float(alpha))
        own = share * own + (1 - share) * student
        rows.append(own)
    schedule = [[t, min(1 - 1 / (t + 1), float(alpha))] for t in (0, 3, 7000)]
    arrays = {
        'ema.student_params_per_step': students,
        'ema.teacher_initial': teacher,
        f'ema.teacher_params_alpha{alpha}': torch.stack(rows),
        'ema.alpha_schedule_measured': np.array(schedule),
        'ema.teacher_buffer_after': teacher[1],
    }
    text = f'columns: t, alpha_t with alpha={alpha} (measured)'
    fixture = uda(tmp_path, arrays, ema=dict(alpha_schedule_measured=text))
    assert len(names(fixture)) == 3


def test_rare_classes_beyond_nineteen(tmp_path) -> None:
    images = [{'file': 'a', '0': 50, '30': 10}, {'file': 'b', '30': 5, '4': 35}]
    shares = torch.tensor([15, 35, 50], dtype=torch.float64) / 100
    arrays = {
        'rcs.classes': np.array([30, 4, 0]),
        'rcs.prob_T0.5': torch.softmax((1 - shares) / 0.5, 0).float(),
    }
    spec = dict(sample_class_stats=images, temperatures=[0.5])
    fixture = uda(tmp_path, arrays, ('rcs.classes',), rcs=spec)
    assert names(fixture) == ['rcs.classes', 'rcs.prob_T0.5']


def test_feature_distance_with_another_factor(tmp_path) -> None:
    small = _labels('t', [3, 1, 4, 6]).to(torch.int16)
    small[small == CLASSES] = 255
    # Cells of one label each: a factor of 4 is the stride of the features.
    feats, others = (make_input(n, [3, 8, 4, 6]) for n in 'fi')
    kept = (small == 1) | (small == 3)
    distance = (feats - others).norm(dim=1, keepdim=True)
    arrays = {
        'fdist.label_div4': small,
        'fdist.feat': feats,
        'fdist.feat_imnet': others,
        'fdist.label_rescaled': small.long(),
        'fdist.loss': 0.01 * distance[kept].mean(),
    }
    spec = dict(thing_classes=[1, 3], min_ratio=0.5, num_classes=CLASSES)
    fixture = uda(tmp_path, arrays, fdist=spec | {'lambda': 0.01})
    assert names(fixture) == ['fdist.label_rescaled', 'fdist.loss']


def _centred(source: np.ndarray, target: np.ndarray, band: int) -> np.ndarray:
    own, other = (
        np.fft.fftshift(np.fft.fft2(x), axes=(-2, -1)) for x in (source, target)
    )
    amplitude, other = np.abs(own), np.abs(other)
    y, x = (side // 2 for side in source.shape[-2:])
    low = (..., slice(y - band, y + band + 1), slice(x - band, x + band + 1))
    amplitude[low] = other[low]
    mixed = amplitude * np.exp(1j * np.angle(own))
    return np.real(np.fft.ifft2(np.fft.ifftshift(mixed, axes=(-2, -1))))


@pytest.mark.parametrize('batched', [False, True])
def test_spectra_of_a_batch(tmp_path, batched: bool) -> None:
    shape = [3 if batched else 1, 3, 21, 32]
    source, target = (255 * make_uniform(n, shape) for n in 'st')
    value = _centred(source.double().numpy(), target.double().numpy(), 2)
    name = 'fda.centered_beta0.1'
    arrays = {'fda.src': source, 'fda.trg': target}
    fixture = uda(tmp_path, arrays | {name: value if batched else value[0]}, fda={})
    assert names(fixture) == [name]


@pytest.mark.parametrize('ratio', [0.3, 0.7])
def test_masks_with_another_ratio(tmp_path, ratio: float) -> None:
    uniform = make_uniform('u', [1, 1, 3, 2])
    mask = (uniform > ratio).repeat_interleave(16, 2).repeat_interleave(16, 3)
    arrays = {'mic.z.uniform': uniform, 'mic.z.mask': mask.to(torch.uint8)}
    spec = dict(z=dict(H=48, W=32, block=16, grid=[3, 2]))
    spec['rule'] = f'keep where uniform > {ratio}; nearest resize'
    fixture = uda(tmp_path, arrays, ('mic.z.mask',), mic=spec)
    assert names(fixture) == ['mic.z.mask']
