"""Operations of domain adaptation against MIC, DACS, ADVENT and FDA."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.structures import PixelData
from mmseg.models.decode_heads import FCNHead
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmseg_xmodal.datasets.samplers.rare_class import rare_class_probabilities
from mmseg_xmodal.models.adaptation import class_mix as mixing
from mmseg_xmodal.models.adaptation import (
    ema,
    entropy,
    feature_anchor,
    fourier,
    masked_consistency,
)
from mmseg_xmodal.models.layers.pixel_weights import pixel_weights
from mmseg_xmodal.models.layers.pseudo_labels import PseudoLabelRule, confident_share

from ..fixture import Fixture

# Arrays that are given.
INPUTS = (
    r'classmix\.(src_img|trg_img|src_label|pseudo_label|pseudo_weight)|'
    r'pseudo\.(logits|valid_mask)|ema\.(student_params_per_step|teacher_initial)|'
    r'fdist\.(label_div8|feat|feat_imnet)|advent\.logits|fda\.(src|trg)|'
    r'mic\.\w+\.uniform|loss\.(logits|label|weight)'
)
Arrays = Mapping[str, Tensor]


class Case(NamedTuple):
    """The arrays of the fixture, and one section of its settings."""

    arrays: Arrays
    spec: Mapping[str, Any]

    def like(self, pattern: str) -> list[tuple[str, ...]]:
        matches = (re.fullmatch(pattern, name) for name in self.arrays)
        return [match.groups() for match in matches if match]


def run_uda_ops(fixture: Fixture) -> dict[str, Tensor]:
    """Compute every output that the fixture holds."""
    arrays = {name: torch.from_numpy(a) for name, a in fixture.arrays().items()}
    outputs: dict[str, Tensor] = {}
    for section, compute in SECTIONS.items():
        if section in fixture.meta['sections']:
            outputs |= compute(Case(arrays, fixture.meta['sections'][section]))
    outputs = {k: v.detach().to(arrays[k].dtype) for k, v in outputs.items()}
    left = {n for n in arrays if not re.fullmatch(INPUTS, n)} ^ set(outputs)
    assert not left, f'recorded and not computed, or the reverse: {sorted(left)}'
    return outputs


def _classmix(case: Case) -> dict[str, Tensor]:
    own = {k.removeprefix('classmix.'): v for k, v in case.arrays.items()}
    truth = own['src_label']
    assert truth.unique().tolist() == case.spec['unique_of_batch']
    mask = mixing.class_mask(truth, case.spec['chosen_classes_per_image'])
    drawn = case.spec['rng_mask']
    rng = np.random.RandomState(drawn['numpy_seed'])
    classes = mixing.choose_classes(truth, 'batch', rng)
    assert [c.tolist() for c in classes] == drawn['chosen_classes_per_image']
    label, weight = own['pseudo_label'][:, None], own['pseudo_weight'][:, None]
    ones = torch.ones_like(weight)
    return {
        'classmix.mask': mask,
        'classmix.dacs_mask': mask[:, 0],
        'classmix.rng_mask': mixing.class_mask(truth, classes),
        'classmix.mixed_img': mixing.class_mix(mask, own['src_img'], own['trg_img']),
        'classmix.mixed_label': mixing.class_mix(mask, truth, label),
        'classmix.mixed_weight': mixing.class_mix(mask, ones, weight),
    }


def _pseudo(case: Case) -> dict[str, Tensor]:
    logits, valid = case.arrays['pseudo.logits'], case.arrays['pseudo.valid_mask']
    threshold = case.spec['threshold']
    rows = dict(
        ignore_top=case.spec['ignore_top'], ignore_bottom=case.spec['ignore_bottom']
    )
    with_rows = PseudoLabelRule(threshold, **rows)(logits)
    plain = PseudoLabelRule(threshold)(logits)
    share = confident_share(logits.softmax(1).amax(1), threshold)
    torch.testing.assert_close(share, torch.tensor(case.spec['q']))
    full = torch.zeros(1, 3, 140, 2)
    full[:, 0] = 4.5
    tall = PseudoLabelRule(threshold, ignore_top=15, ignore_bottom=120)
    return {
        'pseudo.label': with_rows.label,
        'pseudo.weight_before_rows': plain.weight,
        'pseudo.weight': with_rows.weight,
        'pseudo.weight_valid_mask': PseudoLabelRule(threshold)(
            logits, valid[:, 0]
        ).weight,
        'pseudo.full_rows_weight': tall(full).weight,
    }


class _Numbers(nn.Module):
    """Parameters in two parts, and a buffer."""

    def __init__(self, values: Tensor, buffer: Tensor) -> None:
        super().__init__()
        self.a = nn.Parameter(values[:2].clone())
        self.b = nn.Parameter(values[2:].clone())
        self.register_buffer('c', buffer.clone())

    def row(self) -> Tensor:
        return torch.cat([self.a, self.b]).detach().clone()


def _ema(case: Case) -> dict[str, Tensor]:
    first = case.arrays['ema.teacher_initial']
    outputs = {}
    names = {f'teacher_params_alpha{a}': float(a) for a in (0.99, 0.999)}
    for name, momentum in (names | {'dacs_teacher_params': 0.99}).items():
        teacher = _Numbers(first, first[1])
        rows = []
        for t, row in enumerate(case.arrays['ema.student_params_per_step']):
            student = _Numbers(row, first[1] + 1)
            ema.ema_update(teacher, student, ema.ema_alpha(t, momentum))
            rows.append(teacher.row())
        outputs[f'ema.{name}'] = torch.stack(rows)
        outputs['ema.teacher_buffer_after'] = teacher.c
    schedule = [
        [t, ema.ema_alpha(int(t), 0.99), ema.ema_alpha(int(t), 0.999)]
        for t in case.arrays['ema.alpha_schedule_measured'][:, 0].tolist()
    ]
    outputs['ema.alpha_schedule_measured'] = torch.tensor(schedule)
    return outputs


def _rcs(case: Case) -> dict[str, Tensor]:
    counts = np.zeros(19, np.int64)
    for image in case.spec['sample_class_stats']:
        for key, pixels in image.items():
            if key != 'file':
                counts[int(key)] += pixels
    outputs = {}
    for temperature in case.spec['temperatures']:
        classes, odds = rare_class_probabilities(counts, temperature)
        outputs['rcs.classes'] = torch.from_numpy(classes)
        outputs[f'rcs.prob_T{temperature}'] = torch.from_numpy(odds)
    return outputs


def _fdist(case: Case) -> dict[str, Tensor]:
    label = case.arrays['fdist.label_div8']
    label = label.repeat_interleave(8, -1).repeat_interleave(8, -2)
    feats = case.arrays['fdist.feat'].clone().requires_grad_()
    size = (feats.shape[-2], feats.shape[-1])
    cells = feature_anchor.downscale_labels(
        label, size, case.spec['num_classes'], case.spec['min_ratio']
    )
    mask = torch.isin(cells, torch.tensor(case.spec['thing_classes']))
    assert mask.sum() == case.spec['n_kept']
    reference = case.arrays['fdist.feat_imnet']
    loss = case.spec['lambda'] * feature_anchor.feature_distance(feats, reference, mask)
    loss.backward()
    return {
        'fdist.label_rescaled': cells,
        'fdist.mask': mask,
        'fdist.loss': loss,
        'fdist.grad_feat': feats.grad,
    }


def _advent(case: Case) -> dict[str, Tensor]:
    logits = case.arrays['advent.logits'].clone().requires_grad_()
    loss = entropy.mean_entropy(logits)
    loss.backward()
    return {
        'advent.self_information': entropy.self_information(logits.softmax(1)),
        'advent.minent_loss': loss,
        'advent.minent_grad_logits': logits.grad,
    }


def _fda(case: Case) -> dict[str, Tensor]:
    source, target = case.arrays['fda.src'], case.arrays['fda.trg']
    outputs = {}
    for mode, beta in case.like(r'fda\.(corner|centered)_beta([\d.]+)'):
        name = f'fda.{mode}_beta{beta}'
        images = (source, target)
        if mode == 'centered':
            images = (source[0].double(), target[0].double())
        outputs[name] = fourier.swap_amplitude(*images, float(beta), mode)
        if mode == 'centered':
            # In double precision, where the section's tolerance is for single.
            torch.testing.assert_close(
                outputs[name], case.arrays[name], rtol=0, atol=1e-8
            )
    return outputs


def _mic(case: Case) -> dict[str, Tensor]:
    outputs = {}
    for (name,) in case.like(r'mic\.(\w+)\.uniform'):
        spec, uniform = case.spec[name], case.arrays[f'mic.{name}.uniform']
        grid = masked_consistency.mask_grid(spec['H'], spec['W'], spec['block'])
        assert list(grid) == spec['grid'] == list(uniform.shape[-2:])
        size = (spec['H'], spec['W'])
        outputs[f'mic.{name}.mask'] = masked_consistency.block_mask(uniform, size, 0.7)
    return outputs


def _losses(case: Case) -> dict[str, Tensor]:
    outputs = {}
    label, weight = case.arrays['loss.label'], case.arrays['loss.weight']
    for (name,) in case.like(r'loss\.(.+)\.grad_ch0_3'):
        logits = case.arrays['loss.logits'].clone().requires_grad_()
        if name.startswith('charbonnier'):
            eta = float(name.rpartition('eta')[2])
            loss = entropy.charbonnier_entropy(logits, eta, normaliser=2.9444)
        else:
            loss = _head_loss(logits, label, weight if 'weighted' in name else None)
            if 'ce_valid' in name:
                loss = _head_loss(logits, label, None, avg_non_ignore=True)
        loss.backward()
        outputs[f'loss.{name}'] = loss
        outputs[f'loss.{name}.grad_ch0_3'] = logits.grad[:, :4]
    return outputs


def _head_loss(
    logits: Tensor, label: Tensor, weight: Tensor | None, avg_non_ignore: bool = False
) -> Tensor:
    """The loss of an mmseg head, weighed as the student's losses are."""
    cfg = dict(type='mmseg.CrossEntropyLoss', avg_non_ignore=avg_non_ignore)
    head = FCNHead(
        in_channels=4, channels=4, num_classes=logits.shape[1], loss_decode=cfg
    )
    samples = []
    for own in label:
        sample = SegDataSample()
        sample.gt_sem_seg = PixelData(data=own[None])
        samples.append(sample)
    with pixel_weights(head, weight):
        return head.loss_by_feat(logits, samples)['loss_ce']


SECTIONS: dict[str, Callable[[Case], dict[str, Tensor]]] = {
    'classmix': _classmix,
    'pseudo': _pseudo,
    'ema': _ema,
    'rcs': _rcs,
    'fdist': _fdist,
    'advent': _advent,
    'fda': _fda,
    'mic': _mic,
    'losses': _losses,
}
