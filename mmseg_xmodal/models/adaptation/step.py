"""One training step, as adaptation terms see it.

It computes what several terms need (the teacher's prediction, the student's logits of
the target) once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers.colour_space import ColourSpace, colour_spaces
from ..layers.logit_probabilities import gives_scores, is_score_head
from ..layers.pixel_weights import pixel_weights
from ..layers.pseudo_labels import PseudoLabelRule, PseudoLabels

Losses = dict[str, Any]
_VALID = 'gt_pseudo_valid'


@dataclasses.dataclass
class DomainBatch:
    """The images of one domain in a batch.

    Args:
        inputs: Output of the preprocessor.
        samples: Their data samples; those of the target carry no truth.

    Shape:
        - inputs: (B, C, H, W)
    """

    inputs: Tensor
    samples: list[SegDataSample]

    def labels(self) -> Tensor:
        """Truth of the segmentation.

        Shape:
            - output: (B, 1, H, W)

        Raises:
            ValueError: If a sample has none.
        """
        lacking = [s.get('img_path') for s in self.samples if 'gt_sem_seg' not in s]
        if lacking:
            raise ValueError(
                f'{len(lacking)} samples of the source domain have no gt_sem_seg, such '
                f'as {lacking[0]!r}. Put LoadAnnotations into the pipeline of the '
                'source, or correct which data set is the source.'
            )
        return torch.stack([s.gt_sem_seg.data for s in self.samples])


def full_size_metas(inputs: Tensor) -> list[dict[str, Any]]:
    """Metainfo of images that are taken as they are."""
    size = torch.Size(inputs.shape[-2:])
    meta = dict(img_shape=size, pad_shape=size, ori_shape=size)
    return [dict(meta) for _ in inputs]


def prediction_heads(student: Any) -> list[Any]:
    """The head of a segmentor, then its auxiliary heads."""
    auxiliary = getattr(student, 'auxiliary_head', None)
    if auxiliary is None:
        return [student.decode_head]
    many = isinstance(auxiliary, nn.ModuleList)
    return [student.decode_head, *(auxiliary if many else [auxiliary])]


def padded_field(
    sample: SegDataSample, key: str, size: Sequence[int], value: float
) -> Tensor:
    """A map of a sample at the size of the inputs, padded on the right and below.

    Preprocessors of mmseg pad no maps but those that they know.

    Args:
        sample: Has the map.
        key: Its name.
        size: Height and width of the inputs.
        value: Of the padding.

    Shape:
        - output: (1, H, W)

    Raises:
        ValueError: If the map is larger than the inputs.
    """
    data: Tensor = sample.get(key).data
    rows, columns = (a - b for a, b in zip(size, data.shape[-2:], strict=True))
    if rows < 0 or columns < 0:
        raise ValueError(
            f'{key} of {sample.get("img_path")!r} has the size '
            f'{tuple(data.shape[-2:])}, expected at most {tuple(size)}, that of the '
            'inputs. Put the transform that makes it before those that resize and '
            f'crop, and keep {key!r} in seg_fields.'
        )
    return F.pad(data, (0, columns, 0, rows), value=value)


def check_one_map(student: Any, who: str) -> None:
    """Raise unless the head of a student is one that may give one map of logits.

    Args:
        student: The segmentor that learns.
        who: What reads the map, for the error.

    Raises:
        ValueError: If it is a cascade of heads, or a head of masks.
    """
    head: Any = getattr(student, 'decode_head', None)
    cascade = isinstance(head, nn.ModuleList)
    if not cascade and not is_score_head(head):
        return
    got = f'a cascade of {len(head)} heads' if cascade else f'a {type(head).__name__}'
    raise ValueError(
        f'{who} reads the logits of one head, but decode_head of the student (a '
        f'{type(student).__name__}) is {got}. Take an EncoderDecoder with a head such '
        'as FCNHead or SegformerHead as student, or terms that do not read them: '
        'ClassMixSelfTraining, MaskedConsistency, FourierDomainAdaptation, '
        'FeatureAnchor, or PrototypeContrast on a map of the backbone.'
    )


@dataclasses.dataclass
class AdaptationStep:
    """One training step, as terms see it.

    Args:
        student: The segmentor that learns.
        teacher: Its frozen average.
        anchor: Frozen backbone with the weights from before the adaptation, or None.
        source: Labelled images. ``inputs`` may be replaced before the source loss.
        target: Images without labels.
        preprocessor: Made the inputs; says where colour is.
        pseudo_rule: For terms without a rule of their own.
        draws: Given draws by ``'<term>.<name>'``, instead of random ones.
        source_calls: Inputs and outputs of the student's backbone in the source loss.
        source_logits: What its heads gave there, without a graph, for terms with
            ``USES_SOURCE_LOGITS``.
    """

    student: Any
    teacher: Any
    anchor: nn.Module | None
    source: DomainBatch
    target: DomainBatch
    preprocessor: nn.Module
    pseudo_rule: PseudoLabelRule = dataclasses.field(default_factory=PseudoLabelRule)
    draws: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    source_calls: list[tuple[Any, Any]] = dataclasses.field(default_factory=list)
    source_logits: list[Tensor] = dataclasses.field(default_factory=list)
    _teacher_logits: Tensor | None = None
    _target_logits: list[Tensor] | None = None
    _released: set[str] = dataclasses.field(default_factory=set)

    @property
    def colours(self) -> list[ColourSpace]:
        """Where colour lies in the inputs."""
        return colour_spaces(self.preprocessor)

    @property
    def source_pass(self) -> tuple[Any, Any]:
        """Inputs and outputs of the backbone's first call in the source loss.

        Raises:
            ValueError: If it did not see all source images.
        """
        inputs, outputs = self.source_calls[0]
        seen, images = len(inputs[0]), len(self.source.samples)
        if seen != images:
            raise ValueError(
                f"The backbone's first call saw {seen} of {images} source images: a "
                'term on the features of the source needs one pass over all of them. '
                'Set domain_norm=False in the student, or leave the term out.'
            )
        return inputs, outputs

    @property
    def teacher_logits(self) -> Tensor:
        """The teacher on the target, once, without a graph.

        Shape:
            - output: (B, classes, H, W)
        """
        if self._teacher_logits is None:
            inputs = self.target.inputs
            with torch.no_grad():
                self._teacher_logits = self.teacher.encode_decode(
                    inputs, full_size_metas(inputs)
                ).detach()
        return self._teacher_logits

    @property
    def target_logits(self) -> list[Tensor]:
        """The student on the target, once: its head, then auxiliary heads.

        Shape:
            - outputs: (B, classes, h, w), of the sizes that the heads give

        Raises:
            ValueError: If their graph went backward already.
        """
        if 'target' in self._released:
            raise ValueError(
                'A term reads target_logits after their graph went backward, expected '
                "a term whose class has 'target' in GRAPHS. Add it there."
            )
        if self._target_logits is None:
            feats = self.student.extract_feat(self.target.inputs)
            heads = prediction_heads(self.student)
            outputs = [head(feats) for head in heads]
            for head, output in zip(heads, outputs, strict=True):
                if not isinstance(output, Tensor):
                    raise TypeError(
                        f'{type(head).__name__} of the student gives a '
                        f'{type(output).__name__}, expected one map of logits (a head '
                        'such as FCNHead or SegformerHead) for a term on them.'
                    )
            self._target_logits = outputs
        return self._target_logits

    @property
    def target_values(self) -> list[Tensor]:
        """``target_logits`` without a graph, at any time.

        Shape:
            - outputs: (B, classes, h, w), of the sizes that the heads give
        """
        if self._target_logits is None:
            return [logit.detach() for logit in self.target_logits]
        return [logit.detach() for logit in self._target_logits]

    def release(self, graphs: Collection[str]) -> None:
        """Let go of graphs that went backward.

        Args:
            graphs: See ``GRAPHS`` of :class:`AdaptationTerm`.
        """
        self._released.update(graphs)
        if 'source' in graphs:
            self.source_calls.clear()
        if 'target' in graphs and self._target_logits is not None:
            self._target_logits = [logit.detach() for logit in self._target_logits]

    def pseudo_labels(self, rule: PseudoLabelRule | None = None) -> PseudoLabels:
        """The teacher's labels of the target, padding with the weight 0.

        Args:
            rule: None = the rule of the step.
        """
        rule = self.pseudo_rule if rule is None else rule
        scores = gives_scores(self.teacher)
        return rule(self.teacher_logits, self.valid_target(), scores)

    def valid_target(self) -> Tensor | None:
        """1 where the target may teach, or None where that is everywhere.

        Padding may not, nor what a field ``gt_pseudo_valid`` (1, H, W) of a target
        sample marks with anything but 1.

        Shape:
            - output: (B, H, W)
        """
        samples = self.target.samples
        paddings = [s.get('padding_size') or (0, 0, 0, 0) for s in samples]
        marked = [_VALID in s for s in samples]
        if not any(map(any, paddings)) and not any(marked):
            return None
        inputs = self.target.inputs
        height, width = size = inputs.shape[-2:]
        valid = inputs.new_zeros(len(samples), height, width, dtype=torch.float32)
        for own, padding, sample in zip(valid, paddings, samples, strict=True):
            left, right, top, bottom = padding
            own[top : height - bottom, left : width - right] = 1
            if _VALID in sample:
                own *= (padded_field(sample, _VALID, size, 0)[0] == 1).to(own)
        return valid

    def student_loss(self, inputs: Tensor, labels: PseudoLabels) -> Losses:
        """Losses of the student's heads on given labels.

        Shape:
            - inputs: (B, C, H, W)
        """
        samples = []
        metas = full_size_metas(inputs)
        for label, meta in zip(labels.label, metas, strict=True):
            sample = SegDataSample(metainfo=meta)
            sample.gt_sem_seg = PixelData(data=label[None])
            samples.append(sample)
        with pixel_weights(self.student, labels.weight):
            return dict(self.student.loss(inputs, samples))
