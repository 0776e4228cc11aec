"""A head for labels of the whole image: what is in it, or which scene it is.

Global average pooling of chosen maps and one linear layer. Not a published network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.structures import LabelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch.nn import functional as F

from mmseg_xmodal.registry import MODELS

from ..layers.precision import at_least_single
from .task_head import TaskHead

_UNKNOWN = -1


@MODELS.register_module()
class ClassificationHead(TaskHead):
    """Classify the image as a whole.

    Args:
        num_classes: Number of classes C.
        in_channels: Channels of the maps that are pooled.
        in_index: Which maps these are; their means are put one behind the other.
        multi_label: Whether any number of classes may be present at once (the truth is
            a multi-hot vector), instead of exactly one (the truth is its id).
        label_smoothing: Share of the truth that is spread over all classes, in [0, 1);
            for a single label.
        pos_weight: Factor on the loss of a class that is present, one number or one per
            class; for several labels. None = 1.
        threshold: Probability from which a class is predicted, of several labels.
        dropout_ratio: Dropout before the linear layer, in [0, 1).
        loss_weight: Factor on the loss.
        target: Field of the truth; it predicts ``pred_...`` instead of ``gt_...``.
        init_cfg: As in mmengine.

    Shape:
        - input: maps (B, in_channels[i], h_i, w_i)
        - output: logits (B, C)

    Raises:
        ValueError: If an option belongs to the other kind of labels, or ``pos_weight``
            has another number of classes.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: Sequence[int],
        in_index: Sequence[int] = (3,),
        multi_label: bool = False,
        label_smoothing: float = 0.0,
        pos_weight: float | Sequence[float] | None = None,
        threshold: float = 0.5,
        dropout_ratio: float = 0.0,
        loss_weight: float = 1.0,
        target: str = 'gt_label',
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(in_channels, in_index, target, init_cfg)
        foreign = label_smoothing if multi_label else pos_weight
        if foreign:
            raise ValueError(
                f'ClassificationHead has multi_label={multi_label} with '
                f'label_smoothing={label_smoothing} and pos_weight={pos_weight}: '
                'label_smoothing is for a single label, pos_weight for several. Take '
                'the other one out of task_heads.'
            )
        if isinstance(pos_weight, float | int):
            pos_weight = [pos_weight] * num_classes
        if pos_weight is not None and len(pos_weight) != num_classes:
            raise ValueError(
                f'ClassificationHead has {len(pos_weight)} numbers in pos_weight, '
                f'expected one or num_classes={num_classes}. Change it in task_heads.'
            )
        self.num_classes = num_classes
        self.multi_label = multi_label
        self.label_smoothing = label_smoothing
        self.pos_weight = pos_weight
        self.threshold = threshold
        self.loss_weight = loss_weight
        self.dropout = nn.Dropout(dropout_ratio)
        self.fc = nn.Linear(sum(self.in_channels), num_classes)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        """Logits, (B, C)."""
        pooled = [feat.mean((2, 3)) for feat in self.select(feats)]
        return self.fc(self.dropout(torch.cat(pooled, 1)))

    def loss(
        self,
        feats: Sequence[Tensor],
        data_samples: Sequence[SegDataSample],
        train_cfg: Mapping[str, Any] | None = None,
    ) -> dict[str, Tensor]:
        """See :meth:`TaskHead.loss`; ``loss_cls``, the mean over what is known."""
        logits = at_least_single(self(feats))
        target = self.truth(data_samples)
        known = target != _UNKNOWN
        if self.multi_label:
            weights = self.pos_weight
            values = F.binary_cross_entropy_with_logits(
                logits,
                torch.where(known, target, 0).to(logits),
                reduction='none',
                pos_weight=None if weights is None else logits.new_tensor(weights),
            )
            values = torch.where(known, values, 0)
        else:
            values = F.cross_entropy(
                logits,
                target,
                reduction='none',
                ignore_index=_UNKNOWN,
                label_smoothing=self.label_smoothing,
            )
        value = values.sum() / known.sum().clamp(min=1)
        return dict(loss_cls=self.loss_weight * value)

    def truth(self, data_samples: Sequence[SegDataSample]) -> Tensor:
        """The labels of a batch; -1 = unknown.

        Shape:
            - output: (B,) int64, or (B, C) with several labels

        Raises:
            ValueError: If a label has another length, or is no class.
        """
        length = self.num_classes if self.multi_label else 1
        high = 1 if self.multi_label else self.num_classes - 1
        labels = [sample.get(self.target).label for sample in data_samples]
        for sample, label in zip(data_samples, labels, strict=True):
            if tuple(label.shape) != (length,):
                self._complain(sample, f'a label of the shape {tuple(label.shape)}')
        target = torch.stack(labels)
        wrong = ((target < 0) & (target != _UNKNOWN)) | ~(target <= high)
        if bool(wrong.any()):
            index = int(wrong.any(1).nonzero()[0])
            self._complain(data_samples[index], f'the label {labels[index].tolist()}')
        return target if self.multi_label else target[:, 0].long()

    def _complain(self, sample: SegDataSample, found: str) -> None:
        if self.multi_label:
            expected = f'{self.num_classes} numbers from 0 to 1, or -1 (unknown)'
        else:
            expected = f'one class id below {self.num_classes}, or -1 (unknown)'
        raise ValueError(
            f'{self.target} of {sample.get("img_path")!r} has {found}, expected '
            f'{expected}. Change num_classes or multi_label of the head in task_heads, '
            'or the labels of the data set.'
        )

    def predict(
        self,
        feats: Sequence[Tensor],
        batch_img_metas: Sequence[Mapping[str, Any]],
        test_cfg: Mapping[str, Any] | None = None,
    ) -> list[dict[str, LabelData]]:
        """Scores and labels per image.

        Returns:
            Per image a field of ``score`` (C,), probabilities, and ``label``: (1,) the
            likeliest class, or (C,) 0 or 1.
        """
        logits = at_least_single(self(feats))
        if self.multi_label:
            scores = logits.sigmoid()
            labels = (scores >= self.threshold).long()
        else:
            scores = logits.softmax(1)
            labels = scores.argmax(1, keepdim=True)
        name = 'pred_' + self.target.removeprefix('gt_')
        return [
            {name: LabelData(score=score, label=label)}
            for score, label in zip(scores, labels, strict=True)
        ]
