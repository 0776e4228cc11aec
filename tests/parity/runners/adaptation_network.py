"""Whole networks of DAFormer and of HRDA, from the image to the logits."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmseg_xmodal.models.converters import Official, convert_official
from mmseg_xmodal.models.converters.daformer import DAFORMER, HRDA, daformer_key
from mmseg_xmodal.models.layers.resolutions import CropBox
from mmseg_xmodal.registry import MODELS

from ..fill import make_input
from ..fixture import Fixture, NoRunner
from .daformer_head import check_fusion, filled, head_config
from .pairs import check_eps

# Where a fixture may state the side of the windows at full resolution.
SIDES = ('hr_crop_size', 'detail_size', 'crop_size')
BOX = 'crop_box_y1y2x1x2'
# Names of a map of the backbone before its number.
MAPS = r'_(?:stage|feat|feature|c|fused)(\d)'


def run_network(fixture: Fixture) -> dict[str, Tensor]:
    """Compute maps and logits of every case.

    Raises:
        NoRunner: If the network is none of ours, or a crop is not stated.
    """
    config, official = _config(fixture)
    model = MODELS.build(config).eval()
    check_eps(model, fixture, daformer_key)
    outputs: dict[str, Tensor] = {}
    for case, spec in fixture.meta['cases'].items():
        state = filled(fixture, bool(spec.get('small')))
        model.load_state_dict(convert_official(official, state), strict=True)
        (image,) = (
            make_input(i['name'], i['shape'], bool(spec.get('small')))
            for i in spec['inputs']
        )
        with torch.no_grad():
            if official.name == 'hrda':
                values, maps = _resolutions(model, image, spec)
            else:
                maps = model.extract_feat(image)
                values = dict(logits=model.decode_head(maps))
        outputs |= {f'{case}_{name}': value for name, value in values.items()}
        for name in fixture.arrays():
            if match := re.fullmatch(re.escape(case) + MAPS, name):
                outputs[name] = maps[int(match[1]) - 1]
    return outputs


def _config(fixture: Fixture) -> tuple[dict[str, Any], Official]:
    """Our config with what the weights do not tell, and the family."""
    shapes = fixture.meta['state_dict']
    keys = {key.removeprefix('model.'): key for key in shapes}
    state = {k: torch.empty(shapes[v], device='meta') for k, v in keys.items()}
    hrda = any(key.startswith('decode_head.scale_attention.') for key in state)
    official = HRDA if hrda else DAFORMER
    prefix = 'decode_head.head.' if hrda else 'decode_head.'
    check_fusion(fixture, [key.removeprefix(prefix) for key in state])
    try:
        config = official.config(state)
    except ValueError as error:
        raise NoRunner(
            f'{fixture.name}: no runner for this network: {error}'
        ) from error
    config['test_cfg'] = dict(mode='whole')
    config['decode_head'] = head_config(fixture, state, prefix)
    if hrda:
        prefix = 'decode_head.scale_attention.'
        config['scale_attention'] = head_config(fixture, state, prefix)
        config |= _resolution_settings(fixture)
    return config, dataclasses.replace(official, config=lambda _: config)


def _resolution_settings(fixture: Fixture) -> dict[str, Any]:
    """Sizes of the windows; only cases with a crop of their own go without."""
    meta = fixture.meta
    stated = {**(meta.get('constructor') or {}), **(meta.get('settings') or {})}
    scale = min(stated.get('scales', [0.5]))
    found = [stated[name] for name in SIDES if name in stated]
    if not found and all(BOX in spec for spec in meta['cases'].values()):
        return dict(context_scale=scale)
    if not found:
        raise NoRunner(
            f'{fixture.name}: no runner for HRDA without {BOX} in each case or one of '
            f'{SIDES} in the settings'
        )
    side: Any = found[0]
    size = tuple(side) if isinstance(side, Sequence) else (side, side)
    return dict(context_scale=scale, detail_size=size)


def _resolutions(
    model: nn.Module, image: Tensor, spec: Mapping[str, Any]
) -> tuple[dict[str, Tensor], Sequence[Tensor]]:
    """Logits by name, and the maps of the small picture."""
    boxes = [CropBox(*spec[BOX])] if BOX in spec else model.windows(image)
    feats = model.extract_feat(image, boxes)
    out = model.decode_head.decode(feats)
    values = dict(
        logits=out.fused,
        fused=out.fused,
        lr_scaled=out.context,
        hr=out.detail,
        attention=out.attention,
    )
    return values, feats.context
