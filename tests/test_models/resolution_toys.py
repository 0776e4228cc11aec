"""A small network at two resolutions, and what its tests share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmseg_xmodal.models.segmentors import MultiResolutionSegmentor
from mmseg_xmodal.registry import MODELS

from .head_cases import sample
from .helpers import TINY, rand, randomise

SIZE = (64, 96)
WIDTHS = list(TINY['embed_dims'])
HEAD = dict(type='mmseg_xmodal.DAFormerHead', in_channels=WIDTHS, embed_dims=6)
HEAD.update(channels=8, num_classes=5, dropout_ratio=0.0, dilations=(1, 2))
ATTENTION = dict(type='mmseg_xmodal.DAFormerHead', in_channels=WIDTHS, fusion='conv1')
ATTENTION.update(channels=8, embed_dims=6, dropout_ratio=0.0)

STOCK = dict(type='FCNHead', in_channels=WIDTHS[1], in_index=1, channels=8)
STOCK.update(num_classes=5, num_convs=1, norm_cfg=dict(type='BN'), dropout_ratio=0.0)
OWN_LOSS = dict(type='mmseg_xmodal.TokenFusionHead', in_channels=WIDTHS, channels=8)
OWN_LOSS.update(num_classes=5)
BYTES = dict(rgb=dict(channels=3, order='rgb', std=[60.0] * 3))
BYTES.update(depth=dict(channels=1, dtype='uint8', std=[60.0]))


def config(**changes: Any) -> dict[str, Any]:
    """Config of a segmentor with five classes on four channels."""
    # Several keys in every attention, so that queries matter.
    variant = TINY | dict(sr_ratios=(2, 2, 1, 1))
    backbone = dict(type='mmseg_xmodal.MixTransformer', variant=variant, in_channels=4)
    return dict(
        type='mmseg_xmodal.MultiResolutionSegmentor',
        backbone=backbone | dict(drop_path_rate=0.0),
        decode_head=HEAD,
        scale_attention=ATTENTION,
        detail_size=(32, 48),
    ) | dict(changes)


def build(**changes: Any) -> MultiResolutionSegmentor:
    """The segmentor, with weights that show mistakes."""
    model = MODELS.build(config(**changes))
    randomise(model)
    return model


def batch(size: tuple[int, int] = SIZE, count: int = 2) -> tuple[Tensor, list]:
    """Inputs and samples whose labels have ignored pixels."""
    labels = torch.from_numpy(np.random.RandomState(0).randint(0, 6, (count, 1, *size)))
    labels[labels == 5] = 255
    samples = [sample(size, gt_sem_seg=label) for label in labels]
    return rand(count, 4, *size), samples


def up(x: Tensor, factor: int) -> Tensor:
    """Bilinear upsampling."""
    return F.interpolate(x, scale_factor=factor, mode='bilinear', align_corners=False)
