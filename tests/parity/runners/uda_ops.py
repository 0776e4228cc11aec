"""Operations of domain adaptation against MIC, DACS, ADVENT and FDA."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from mmseg_xmodal.datasets.samplers.rare_class import rare_class_probabilities
from mmseg_xmodal.models.adaptation import class_mix as mixing
from mmseg_xmodal.models.adaptation import ema, fourier, masked_consistency
from mmseg_xmodal.models.layers.pseudo_labels import PseudoLabelRule, confident_share

from ..fixture import Fixture, NoRunner
from .sections import Outputs, Parts, Section
from .uda_losses import adversarial, feature_distance, losses

# Arrays that are given.
INPUTS = (
    r'classmix\.(src_img|trg_img|src_label|pseudo_label|pseudo_weight)|'
    r'pseudo\.(logits|valid_mask)|ema\.(student_params_per_step|teacher_initial)|'
    r'fdist\.(label_div\d+|feat|feat_imnet)|advent\.logits|fda\.(src|trg)|'
    r'mic\.\w+\.uniform|loss\.(logits|label|weight)'
)


def run_uda_ops(fixture: Fixture) -> dict[str, Tensor]:
    """Compute every output that the fixture holds.

    Raises:
        NoRunner: If a section is unknown, or does not state what it depends on.
    """
    sections = fixture.meta['sections']
    parts = Parts(fixture, INPUTS)
    for name, spec in sections.items():
        recorded = parts.under('loss.' if name == 'losses' else f'{name}.')
        if recorded and name in SECTIONS:
            section = Section(f'{fixture.name}/{name}', parts.arrays, spec)
            parts.add_each(SECTIONS[name](section))
    unknown = sorted(set(sections) - set(SECTIONS))
    if unknown:
        arrays = [array for name in unknown for array in parts.under(f'{name}.')]
        parts.lack(f'no runner for the sections {unknown}', arrays)
    return parts.finish()


def _classmix(case: Section) -> Outputs:
    own = {k.removeprefix('classmix.'): v for k, v in case.arrays.items()}
    truth, spec = own['src_label'], case.spec
    if 'unique_of_batch' in spec:
        assert truth.unique().tolist() == spec['unique_of_batch']

    @functools.cache
    def mask() -> Tensor:
        return mixing.class_mask(truth, spec['chosen_classes_per_image'])

    def drawn() -> Tensor:
        given = spec['rng_mask']
        scope = 'batch' if 'batch' in given['rule'].lower() else 'image'
        rng = np.random.RandomState(given['numpy_seed'])
        classes = mixing.choose_classes(truth, scope, rng)
        stated = given.get('chosen_classes_per_image')
        assert stated in (None, [c.tolist() for c in classes])
        return mixing.class_mask(truth, classes)

    def weight() -> Tensor:
        pseudo = own['pseudo_weight'][:, None]
        return mixing.class_mix(mask(), torch.ones_like(pseudo), pseudo)

    return {
        'classmix.mask': mask,
        'classmix.dacs_mask': lambda: mask()[:, 0],
        'classmix.rng_mask': drawn,
        'classmix.mixed_img': lambda: mixing.class_mix(
            mask(), own['src_img'], own['trg_img']
        ),
        'classmix.mixed_label': lambda: mixing.class_mix(
            mask(), truth, own['pseudo_label'][:, None]
        ),
        'classmix.mixed_weight': weight,
    }


def _pseudo(case: Section) -> Outputs:
    spec, threshold = case.spec, case.spec['threshold']
    rows = {key: spec.get(key, 0) for key in ('ignore_top', 'ignore_bottom')}
    plain = PseudoLabelRule(threshold)
    logits = case.arrays.get('pseudo.logits')
    if 'q' in spec and logits is not None:
        share = confident_share(logits.softmax(1).amax(1), threshold)
        torch.testing.assert_close(share, torch.tensor(spec['q']))

    def full() -> Tensor:
        numbers = r'zeros \(([\d, ]+)\) with channel (\d+) = ([\d.]+\d|\d+)'
        margins = r'ignore_top (\d+), ignore_bottom (\d+)'
        shape, channel, value = case.stated('full_rows_weight', numbers)
        top, bottom = case.stated('full_rows_weight', margins)
        tall = torch.zeros([int(side) for side in shape.split(',')])
        tall[:, int(channel)] = float(value)
        return PseudoLabelRule(
            threshold, ignore_top=int(top), ignore_bottom=int(bottom)
        )(tall).weight

    return {
        'pseudo.label': lambda: PseudoLabelRule(threshold, **rows)(logits).label,
        'pseudo.weight': lambda: PseudoLabelRule(threshold, **rows)(logits).weight,
        'pseudo.weight_before_rows': lambda: plain(logits).weight,
        'pseudo.weight_valid_mask': lambda: (
            plain(logits, case.arrays['pseudo.valid_mask'][:, 0]).weight
        ),
        'pseudo.full_rows_weight': full,
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


def _ema(case: Section) -> Outputs:
    def average(momentum: float) -> tuple[Tensor, Tensor]:
        """The teacher after each update, and its buffer after all."""
        first = case.arrays['ema.teacher_initial']
        teacher, rows = _Numbers(first, first[1]), []
        for t, row in enumerate(case.arrays['ema.student_params_per_step']):
            student = _Numbers(row, first[1] + 1)
            ema.ema_update(teacher, student, ema.ema_alpha(t, momentum))
            rows.append(teacher.row())
        return torch.stack(rows), teacher.c

    def schedule() -> Tensor:
        key = 'alpha_schedule_measured'
        # A full stop ends a sentence, not a number.
        stated = re.findall(r'alpha=(\d*\.?\d+)', str(case.spec.get(key, '')))
        if not stated:
            raise NoRunner(f'{case.name}: no runner without alpha=... in {key!r}')
        steps = case.arrays[f'ema.{key}'][:, 0].tolist()
        rows = [[t, *(ema.ema_alpha(int(t), float(a)) for a in stated)] for t in steps]
        return torch.tensor(rows, dtype=torch.float64)

    def dacs() -> Tensor:
        (alpha,) = case.stated('quirks', r'dacs_teacher_params.*? alpha (\d*\.?\d+)')
        return average(float(alpha))[0]

    outputs: Outputs = {
        'ema.teacher_buffer_after': lambda: average(0.99)[1],
        'ema.alpha_schedule_measured': schedule,
        'ema.dacs_teacher_params': dacs,
    }
    for (alpha,) in case.like(r'ema\.teacher_params_alpha([\d.]+)'):
        outputs[f'ema.teacher_params_alpha{alpha}'] = lambda a=alpha: average(float(a))[
            0
        ]
    return outputs


def _rcs(case: Section) -> Outputs:
    pairs = [
        (int(key), pixels)
        for image in case.spec['sample_class_stats']
        for key, pixels in image.items()
        if key != 'file'
    ]
    counts = np.zeros(1 + max(c for c, _ in pairs), np.int64)
    for key, pixels in pairs:
        counts[key] += pixels

    def find(index: int, temperature: str = '1') -> Tensor:
        return torch.from_numpy(
            rare_class_probabilities(counts, float(temperature))[index]
        )

    outputs: Outputs = {'rcs.classes': lambda: find(0)}
    for (text,) in case.like(r'rcs\.prob_T([\d.]+)'):
        outputs[f'rcs.prob_T{text}'] = functools.partial(find, 1, text)
    return outputs


def _fda(case: Section) -> Outputs:
    def swap(name: str, mode: str, beta: str) -> Tensor:
        images = [case.arrays[f'fda.{side}'] for side in ('src', 'trg')]
        recorded = case.arrays[name]
        if images[0].dim() > recorded.dim():
            # Recorded without the batch, which is one image then.
            images = [image.squeeze(0) for image in images]
        ours = fourier.swap_amplitude(
            *(image.to(recorded.dtype) for image in images), float(beta), mode
        )
        if recorded.dtype == torch.float64:
            # Where the section's tolerance is for single precision.
            torch.testing.assert_close(ours, recorded, rtol=0, atol=1e-8)
        return ours

    return {
        f'fda.{mode}_beta{beta}': functools.partial(
            swap, f'fda.{mode}_beta{beta}', mode, beta
        )
        for mode, beta in case.like(r'fda\.(corner|centered)_beta([\d.]+)')
    }


def _mic(case: Section) -> Outputs:
    def mask(name: str) -> Tensor:
        (ratio,) = case.stated('rule', r'uniform > (\d*\.?\d+)')
        spec, uniform = case.spec[name], case.arrays[f'mic.{name}.uniform']
        grid = masked_consistency.mask_grid(spec['H'], spec['W'], spec['block'])
        assert list(grid) == list(uniform.shape[-2:]) == spec.get('grid', list(grid))
        size = (spec['H'], spec['W'])
        return masked_consistency.block_mask(uniform, size, float(ratio))

    return {
        f'mic.{name}.mask': functools.partial(mask, name)
        for (name,) in case.like(r'mic\.(\w+)\.mask')
    }


SECTIONS: dict[str, Callable[[Section], Outputs]] = {
    'classmix': _classmix,
    'pseudo': _pseudo,
    'ema': _ema,
    'rcs': _rcs,
    'fdist': feature_distance,
    'advent': adversarial,
    'fda': _fda,
    'mic': _mic,
    'losses': losses,
}
