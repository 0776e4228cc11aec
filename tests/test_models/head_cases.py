"""What the tests of the task heads share: features, samples, and common promises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.structures import InstanceData, LabelData, PixelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from .helpers import rand, without_gradient

WIDTHS = [8, 12, 16, 20]
SIZE = (36, 56)  # of the network's input, in pixels


def feats(
    size: tuple[int, int] = SIZE,
    batch: int = 2,
    dtype: torch.dtype = torch.float32,
    grad: bool = False,
) -> list[Tensor]:
    """A pyramid at strides 4, 8, 16 and 32, rounded up."""
    return [
        rand(batch, c, -(-size[0] // s), -(-size[1] // s), seed=s, dtype=dtype)
        .detach()
        .requires_grad_(grad)
        for c, s in zip(WIDTHS, (4, 8, 16, 32), strict=True)
    ]


def sample(size: tuple[int, int] = SIZE, **fields: Any) -> SegDataSample:
    """A sample of an input without padding; a tensor becomes a PixelData."""
    meta = dict(img_path='some/picture.png', img_shape=size, ori_shape=size)
    out = SegDataSample(metainfo=meta | dict(scale_factor=(1.0, 1.0), flip=False))
    for name, value in fields.items():
        data = PixelData(data=value) if isinstance(value, Tensor) else value
        out.set_field(data, name)
    return out


def instances(boxes: Sequence, labels: Sequence[int] | None = None) -> InstanceData:
    """Boxes in pixels, xyxy, and their class ids."""
    bboxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return InstanceData(
        bboxes=bboxes,
        labels=torch.tensor(labels or [0] * len(bboxes), dtype=torch.int64),
    )


def label(*values: float, dtype: torch.dtype = torch.int64) -> LabelData:
    """An image label."""
    return LabelData(label=torch.tensor(values, dtype=dtype))


def total(losses: dict[str, Tensor]) -> Tensor:
    """What is minimised."""
    return sum(value for name, value in losses.items() if 'loss' in name)


def check_training(head: nn.Module, samples: Sequence[SegDataSample]) -> None:
    """Losses are finite and reach every parameter and every map; also in bf16."""
    head.train()
    maps = feats(grad=True)
    losses = head.loss(maps, samples)
    assert losses
    assert all('loss' in name for name in losses)
    assert all(value.shape == () for value in losses.values())
    head.zero_grad()
    total(losses).backward()
    assert torch.isfinite(total(losses))
    assert without_gradient(head) == []
    assert all(maps[i].grad.abs().sum() > 0 for i in head.in_index)
    with torch.autocast('cpu', torch.bfloat16):
        half = head.loss(feats(), samples)
    for name, value in half.items():
        assert value.dtype == torch.float32
        # bf16 keeps 8 bits; losses of random maps are sums of many such roundings.
        torch.testing.assert_close(value, losses[name], rtol=0.1, atol=0.05)


def check_nothing_known(head: nn.Module, samples: Sequence[SegDataSample]) -> None:
    """A batch in which nothing is known: 0, connected to every parameter."""
    head.train().zero_grad()
    loss = total(head.loss(feats(), samples))
    assert float(loss.detach()) == 0
    loss.backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name
