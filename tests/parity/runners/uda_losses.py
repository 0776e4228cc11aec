"""Losses of domain adaptation, with their gradients."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

import torch
from mmengine.structures import PixelData
from mmseg.models.decode_heads import FCNHead
from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_xmodal.models.adaptation import entropy, feature_anchor
from mmseg_xmodal.models.layers.pixel_weights import pixel_weights

from ..fixture import NoRunner
from .sections import Outputs, Section

# Official code divides entropies by this, which is right for 19 classes.
LN_19 = 2.9444


def feature_distance(case: Section) -> Outputs:
    """Distance to the features of ImageNet where things are."""
    spec = case.spec
    feats = case.arrays['fdist.feat']

    @functools.cache
    def cells() -> Tensor:
        (factor,) = next(case.like(r'fdist\.label_div(\d+)'))
        label = case.arrays[f'fdist.label_div{factor}']
        label = label.repeat_interleave(int(factor), -1)
        label = label.repeat_interleave(int(factor), -2)
        size = (feats.shape[-2], feats.shape[-1])
        return feature_anchor.downscale_labels(
            label, size, spec['num_classes'], spec['min_ratio']
        )

    @functools.cache
    def mask() -> Tensor:
        kept = torch.isin(cells(), torch.tensor(spec['thing_classes']))
        assert kept.sum() == spec.get('n_kept', kept.sum())
        return kept

    @functools.cache
    def loss() -> tuple[Tensor, Tensor]:
        own, reference = feats.clone().requires_grad_(), case.arrays['fdist.feat_imnet']
        distance = feature_anchor.feature_distance(own, reference, mask())
        value = spec['lambda'] * distance
        value.backward()
        return value, own.grad

    return {
        'fdist.label_rescaled': cells,
        'fdist.mask': mask,
        'fdist.loss': lambda: loss()[0],
        'fdist.grad_feat': lambda: loss()[1],
    }


def adversarial(case: Section) -> Outputs:
    """Maps of the self-information, and their mean as a loss."""
    logits = case.arrays['advent.logits']

    @functools.cache
    def loss() -> tuple[Tensor, Tensor]:
        return _backward(entropy.mean_entropy, logits)

    return {
        'advent.self_information': lambda: entropy.self_information(logits.softmax(1)),
        'advent.minent_loss': lambda: loss()[0],
        'advent.minent_grad_logits': lambda: loss()[1],
    }


def _backward(
    compute: Callable[[Tensor], Tensor], logits: Tensor
) -> tuple[Tensor, Tensor]:
    """A loss and the gradient of the logits."""
    own = logits.clone().requires_grad_()
    value = compute(own)
    value.backward()
    return value, own.grad


def losses(case: Section) -> Outputs:
    """Losses of heads and of entropies, by name."""
    given = r'loss\.(?:logits|label|weight)'
    pattern = r'loss\.(.+?)(?:\.grad(?:_ch0_(\d+))?)?'
    outputs: Outputs = {}
    for name in case.arrays:
        match = re.fullmatch(pattern, name)
        if match is None or re.fullmatch(given, name):
            continue
        loss = functools.partial(_loss, case, match[1])
        if '.grad' not in name:
            outputs[name] = lambda loss=loss: loss()[0]
        else:
            end = None if match[2] is None else int(match[2]) + 1
            outputs[name] = lambda loss=loss, end=end: loss()[1][:, :end]
    return outputs


def _loss(case: Section, name: str) -> tuple[Tensor, Tensor]:
    """The loss of this name and its gradient.

    Raises:
        NoRunner: If the name is unknown.
    """
    logits = case.arrays['loss.logits']
    if match := re.fullmatch(r'charbonnier.*eta(\d*\.?\d+)', name):
        return _backward(_charbonnier(case, float(match[1])), logits)
    match = re.fullmatch(r'ce_(valid|all|all_weighted|pixelweighted)_[a-z]+', name)
    if not match:
        raise NoRunner(f'{case.name}: no runner for the loss {name!r}')
    kind = match[1]
    weight = case.arrays['loss.weight'] if 'weighted' in kind else None
    return _backward(
        lambda own: _head_loss(own, case.arrays['loss.label'], weight, kind == 'valid'),
        logits,
    )


def _charbonnier(case: Section, eta: float) -> Callable[[Tensor], Tensor]:
    """The loss with the divisor that the fixture states.

    Official code has a constant that is right for 19 classes; whoever runs it with
    others may have left it or changed it, which only the fixture can tell.

    Raises:
        NoRunner: If none is stated for other classes.
    """
    rule = str((case.spec.get('rules') or {}).get('charbonnier', ''))
    stated = re.search(r'entropy\s*/\s*(\d+(?:\.\d+)?)', rule)
    classes = case.arrays['loss.logits'].shape[1]
    if not stated and classes != 19:
        raise NoRunner(
            f'{case.name}: no runner for the Charbonnier loss of {classes} classes '
            "without 'entropy/<number>' in rules['charbonnier'], which is "
            f'{rule!r}'
        )
    divisor = float(stated[1]) if stated else LN_19
    return functools.partial(entropy.charbonnier_entropy, eta=eta, normaliser=divisor)


def _head_loss(
    logits: Tensor, label: Tensor, weight: Tensor | None, avg_non_ignore: bool
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
