"""Windows, and the way back from the network's input to the original image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmseg.structures import SegDataSample
from torch import Tensor
from torch.nn import functional as F

from ..decode_heads.task_head import DenseTaskHead
from ..layers.resolutions import slide_boxes
from ..layers.view import flip_axes


def image_metas(
    inputs: Tensor, samples: Sequence[SegDataSample] | None
) -> list[dict[str, Any]]:
    """Metainfo of each image, that of an untouched image where there are no samples."""
    if samples is not None:
        return [dict(sample.metainfo) for sample in samples]
    size = inputs.shape[2:]
    meta = dict(ori_shape=size, img_shape=size, pad_shape=size, padding_size=[0] * 4)
    return [dict(meta) for _ in range(len(inputs))]


def restore(output: Tensor, meta: Mapping[str, Any], align_corners: bool) -> Tensor:
    """Undo padding, flip and resize, in this order, as mmseg does for its logits.

    Args:
        output: Map at the size of the network's input.
        meta: Metainfo of the image.
        align_corners: As in ``F.interpolate``.

    Shape:
        - output: (C, H, W)
        - result: (C, \\*ori_shape) float32

    Raises:
        ValueError: If the direction of a flip is unknown.
    """
    padding = meta.get('img_padding_size', meta.get('padding_size', (0, 0, 0, 0)))
    left, right, top, bottom = padding
    height, width = output.shape[-2:]
    output = output[..., top : height - bottom, left : width - right].float()
    horizontal, vertical = flip_axes(meta)
    output = output.flip([-2] * vertical + [-1] * horizontal)
    size = tuple(int(n) for n in meta['ori_shape'][:2])
    if tuple(output.shape[-2:]) == size:
        return output
    return F.interpolate(
        output[None], size, mode='bilinear', align_corners=align_corners
    )[0]


def add_maps(
    head: DenseTaskHead,
    outputs: Tensor,
    metas: Sequence[Mapping[str, Any]],
    samples: Sequence[SegDataSample],
) -> None:
    """Put the predictions of a dense task into the data samples.

    Shape:
        - outputs: (B, C, H, W), the size of the network's input
    """
    for output, meta, sample in zip(outputs, metas, samples, strict=True):
        full = restore(output, meta, head.align_corners)
        sample.set_data(head.finish(full, meta))


def slide(
    predict: Callable[[Tensor, list[dict[str, Any]]], Tensor],
    inputs: Tensor,
    metas: Sequence[Mapping[str, Any]],
    channels: int,
    crop: tuple[int, int],
    stride: tuple[int, int],
) -> Tensor:
    """Average the maps of overlapping windows, laid out as mmseg lays them.

    Args:
        predict: Maps of a window from its pixels and the metas; ``img_shape`` in them
            is the window's.
        inputs: The images.
        metas: Their metainfo, which stays as it is.
        channels: Of the maps.
        crop: Height and width of a window, in pixels.
        stride: Steps between windows, in pixels.

    Shape:
        - inputs: (B, C, H, W)
        - output: (B, channels, H, W)

    Raises:
        ValueError: If the windows leave gaps.
    """
    if stride[0] > crop[0] or stride[1] > crop[1]:
        raise ValueError(
            f'test_cfg has stride={tuple(stride)} and crop_size={tuple(crop)}, '
            'expected a stride of at most the crop: windows must not leave gaps. '
            'Change test_cfg in the model.'
        )
    size = (inputs.shape[2], inputs.shape[3])
    total = inputs.new_zeros(len(inputs), channels, *size)
    count = inputs.new_zeros(size)
    for box in slide_boxes(size, crop, stride):
        # Heads resize to `img_shape` where it is a torch.Size.
        window = box.cut(inputs)
        own = [dict(meta, img_shape=window.shape[2:]) for meta in metas]
        box.cut(total).add_(predict(window, own))
        box.cut(count).add_(1)
    return total / count
