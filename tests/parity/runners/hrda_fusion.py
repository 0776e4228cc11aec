"""HRDA: fusing two resolutions, its losses, sliding, the whole head, crops.

Cases are told by their names. Of each only what is recorded is computed.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmseg_xmodal.models.decode_heads import MultiResolutionHead
from mmseg_xmodal.models.layers.resolutions import (
    CropBox,
    FusedLogits,
    ResolutionFeatures,
    Size,
    average_windows,
    draw_crop,
    fuse_resolutions,
    slide_boxes,
)
from mmseg_xmodal.registry import MODELS

from ..fill import make_input, make_uniform
from ..fixture import Fixture, NoRunner
from .daformer_head import build_head
from .sections import Parts

BOX = 'crop_box_y1y2x1x2'
CROPS = r'crop_boxes_seed(\d+)'


def run_hrda_fusion(fixture: Fixture) -> dict[str, Tensor]:
    """Compute all outputs of the fixture.

    Raises:
        NoRunner: If it has a case that is unknown, or that does not state its crop.
    """
    parts = Parts(fixture, 'label')
    for name, compute in CASES.items():
        if recorded := parts.under(f'{name}.'):
            parts.add(recorded, functools.partial(compute, fixture, name))
    crops = [name for name in parts.arrays if re.fullmatch(CROPS, name)]
    if crops:
        parts.add(crops, functools.partial(_drawn, fixture))
    unknown = {
        name: name.partition('.')[0]
        for name in parts.arrays
        if name not in ('label', *crops) and name.partition('.')[0] not in CASES
    }
    cases = sorted(set(unknown.values()) | set(fixture.meta['cases']) - set(CASES))
    if cases:
        parts.lack(f'no runner for the HRDA cases {cases}', unknown)
    return parts.finish()


def _settings(fixture: Fixture) -> Mapping[str, Any]:
    return fixture.meta.get('settings') or {}


def _picture_size(fixture: Fixture, name: str) -> Size:
    """Height and width of the picture of a case, from what is stated or recorded."""
    spec, recorded = fixture.meta['cases'].get(name, {}), fixture.arrays()
    stated = spec.get('full_size')
    if stated is None and f'{name}.fused' in recorded:
        stride = _settings(fixture).get('output_stride', 4)
        stated = [stride * side for side in recorded[f'{name}.fused'].shape[2:]]
    if stated is None and (text := re.match(r'(\d+)x(\d+)', spec.get('image', ''))):
        stated = text.groups()
    if stated is None:
        sizes = [
            s['full_size'] for s in fixture.meta['cases'].values() if 'full_size' in s
        ]
        assert sizes, f'{fixture.name}: the picture of case {name} has no size'
        stated = sizes[0]
    return int(stated[0]), int(stated[1])


def _inputs(fixture: Fixture, *names: str) -> list[Tensor]:
    shapes = {i['name']: i['shape'] for i in fixture.meta['inputs']}
    return [make_input(f'hrda.{name}', shapes[f'hrda.{name}']) for name in names]


def _boxed(fixture: Fixture, name: str) -> dict[str, Tensor]:
    """One crop; with losses where they are recorded."""
    cases = fixture.meta['cases']
    # The case of the scalar attention states none: it has that of the crop.
    stated = (cases.get(case, {}).get(BOX) for case in (name, 'crop'))
    box = next((b for b in stated if b is not None), None)
    if box is None:
        raise NoRunner(f'{fixture.name}: no runner for case {name!r} without {BOX}')
    attention = 'att1_logits' if 'scalar' in name else 'att_logits'
    maps = fuse_resolutions(
        *_inputs(fixture, 'lr_logits', 'hr_logits', attention),
        CropBox(*box),
        _picture_size(fixture, name),
    )
    return _named(name, maps) | _losses(fixture, name, maps)


def _nocrop(fixture: Fixture, name: str) -> dict[str, Tensor]:
    size = _picture_size(fixture, name)
    maps = fuse_resolutions(
        *_inputs(fixture, 'lr_logits', 'hr_full_logits', 'att_logits'),
        CropBox.whole(size),
        size,
    )
    return _named(name, maps) | _losses(fixture, name, maps)


def _named(name: str, maps: FusedLogits) -> dict[str, Tensor]:
    return {
        f'{name}.fused': maps.fused,
        f'{name}.lr_scaled': maps.context,
        f'{name}.hr': maps.detail,
        f'{name}.attention': maps.attention,
    }


def _losses(fixture: Fixture, name: str, maps: FusedLogits) -> dict[str, Tensor]:
    """Losses of given logits, with weights of the pixels."""
    recorded = fixture.arrays()
    if not {f'{name}.loss_seg', f'{name}.hr_loss_seg'} & set(recorded):
        return {}
    label = torch.from_numpy(recorded['label'])
    classes = maps.fused.shape[1]
    cfg = dict(type='mmseg_xmodal.DAFormerHead', num_classes=classes)
    cfg |= dict(in_channels=[4], channels=4, embed_dims=4, fusion='conv1')
    share = _settings(fixture).get('hr_loss_weight', 0.1)
    head = MultiResolutionHead(MODELS.build(cfg), MODELS.build(cfg), share)
    weight = make_uniform('hrda.weight', [len(label), *maps.size]).float()
    losses = head.losses_of(maps, label.long(), weight)
    return {
        f'{name}.loss_seg': losses['loss_ce'],
        f'{name}.hr_loss_seg': losses['detail_loss_ce'],
    }


def _slide(fixture: Fixture, name: str) -> dict[str, Tensor]:
    """Windows over the whole picture, laid as our segmentor lays them."""
    size = _picture_size(fixture, name)
    boxes = [CropBox(*b) for b in fixture.meta['cases'][name]['boxes']]
    crop = boxes[0].size
    stride = (
        _step([b.top for b in boxes], crop[0]),
        _step([b.left for b in boxes], crop[1]),
    )
    assert list(slide_boxes(size, crop, stride)) == boxes
    context, attention, windows = _inputs(
        fixture, 'lr_logits', 'att_logits', 'slide_logits'
    )
    canvas = average_windows(windows, boxes, size)
    maps = fuse_resolutions(context, canvas, attention, CropBox.whole(size), size)
    return _named(name, maps) | {f'{name}.hr_canvas': canvas}


def _step(starts: Sequence[int], crop: int) -> int:
    """Stride of windows; half of a window where there is only one."""
    places = sorted(set(starts))
    return places[1] - places[0] if len(places) > 1 else crop // 2


def _full(fixture: Fixture, name: str) -> dict[str, Tensor]:
    """The whole head with official weights, in eval mode."""
    state = fixture.official_weights()
    head = MultiResolutionHead(
        build_head(fixture, state, 'decode_head.head.'),
        build_head(fixture, state, 'decode_head.scale_attention.'),
        _settings(fixture).get('hr_loss_weight', 0.1),
    ).eval()
    official = {k.removeprefix('decode_head.') for k in state}
    assert set(head.state_dict()) == official
    case = fixture.meta['cases'][name]
    maps = [make_input(i['name'], i['shape']) for i in case['inputs']]
    levels = len(maps) // 2
    size = _picture_size(fixture, name)
    boxes = tuple(CropBox(*b) for b in case.get('boxes') or [case[BOX]])
    feats = ResolutionFeatures(
        tuple(maps[:levels]), tuple(maps[levels:]), boxes, size, size
    )
    with torch.no_grad():
        return _named(name, head.decode(feats))


def _drawn(fixture: Fixture) -> dict[str, Tensor]:
    """As many crops as are recorded, for each seed."""
    spec: Mapping[str, Any] = fixture.meta['cases'].get('crop_sampling', {})
    outputs = {}
    for name, boxes in fixture.arrays().items():
        if match := re.fullmatch(CROPS, name):
            rng = np.random.RandomState(int(match[1]))
            image, crop = tuple(spec['image']), tuple(spec['crop'])
            divisor = spec.get('divisible', 8)
            drawn = [draw_crop(image, crop, divisor, rng) for _ in range(len(boxes))]
            edges = [[b.top, b.bottom, b.left, b.right] for b in drawn]
            outputs[name] = torch.tensor(edges)
    return outputs


CASES: dict[str, Callable[[Fixture, str], dict[str, Tensor]]] = {
    'crop': _boxed,
    'crop_corner': _boxed,
    'crop_scalar_att': _boxed,
    'nocrop': _nocrop,
    'slide': _slide,
    'full': _full,
    # Its arrays are named by the seed.
    'crop_sampling': lambda fixture, name: {},
}
