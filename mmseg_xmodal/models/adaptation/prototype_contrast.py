"""Draw the pixels of both domains to the prototype of their class.

Paper: ProCA, Jiang et al., "Prototypical Contrast Adaptation for Domain Adaptive
Semantic Segmentation", ECCV 2022, https://arxiv.org/abs/2207.06654, official code
https://github.com/jiangzhengkai/ProCA (MIT). Clean room, nothing copied.

Differences: the prototypes follow the source alone, as a running mean from the first
step on (the official code starts from a pass over the source, and also takes in target
pixels with pseudo-labels); pseudo-labels are the teacher's; a fixed number of pixels of
each class is compared, so memory does not grow with the image; a projection can stand
in between; there is no second contrast on the logits. The default temperature is ours:
the official one divides cosines by 50.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmseg_xmodal.registry import MODELS

from ..layers.class_prototypes import ClassPrototypes, sample_places
from ..layers.noted_calls import noted_calls
from .base import AdaptationStep, AdaptationTerm, Losses
from .step import check_one_map

_CLASSIFIERS = ('conv_seg', 'linear_pred')


@MODELS.register_module()
class PrototypeContrast(AdaptationTerm):
    """Pixels near the prototype of their class and away from those of other classes.

    Prototypes are running means over the source, of all processes, of features of
    length 1. Source pixels have their truth, target pixels the teacher's label where it
    is sure; labels are read in the middle of each place of the features. A class
    without pixels keeps its prototype; one that the source has not shown yet is left
    out.

    It costs one pass of the student over the target.

    Given draws: ``'contrast.source'`` and ``'contrast.target'`` (B, h, w), numbers for
    the places of the features; of each class those with the smallest are compared.

    Args:
        feature: Which features: an index into the backbone's maps, or ``'head'`` for
            what the classifier of ``decode_head`` reads (``conv_seg``), behind its
            dropout. Where the backbone runs several times in a pass, its first map.
        in_channels: Channels of the features. Needed for an index where the backbone
            has no ``out_channels`` (stock ones).
        weight: Factor of both losses.
        source: Factor of the loss on the source, next to ``weight``.
        target: Factor of that on the target.
        temperature: What cosines are divided by, above 0.
        momentum: Share of a prototype that is kept in a step, in [0, 1).
        count: Most pixels of a class and domain that are compared in a step.
        projection: Channels of a learned projection in front (linear, ReLU, linear);
            None = none.
        prototypes_of: ``'student'``, or ``'teacher'``: whose source features make the
            prototypes. The teacher's cost one more pass, without a graph.
        pseudo_labels: Arguments of ``PseudoLabelRule``, of which ``unsure`` is
            ``'ignore'`` here. Defaults to the segmentor's.
        name: See :class:`AdaptationTerm`.

    Raises:
        ValueError: If a number or word cannot be used.
    """

    NAME = 'contrast'
    USES_TEACHER = True
    GRAPHS = ('source',)
    prototypes: ClassPrototypes

    def __init__(
        self,
        feature: int | str = -1,
        in_channels: int | None = None,
        weight: float = 0.1,
        source: float = 1.0,
        target: float = 1.0,
        temperature: float = 0.1,
        momentum: float = 0.99,
        count: int = 64,
        projection: int | None = None,
        prototypes_of: str = 'student',
        pseudo_labels: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(weight, name)
        usable = temperature > 0 and 0 <= momentum < 1 and count > 0
        if not usable or min(source, target) < 0:
            raise ValueError(
                f'PrototypeContrast has temperature={temperature}, momentum={momentum}'
                f', count={count}, source={source} and target={target}, expected '
                'numbers above 0, in [0, 1), above 0, and factors of 0 or more.'
            )
        words = isinstance(feature, int) or feature == 'head'
        if not words or prototypes_of not in ('student', 'teacher'):
            raise ValueError(
                f'PrototypeContrast has feature={feature!r} and prototypes_of='
                f"{prototypes_of!r}, expected an index or 'head', and 'student' or "
                "'teacher'."
            )
        self.feature, self.in_channels = feature, in_channels
        self.factors = dict(source=source, target=target)
        self.temperature, self.momentum, self.count = temperature, momentum, count
        self.width, self.prototypes_of = projection, prototypes_of
        self.rule = self.own_rule(pseudo_labels)
        self.projection: nn.Module | None = None

    def attach(self, student: Any) -> None:
        """Build prototypes and projection for the classes and features of a student.

        Raises:
            ValueError: If it has no such features, or their channels are not known.
        """
        channels = self._channels(student)
        self.in_channels = channels
        if self.width is not None:
            self.projection = nn.Sequential(
                nn.Linear(channels, channels),
                nn.ReLU(),
                nn.Linear(channels, self.width),
            )
        self.prototypes = ClassPrototypes(
            student.num_classes, self.width or channels, self.momentum
        )

    def _channels(self, student: Any) -> int:
        backbone = getattr(student, 'backbone', None)
        if backbone is None:
            raise ValueError(
                f'PrototypeContrast needs the part backbone, which the student (a '
                f'{type(student).__name__}) does not have. Use an EncoderDecoder, or '
                'remove the term.'
            )
        if self.feature == 'head':
            check_one_map(student, "PrototypeContrast(feature='head')")
        if self.in_channels is not None:
            return self.in_channels
        if self.feature == 'head':
            return _classifier(student.decode_head).in_channels
        # Stock backbones have attributes of this name that mean something else.
        declared = getattr(type(backbone), 'out_channels', None)
        if not isinstance(declared, property):
            raise ValueError(
                f'PrototypeContrast has feature={self.feature} of a '
                f'{type(backbone).__name__}, which does not say how many channels its '
                'maps have. Set in_channels of the term.'
            )
        return self._pick(backbone.out_channels)

    def forward(self, step: AdaptationStep) -> Losses:
        """Contrast of the source and of the target."""
        source = self._of_source(step)
        target = self._of_inputs(step.student, step.target.inputs)
        reference = source
        if self.prototypes_of == 'teacher':
            with torch.no_grad():
                reference = self._of_inputs(step.teacher, step.source.inputs)
        rule = step.pseudo_rule if self.rule is None else self.rule
        rule = dataclasses.replace(rule, unsure='ignore')
        truth = step.source.labels()
        guess = step.pseudo_labels(rule).label[:, None]
        # Small matrices, whose cosines decide: full precision under autocast.
        with torch.autocast(source.device.type, enabled=False):
            with torch.no_grad():
                rows = self._project(_rows(reference))
                self.prototypes.update(rows, _at_places(truth, reference).flatten())
            return dict(
                loss_source=self._contrast(step, 'source', source, truth),
                loss_target=self._contrast(step, 'target', target, guess),
            )

    def _contrast(
        self, step: AdaptationStep, domain: str, feats: Tensor, labels: Tensor
    ) -> Tensor:
        classes = _at_places(labels, feats)
        keys = self.given(step, domain)
        if keys is None:
            keys = torch.rand(classes.shape, device=classes.device)
        classes = self.prototypes.comparable(classes.flatten())
        places = sample_places(
            classes, keys.flatten(), self.count, self.prototypes.num_classes
        )
        loss = self.prototypes.contrast(
            self._project(_rows(feats)[places]), classes[places], self.temperature
        )
        return self.factors[domain] * loss

    def _project(self, rows: Tensor) -> Tensor:
        return rows if self.projection is None else self.projection(rows)

    # Features

    def _of_source(self, step: AdaptationStep) -> Tensor:
        """The student's source features, from the pass of the source loss."""
        outputs, student = step.source_pass[1], step.student
        if self.feature != 'head':
            return self._map(outputs)
        return self._fused(
            student, student.neck(outputs) if student.with_neck else outputs
        )

    def _of_inputs(self, network: Any, inputs: Tensor) -> Tensor:
        """Features of images, by a pass of their own."""
        calls: list[tuple[Any, Any]] = []
        with noted_calls(network.backbone, calls):
            feats = network.extract_feat(inputs)
        if self.feature == 'head':
            return self._fused(network, feats)
        return self._map(calls[0][1])

    def _pick(self, maps: Any) -> Any:
        index = self.feature
        assert isinstance(index, int)
        if not -len(maps) <= index < len(maps):
            raise ValueError(
                f'PrototypeContrast has feature={index}, but the backbone gives '
                f'{len(maps)} maps. Correct feature.'
            )
        return maps[index]

    def _map(self, outputs: Any) -> Tensor:
        maps = (outputs,) if isinstance(outputs, Tensor) else outputs
        return self._checked(self._pick(maps))

    def _fused(self, network: Any, feats: Any) -> Tensor:
        """What the classifier of the head reads."""
        calls: list[tuple[Any, Any]] = []
        head = network.decode_head
        with noted_calls(_classifier(head), calls):
            head(feats)
        if not calls:
            raise _no_classifier(head)
        return self._checked(calls[0][0][0])

    def _checked(self, feats: Tensor) -> Tensor:
        if feats.shape[1] != self.in_channels:
            raise ValueError(
                f'PrototypeContrast has in_channels={self.in_channels}, but feature='
                f'{self.feature!r} has {feats.shape[1]} channels. Correct in_channels.'
            )
        return feats


def _classifier(head: nn.Module) -> Any:
    for name in _CLASSIFIERS:
        if hasattr(head, name):
            return getattr(head, name)
    raise _no_classifier(head)


def _no_classifier(head: nn.Module) -> ValueError:
    return ValueError(
        f"PrototypeContrast has feature='head', but {type(head).__name__} runs no "
        f'classifier of the name {" or ".join(_CLASSIFIERS)}. Give the index of a map '
        'of the backbone as feature.'
    )


def _rows(feats: Tensor) -> Tensor:
    """(B, C, h, w) to (B * h * w, C) float32."""
    return feats.permute(0, 2, 3, 1).flatten(0, 2).float()


def _at_places(labels: Tensor, feats: Tensor) -> Tensor:
    """Label of the pixel in the middle of each place, (B, 1, H, W) to (B, h, w)."""
    size = (feats.shape[2], feats.shape[3])
    return F.interpolate(labels.float(), size, mode='nearest-exact')[:, 0].long()
