"""The runner of the adaptation operations on variants of the official fixture."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import Tensor

from .fill import make_input, make_uniform
from .fixture import NoRunner
from .make_fixtures import compared, make_labels, uda
from .runners.uda_ops import INPUTS

CLASSES = 5
names = functools.partial(compared, inputs=INPUTS)


def test_mixing_without_drawn_classes(tmp_path) -> None:
    label = make_labels('t', [3, 1, 4, 6])
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
    label = make_labels('t', [2, 1, 4, 6])
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


def _averages(students: Tensor, teacher: Tensor, alpha: float) -> Tensor:
    rows, own = [], teacher
    for t, student in enumerate(students):
        share = min(1 - 1 / (t + 1), alpha)
        own = share * own + (1 - share) * student
        rows.append(own)
    return torch.stack(rows)


@pytest.mark.parametrize('alpha', ['0.9', '0.9995'])
def test_averages_with_another_share(tmp_path, alpha: str) -> None:
    students, teacher = make_input('s', [30, 4]), make_input('t', [4])
    schedule = [[t, min(1 - 1 / (t + 1), float(alpha))] for t in (0, 3, 7000)]
    arrays = {
        'ema.student_params_per_step': students,
        'ema.teacher_initial': teacher,
        f'ema.teacher_params_alpha{alpha}': _averages(students, teacher, float(alpha)),
        'ema.alpha_schedule_measured': np.array(schedule),
        'ema.teacher_buffer_after': teacher[1],
    }
    text = f'columns: t, alpha_t with alpha={alpha} (measured)'
    fixture = uda(tmp_path, arrays, ema=dict(alpha_schedule_measured=text))
    assert len(names(fixture)) == 3


@pytest.mark.parametrize('alpha', [0.9, None])
def test_average_of_dacs_with_the_stated_share(tmp_path, alpha: float | None) -> None:
    students, teacher = make_input('s', [30, 4]), make_input('t', [4])
    arrays = {
        'ema.student_params_per_step': students,
        'ema.teacher_initial': teacher,
        'ema.dacs_teacher_params': _averages(students, teacher, alpha or 0.99),
    }
    quirk = f'dacs_teacher_params from the DACS repo function with alpha {alpha}'
    fixture = uda(tmp_path, arrays, ema=dict(quirks=[quirk] if alpha else []))
    if alpha:
        assert names(fixture) == ['ema.dacs_teacher_params']
        return
    with pytest.raises(NoRunner, match="variant/ema.*'quirks'"):
        names(fixture)


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
    small = make_labels('t', [3, 1, 4, 6]).to(torch.int16)
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
