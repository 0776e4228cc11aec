"""HRDA: fusing two resolutions, its losses, sliding, the whole head, crops."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmseg_xmodal.models.decode_heads import MultiResolutionHead
from mmseg_xmodal.models.layers.resolutions import (
    CropBox,
    FusedLogits,
    ResolutionFeatures,
    average_windows,
    draw_crop,
    fuse_resolutions,
    slide_boxes,
)
from mmseg_xmodal.registry import MODELS

from ..fill import make_input, make_uniform
from ..fixture import Fixture
from .daformer_head import build_head, filled

BATCH = 2


def run_hrda_fusion(fixture: Fixture) -> dict[str, Tensor]:
    """Compute all outputs of the fixture."""
    cases = fixture.meta['cases']
    given = {
        i['name']: make_input(i['name'], i['shape']) for i in fixture.meta['inputs']
    }
    size = tuple(cases['crop']['full_size'])
    label = torch.from_numpy(fixture.arrays()['label'])
    outputs = {'label': label}  # an input

    def fuse(detail: str, box: Any, attention: str = 'hrda.att_logits') -> FusedLogits:
        return fuse_resolutions(
            given['hrda.lr_logits'],
            given[detail],
            given[attention],
            CropBox.whole(size) if box is None else CropBox(*box),
            size,
        )

    box = cases['crop']['crop_box_y1y2x1x2']
    crop = fuse('hrda.hr_logits', box)
    corner = fuse('hrda.hr_logits', cases['crop_corner']['crop_box_y1y2x1x2'])
    for name, maps in (('crop', crop), ('crop_corner', corner)):
        outputs[f'{name}.fused'] = maps.fused
        outputs |= {
            f'{name}.{key}': value
            for key, value in _losses(fixture, maps, label).items()
        }
    outputs['crop.lr_scaled'], outputs['crop.hr'] = crop.context, crop.detail
    scalar = fuse('hrda.hr_logits', box, 'hrda.att1_logits')
    outputs['crop_scalar_att.fused'] = scalar.fused
    outputs['nocrop.fused'] = fuse('hrda.hr_full_logits', None).fused

    boxes = [CropBox(*b) for b in cases['slide']['boxes']]
    assert list(slide_boxes(size, boxes[0].size, (32, 32))) == boxes
    canvas = average_windows(given['hrda.slide_logits'], boxes, size)
    given['canvas'] = canvas
    outputs['slide.hr_canvas'] = canvas
    outputs['slide.fused'] = fuse('canvas', None).fused
    return outputs | _full(fixture) | _drawn(cases['crop_sampling'])


def _losses(fixture: Fixture, maps: FusedLogits, label: Tensor) -> dict[str, Tensor]:
    """Losses of given logits, with weights of the pixels."""
    classes = maps.fused.shape[1]
    cfg = dict(type='mmseg_xmodal.DAFormerHead', num_classes=classes)
    cfg |= dict(in_channels=[4], channels=4, embed_dims=4, fusion='conv1')
    share = fixture.meta['settings']['hr_loss_weight']
    head = MultiResolutionHead(MODELS.build(cfg), MODELS.build(cfg), share)
    weight = make_uniform('hrda.weight', [BATCH, *maps.size]).float()
    losses = head.losses_of(maps, label.long(), weight)
    return {'loss_seg': losses['loss_ce'], 'hr_loss_seg': losses['detail_loss_ce']}


def _full(fixture: Fixture) -> dict[str, Tensor]:
    """The whole head with official weights, in eval mode."""
    state = filled(fixture)
    head = MultiResolutionHead(
        build_head(state, 'decode_head.head.'),
        build_head(state, 'decode_head.scale_attention.'),
        fixture.meta['settings']['hr_loss_weight'],
    ).eval()
    official = {k.removeprefix('decode_head.') for k in state}
    assert set(head.state_dict()) == official
    case = fixture.meta['cases']['full']
    maps = [make_input(i['name'], i['shape']) for i in case['inputs']]
    size = (128, 128)
    box = CropBox(*case['crop_box_y1y2x1x2'])
    feats = ResolutionFeatures(tuple(maps[:4]), tuple(maps[4:]), (box,), size, size)
    with torch.no_grad():
        out = head.decode(feats)
    return {
        'full.fused': out.fused,
        'full.lr_scaled': out.context,
        'full.hr': out.detail,
        'full.attention': out.attention,
    }


def _drawn(spec: dict[str, Any]) -> dict[str, Tensor]:
    rng = np.random.RandomState(spec['numpy_seed'])
    image, crop = tuple(spec['image']), tuple(spec['crop'])
    boxes = [draw_crop(image, crop, spec['divisible'], rng) for _ in range(12)]
    edges = [[b.top, b.bottom, b.left, b.right] for b in boxes]
    return {f'crop_boxes_seed{spec["numpy_seed"]}': torch.tensor(edges)}
