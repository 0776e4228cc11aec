"""A multi-task model of a few thousand weights, and batches for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.structures import BaseDataElement, InstanceData, LabelData, PixelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmseg_xmodal.models.balancing.base import LossBalancer
from mmseg_xmodal.models.decode_heads.task_head import DenseTaskHead, TaskHead
from mmseg_xmodal.models.interactions.base import TaskInteraction
from mmseg_xmodal.models.segmentors import MultiTaskEncoderDecoder
from mmseg_xmodal.registry import MODELS

from .helpers import rand

WIDTHS = (8, 16, 24, 32)
TINY = dict(embed_dims=WIDTHS, depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4))
SIZE = (32, 64)
BACKBONE = dict(
    type='mmseg_xmodal.MixTransformer',
    variant=TINY,
    in_channels=3,
    drop_path_rate=0.0,
)
SEG = dict(
    type='FCNHead',
    in_channels=16,
    in_index=1,
    channels=8,
    num_convs=1,
    # Each map is read once: else a gate adds up its task's gradients first, and
    # float32 sums differ in the last bit.
    concat_input=False,
    num_classes=3,
    dropout_ratio=0.0,
    norm_cfg=dict(type='BN'),
)
AUX = SEG | dict(in_channels=24, in_index=2, num_classes=3)


@MODELS.register_module()
class ToyMap(DenseTaskHead):
    """One number per pixel, read from the first level alone."""

    def __init__(self, target: str = 'gt_height', **kwargs: Any) -> None:
        super().__init__(
            out_channels=1, in_channels=(8,), in_index=(0,), target=target, **kwargs
        )
        self.conv = nn.Conv2d(8, 1, 1)
        self.metas: list[Mapping[str, Any]] = []

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        return self.conv(self.select(feats)[0])

    def loss_of(
        self, output: Tensor, data_samples: Sequence[SegDataSample]
    ) -> dict[str, Tensor]:
        truth = torch.stack([sample.get(self.target).data for sample in data_samples])
        output = nn.functional.interpolate(output.float(), truth.shape[2:])
        error = (output - truth).square().mean()
        return dict(loss_square=error, rmse=error.sqrt())

    def finish(
        self, output: Tensor, img_meta: Mapping[str, Any]
    ) -> dict[str, BaseDataElement]:
        self.metas.append(img_meta)
        name = 'pred_' + self.target.removeprefix('gt_')
        return {name: PixelData(data=output)}


@MODELS.register_module()
class ToyBoxes(TaskHead):
    """One box per image; it remembers the sizes of the maps that it has read."""

    def __init__(self) -> None:
        # The only head that reads the last level.
        super().__init__(in_channels=(32,), in_index=(3,), target='gt_instances')
        self.fc = nn.Linear(32, 4)
        self.seen: list[tuple[int, ...]] = []

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        (feat,) = self.select(feats)
        self.seen.append(tuple(feat.shape[2:]))
        return self.fc(feat.mean((2, 3)))

    def loss(
        self,
        feats: Sequence[Tensor],
        data_samples: Sequence[SegDataSample],
        train_cfg: Any = None,
    ) -> dict[str, Tensor]:
        boxes = [sample.gt_instances.bboxes for sample in data_samples]
        pairs = zip(self(feats), boxes, strict=True)
        # Mean over the boxes of all images; zero where there is none.
        errors = torch.cat([(out - box).abs().flatten() for out, box in pairs])
        return dict(loss_box=errors.sum() / max(errors.numel(), 1))

    def predict(
        self, feats: Sequence[Tensor], batch_img_metas: Any, test_cfg: Any = None
    ) -> list[dict[str, InstanceData]]:
        return [
            dict(pred_instances=InstanceData(bboxes=box[None])) for box in self(feats)
        ]


@MODELS.register_module()
class ToyBalancer(LossBalancer):
    """A learnable factor per task."""

    def __init__(self, tasks: Sequence[str], factor: float = 2.0) -> None:
        super().__init__(tasks)
        self.factors = nn.ParameterDict(
            {task: nn.Parameter(torch.tensor(factor)) for task in tasks}
        )

    def weigh(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {task: self.factors[task] * loss for task, loss in losses.items()}


@MODELS.register_module()
class ToyInteraction(TaskInteraction):
    """A 1x1 convolution per task and level, and one first prediction per task."""

    def __init__(self, in_channels: Sequence[int], tasks: Mapping[str, int]) -> None:
        super().__init__(in_channels, tasks)
        self.levels = nn.ModuleDict(
            {
                task: nn.ModuleList(nn.Conv2d(c, c, 1) for c in in_channels)
                for task in tasks
            }
        )
        self.first = nn.ModuleDict(
            {task: nn.Conv2d(8, out, 1) for task, out in tasks.items()}
        )

    @property
    def out_channels(self) -> list[int]:
        return list(self.in_channels)

    def forward(self, feats: Sequence[Tensor]) -> Any:
        pyramids = {
            task: tuple(conv(f) for conv, f in zip(convs, feats, strict=True))
            for task, convs in self.levels.items()
        }
        first = {task: [conv(pyramids[task][0])] for task, conv in self.first.items()}
        return pyramids, first


def toy_heads() -> dict[str, dict]:
    """A dense task, a second segmentation, and a task without a map."""
    return dict(
        height=dict(type='mmseg_xmodal.ToyMap'),
        cover=SEG | dict(num_classes=4),
        det=dict(type='mmseg_xmodal.ToyBoxes'),
    )


def toy_model(task_heads: dict | None = None, **kwargs: Any) -> MultiTaskEncoderDecoder:
    """Build a model, the same weights every time."""
    torch.manual_seed(0)
    cfg = dict(
        type='mmseg_xmodal.MultiTaskEncoderDecoder',
        backbone=dict(BACKBONE),
        decode_head=dict(SEG),
        task_heads=toy_heads() if task_heads is None else task_heads,
    )
    return MODELS.build(cfg | kwargs)


def toy_inputs(count: int = 2, size: tuple[int, int] = SIZE) -> Tensor:
    """Standard normal images."""
    return rand(count, 3, *size)


def toy_samples(
    count: int = 2, size: tuple[int, int] = SIZE, without: Sequence[str] = ()
) -> list[SegDataSample]:
    """Samples with every field of truth but those in ``without``."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for i in range(count):
        meta = dict(img_path=f'{i}.png', ori_shape=size, img_shape=size)
        sample = SegDataSample(metainfo=meta | dict(pad_shape=size))
        fields = dict(
            gt_sem_seg=PixelData(data=_labels(3, size, generator)),
            gt_cover=PixelData(data=_labels(4, size, generator)),
            gt_height=PixelData(data=torch.randn(1, *size, generator=generator)),
            gt_instances=InstanceData(
                bboxes=torch.tensor([[4.0, 4.0, 20.0 + i, 24.0]]),
                labels=torch.tensor([0]),
            ),
            gt_label=LabelData(label=torch.tensor([i % 3])),
        )
        sample.set_data({k: v for k, v in fields.items() if k not in without})
        samples.append(sample)
    return samples


def _labels(classes: int, size: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.randint(0, classes, (1, *size), generator=generator)


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """Gradient of every parameter; the test fails where there is none."""
    named = dict(module.named_parameters())
    assert [name for name, p in named.items() if p.grad is None] == []
    return {name: p.grad.clone() for name, p in named.items()}


def step(model: Any, samples: list | None = None) -> tuple[Tensor, dict]:
    """Scalar and log of one batch."""
    samples = toy_samples() if samples is None else samples
    losses = model.loss(toy_inputs(len(samples)), samples)
    return model.parse_losses(losses)
