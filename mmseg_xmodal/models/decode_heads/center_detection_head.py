"""An anchor-free detection head that needs no compiled op: objects as points.

Paper: CenterNet, 2019, https://arxiv.org/abs/1904.07850. Official code:
https://github.com/xingyizhou/CenterNet (MIT). Clean room, nothing copied.

Differences: the three outputs come from one light decoder on a pyramid (see
:class:`LevelDecoder`) instead of three branches on an upsampling network; the radius
is derived anew (see :mod:`mmseg_xmodal.models.layers.heatmap`); cells inside of ignored
boxes are no negatives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.structures import InstanceData
from mmseg.structures import SegDataSample
from torch import Tensor
from torch.nn import functional as F

from mmseg_xmodal.registry import MODELS

from ..layers.box_truth import check_instances
from ..layers.heatmap import draw_gaussians, gaussian_radius, pick_peaks
from ..layers.level_decoder import LevelDecoder
from ..layers.precision import at_least_single
from ..layers.view import boxes_to_original, input_size
from .task_head import TaskHead

# Probability of every class in every cell at the start: there are few objects.
_PRIOR = 0.1


@dataclass
class CenterTargets:
    """What a batch should be predicted as.

    Shape:
        - heatmap: (B, C, h, w), in [0, 1]
        - ignored: (B, 1, h, w) bool
        - image, cell: (N,) int64, where the centre of each object lies, row-major
        - size: (N, 2), width and height in cells
        - offset: (N, 2), from the cell's corner to the centre, in cells
    """

    heatmap: Tensor
    ignored: Tensor
    image: Tensor
    cell: Tensor
    size: Tensor
    offset: Tensor


@MODELS.register_module()
class CenterDetectionHead(TaskHead):
    """Predict a heatmap of centres per class, and size and offset at each cell.

    Boxes are the peaks of the heatmap: 3x3 max pooling picks them, so there is neither
    an anchor nor suppression of overlaps.

    Args:
        num_classes: Number of classes C.
        in_channels: Channels of the levels that are read.
        in_index: Which maps these are, the finest first.
        stride: Pixels of the input per cell of the finest map that is read.
        channels: Width of the decoder.
        refine: See :class:`LevelDecoder`.
        norm_cfg: Norm layers; None = BN.
        min_overlap: IoU that a box has at least if its centre is predicted inside of
            the drawn Gaussian, in (0, 1).
        top_k: Boxes per image at most.
        score_threshold: Boxes below it are left out, in [0, 1].
        loss_heatmap: Config of the heatmap's loss; None = :class:`HeatmapFocalLoss`.
        size_weight: Factor on the mean absolute error of sizes, in cells.
        offset_weight: Factor on that of offsets.
        target: Field of the truth; it predicts ``pred_...`` instead of ``gt_...``.
        ignored: Field of boxes that are neither objects nor background.
        init_cfg: As in mmengine.

    Shape:
        - input: maps (B, in_channels[i], h_i, w_i), the finest first.
        - output: (B, C + 4, h_0, w_0): logits, width and height, offset in x and y

    Raises:
        ValueError: If ``min_overlap`` is out of range.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: Sequence[int],
        in_index: Sequence[int] = (0, 1, 2, 3),
        stride: int = 4,
        channels: int = 64,
        refine: bool = True,
        norm_cfg: dict | None = None,
        min_overlap: float = 0.7,
        top_k: int = 100,
        score_threshold: float = 0.01,
        loss_heatmap: dict | None = None,
        size_weight: float = 0.1,
        offset_weight: float = 1.0,
        target: str = 'gt_instances',
        ignored: str = 'ignored_instances',
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(in_channels, in_index, target, init_cfg)
        if not 0 < min_overlap < 1:
            raise ValueError(
                f'CenterDetectionHead has min_overlap={min_overlap}, expected an IoU '
                'in (0, 1). Change it in task_heads.'
            )
        self.num_classes = num_classes
        self.stride = stride
        self.min_overlap = min_overlap
        self.top_k = top_k
        self.score_threshold = score_threshold
        self.size_weight = size_weight
        self.offset_weight = offset_weight
        self.ignored = ignored
        self.loss_heatmap = MODELS.build(
            loss_heatmap or dict(type='mmseg_xmodal.HeatmapFocalLoss')
        )
        self.decoder = LevelDecoder(
            self.in_channels, num_classes + 4, channels, refine, norm_cfg
        )
        bias = self.decoder.classifier.bias
        if bias is not None:
            with torch.no_grad():
                bias[:num_classes] = math.log(_PRIOR / (1 - _PRIOR))

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        """Raw output, (B, C + 4, h, w)."""
        return self.decoder(self.select(feats))

    def loss(
        self,
        feats: Sequence[Tensor],
        data_samples: Sequence[SegDataSample],
        train_cfg: Mapping[str, Any] | None = None,
    ) -> dict[str, Tensor]:
        """See :meth:`TaskHead.loss`.

        ``loss_heatmap``, ``loss_size`` and ``loss_offset``; a batch without objects has
        only the first.
        """
        output = at_least_single(self(feats))
        size = (output.shape[2], output.shape[3])
        self._check_stride(size, data_samples[0].metainfo)
        truth = self.targets(data_samples, size)
        heat, boxes = output.split([self.num_classes, 4], 1)
        found = boxes.flatten(2).transpose(1, 2)[truth.image, truth.cell]
        count = max(2 * len(found), 1)
        size_error = F.l1_loss(found[:, :2], truth.size, reduction='sum')
        offset_error = F.l1_loss(found[:, 2:], truth.offset, reduction='sum')
        return dict(
            loss_heatmap=self.loss_heatmap(heat, truth.heatmap, truth.ignored),
            loss_size=self.size_weight * size_error / count,
            loss_offset=self.offset_weight * offset_error / count,
        )

    def _check_stride(self, size: tuple[int, int], meta: Mapping[str, Any]) -> None:
        padded = input_size(meta)
        if padded is None:
            return
        # A backbone rounds up or down.
        if any(
            abs(n * self.stride - p) >= self.stride
            for n, p in zip(size, padded, strict=True)
        ):
            raise ValueError(
                f'CenterDetectionHead has stride={self.stride}, but reads a map of '
                f'(height, width) = {size} of an input of {padded}. Set stride to the '
                'pixels per cell of the first map of in_index, in task_heads.'
            )

    @torch.no_grad()
    def targets(
        self, data_samples: Sequence[SegDataSample], size: tuple[int, int]
    ) -> CenterTargets:
        """Draw what a batch should be predicted as.

        Args:
            data_samples: With boxes in pixels of the input.
            size: Height and width of the heatmap.

        Raises:
            ValueError: If a box has no area or lies outside of the picture, or a label
                is no class.
        """
        height, width = size
        full = (height * self.stride, width * self.stride)
        pairs = [
            check_instances(sample, self.target, self.num_classes, full)
            for sample in data_samples
        ]
        boxes = torch.cat([bboxes for bboxes, _ in pairs]) / self.stride
        labels = torch.cat([labels for _, labels in pairs])
        counts = torch.tensor([len(b) for b, _ in pairs], device=labels.device)
        image = torch.arange(len(pairs), device=labels.device)
        image = image.repeat_interleave(counts)
        sizes = boxes[:, 2:] - boxes[:, :2]
        centres = (boxes[:, 2:] + boxes[:, :2]) / 2
        # A map that was rounded down ends before the picture does.
        cells = torch.minimum(
            centres.long(), torch.tensor([width - 1, height - 1], device=labels.device)
        )
        radii = gaussian_radius(sizes, self.min_overlap).long()
        planes = len(pairs) * self.num_classes
        index = image * self.num_classes + labels
        heatmap = draw_gaussians(planes, size, index, cells, radii)
        return CenterTargets(
            heatmap=heatmap.view(len(pairs), self.num_classes, height, width),
            ignored=self._ignored_cells(data_samples, size, labels.device),
            image=image,
            cell=cells[:, 1] * width + cells[:, 0],
            size=sizes,
            offset=centres - cells,
        )

    def _ignored_cells(
        self, samples: Sequence[SegDataSample], size: tuple[int, int], device: Any
    ) -> Tensor:
        """Cells whose centre lies in an ignored box, (B, 1, h, w) bool."""
        mask = torch.zeros(len(samples), 1, *size, dtype=torch.bool, device=device)
        y, x = ((torch.arange(n, device=device) + 0.5) * self.stride for n in size)
        for i, sample in enumerate(samples):
            if self.ignored not in sample or not len(sample.get(self.ignored)):
                continue
            x1, y1, x2, y2 = sample.get(self.ignored).bboxes[:, :, None].unbind(1)
            rows, columns = (y >= y1) & (y < y2), (x >= x1) & (x < x2)
            mask[i, 0] = (rows[:, :, None] & columns[:, None]).any(0)
        return mask

    def decode(self, output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes in pixels of the input, their scores and labels.

        Shape:
            - output: (B, C + 4, h, w)
            - bboxes: (B, K, 4); scores and labels: (B, K), the best first
        """
        heat, rest = at_least_single(output).split([self.num_classes, 4], 1)
        scores, labels, cells = pick_peaks(heat.sigmoid(), self.top_k)
        found = rest.flatten(2).transpose(1, 2)
        found = found.gather(1, cells[:, :, None].expand(-1, -1, 4))
        width = output.shape[3]
        corner = torch.stack([cells % width, cells // width], 2)
        centre, half = corner + found[..., 2:], found[..., :2].clamp(min=0) / 2
        bboxes = torch.cat([centre - half, centre + half], 2) * self.stride
        return bboxes, scores, labels

    def predict(
        self,
        feats: Sequence[Tensor],
        batch_img_metas: Sequence[Mapping[str, Any]],
        test_cfg: Mapping[str, Any] | None = None,
    ) -> list[dict[str, InstanceData]]:
        """Boxes per image, in pixels of the original image.

        Returns:
            Per image a field of ``bboxes`` (N, 4) xyxy, ``scores`` (N,) and ``labels``
            (N,), the best first.
        """
        output = self(feats)
        self._check_stride((output.shape[2], output.shape[3]), batch_img_metas[0])
        results = []
        name = 'pred_' + self.target.removeprefix('gt_')
        for boxes, scores, labels, meta in zip(
            *self.decode(output), batch_img_metas, strict=True
        ):
            boxes = boxes_to_original(boxes, meta)
            # Clipped away: what was found in the padding.
            kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
            kept &= (scores >= self.score_threshold) & (scores > 0)
            instances = InstanceData(
                bboxes=boxes[kept], scores=scores[kept], labels=labels[kept]
            )
            results.append({name: instances})
        return results
