"""Self-training on images mixed of both domains by class.

Papers: DACS, Tranheden et al., WACV 2021, https://arxiv.org/abs/2007.08702, official
code https://github.com/vikolss/DACS (MIT); DAFormer, Hoyer et al., CVPR 2022,
https://arxiv.org/abs/2111.14887, https://github.com/lhoyer/DAFormer (Apache-2.0). Clean
room, nothing copied.

Differences: the images of a batch are counted instead of being two, source and target
may differ in number, the factors of the augmentation come from numpy's random state,
and padding of the target does not teach.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmseg_xmodal.registry import MODELS

from ..layers.photometric import DAFORMER, StrongAugmentation
from ..layers.pseudo_labels import PseudoLabels
from .base import AdaptationStep, AdaptationTerm, Losses


def choose_classes(
    labels: Tensor, scope: str = 'batch', rng: Any = np.random
) -> list[Tensor]:
    """Half of the classes, rounded up, for each image.

    255 counts as a class: drawn, it pastes ignored pixels.

    Args:
        labels: Truth of the source.
        scope: ``'batch'``: the classes of all images are drawn from (DAFormer);
            ``'image'``: those of the image (DACS).
        rng: A ``numpy.random.RandomState``, by default numpy's global one.

    Shape:
        - labels: (B, 1, H, W)
        - outputs: (K,) int64 each
    """
    chosen = []
    everything = torch.unique(labels)
    for label in labels:
        classes = everything if scope == 'batch' else torch.unique(label)
        count = len(classes)
        index = rng.choice(count, (count + count % 2) // 2, replace=False)
        chosen.append(classes[torch.as_tensor(index, device=classes.device)])
    return chosen


def class_mask(labels: Tensor, classes: Sequence[Any]) -> Tensor:
    """Where the label of an image is one of its chosen classes.

    Args:
        labels: Truth of the source.
        classes: Ids for each image: tensors or lists of numbers.

    Shape:
        - labels: (B, 1, H, W)
        - output: (B, 1, H, W) bool
    """
    masks = [
        torch.isin(label, torch.as_tensor(own).to(label))
        for label, own in zip(labels, classes, strict=True)
    ]
    return torch.stack(masks)


def class_mix(mask: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """The source inside of the mask, the target outside.

    Shape:
        - mask: (B, 1, H, W) bool
        - source, target, output: (B, C, H, W)
    """
    return torch.where(mask, source, target)


class LastMix(NamedTuple):
    """What a step of ``ClassMixSelfTraining`` mixed, for pictures.

    Args:
        source: The source image of each pair.
        target: The target image.
        mixed: What the student saw, after the augmentation.
        labels: What it was trained on.
        pseudo: The teacher's labels of the target.
        names: Files of source and target, None where unknown.

    Shape:
        - source, target, mixed: (B, C, H, W), normalised
    """

    source: Tensor
    target: Tensor
    mixed: Tensor
    labels: PseudoLabels
    pseudo: PseudoLabels
    names: list[tuple[str | None, str | None]]


@MODELS.register_module()
class ClassMixSelfTraining(AdaptationTerm):
    """Train on mixed images: pasted source classes over the pseudo-labelled target.

    Each target image gets half of the classes of a source image (image i that of
    i modulo their number) with their labels and the weight 1. The rest has the
    teacher's labels, weighed by the ``pseudo_labels`` rule. Colour jitter and blur
    change the mixed image.

    Given draws: ``'mix.classes'``, a list of class ids per target image, and
    ``'mix.augment'``, a list of ``Photometric``.

    Args:
        weight: Factor of the loss.
        classes_from: ``'batch'`` (DAFormer) or ``'image'`` (DACS): what the chosen
            classes are drawn from.
        augment: Arguments of ``StrongAugmentation``, ``jitter=0.2`` (DACS: 0.25)
            foremost; None = none. Defaults to those of DAFormer.
        pseudo_labels: Arguments of ``PseudoLabelRule``. Defaults to the segmentor's.
        name: See :class:`AdaptationTerm`.

    Attributes:
        keep_last: Whether the next steps leave what they mixed in ``last_mix``; off,
            nothing is held.
        last_mix: The last mix, without a graph, or None.

    Raises:
        ValueError: If ``classes_from`` is unknown.
    """

    NAME = 'mix'
    USES_TEACHER = True

    def __init__(
        self,
        weight: float = 1.0,
        classes_from: str = 'batch',
        augment: Mapping[str, Any] | None = DAFORMER,
        pseudo_labels: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(weight, name)
        if classes_from not in ('batch', 'image'):
            raise ValueError(
                f'ClassMixSelfTraining has classes_from={classes_from!r}, expected '
                "'batch' or 'image'."
            )
        self.classes_from = classes_from
        self.augment = None if augment is None else StrongAugmentation(**augment)
        self.rule = self.own_rule(pseudo_labels)
        self.keep_last = False
        self.last_mix: LastMix | None = None

    def forward(self, step: AdaptationStep) -> Losses:
        """Losses of the student on the mixed images."""
        inputs, labels = self.mix(step)
        if self.augment is not None:
            draws = self.given(step, 'augment')
            draws = self.augment.draw(len(inputs)) if draws is None else draws
            inputs = self.augment(inputs, step.colours, draws)
        if self.keep_last:
            self.last_mix = self._note(step, inputs, labels)
        return step.student_loss(inputs, labels)

    def _note(
        self, step: AdaptationStep, mixed: Tensor, labels: PseudoLabels
    ) -> LastMix:
        pairs = _pairs(step)
        files = [
            [s.get('img_path') for s in d.samples] for d in (step.source, step.target)
        ]
        return LastMix(
            step.source.inputs[pairs].detach(),
            step.target.inputs.detach(),
            mixed.detach(),
            labels,
            step.pseudo_labels(self.rule),
            list(zip([files[0][i] for i in pairs], files[1], strict=True)),
        )

    def mix(self, step: AdaptationStep) -> tuple[Tensor, PseudoLabels]:
        """Mixed images before the augmentation, with labels and weights.

        Shape:
            - output: (B, C, H, W), B the number of target images
        """
        pseudo = step.pseudo_labels(self.rule)
        pairs = _pairs(step)
        truth = step.source.labels()
        classes = self.given(step, 'classes')
        if classes is None:
            classes = choose_classes(truth[pairs], self.classes_from)
        truth = truth[pairs]
        mask = class_mask(truth, classes)
        inputs = class_mix(mask, step.source.inputs[pairs], step.target.inputs)
        label = class_mix(mask, truth.long(), pseudo.label[:, None])[:, 0]
        weight = pseudo.weight
        if weight is not None:
            weight = torch.where(mask[:, 0], torch.ones_like(weight), weight)
        return inputs, PseudoLabels(label, weight)


def _pairs(step: AdaptationStep) -> list[int]:
    """The source image that goes with each target image."""
    return [i % len(step.source.samples) for i in range(len(step.target.samples))]
