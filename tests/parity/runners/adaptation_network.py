"""Whole networks of DAFormer and of HRDA, from the image to the logits."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmseg_xmodal.models.converters import Official, convert_official
from mmseg_xmodal.models.converters.daformer import DAFORMER, HRDA, daformer_key
from mmseg_xmodal.models.layers.mit import MIT_VARIANTS
from mmseg_xmodal.models.layers.resolutions import CropBox
from mmseg_xmodal.registry import MODELS

from ..fill import make_input
from ..fixture import Fixture, NoRunner
from .daformer_head import head_config
from .norms import check_eps
from .sections import Parts

# Where a fixture may state the side of the windows at full resolution.
SIDES = ('hr_crop_size', 'detail_size', 'crop_size')
BOX = 'crop_box_y1y2x1x2'
# Names of a map of the backbone before its number.
MAPS = r'_(?:stage|feat|feature|c|fused)(\d)'


def run_network(fixture: Fixture) -> dict[str, Tensor]:
    """Compute maps and logits of every case.

    Raises:
        NoRunner: If the network is none of ours, or a case states no crop.
    """
    config, official = _config(fixture)
    model = MODELS.build(config).eval()
    check_eps(model, fixture, daformer_key)
    parts = Parts(fixture)
    for case in fixture.meta['cases']:
        parts.add(
            parts.under(f'{case}_'),
            functools.partial(_run_case, fixture, model, official, case),
        )
    return parts.finish()


def _run_case(
    fixture: Fixture, model: nn.Module, official: Official, case: str
) -> dict[str, Tensor]:
    spec = fixture.meta['cases'][case]
    small = bool(spec.get('small'))
    state = convert_official(official, fixture.official_weights(small))
    model.load_state_dict(state, strict=True)
    (image,) = (make_input(i['name'], i['shape'], small) for i in spec['inputs'])
    with torch.no_grad():
        if official.name == 'hrda':
            values, maps = _resolutions(
                model, image, _boxes(fixture, model, image, case)
            )
        else:
            maps = model.extract_feat(image)
            values = dict(logits=model.decode_head(maps))
    outputs = {f'{case}_{name}': value for name, value in values.items()}
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
    prefixes = {'decode_head': 'decode_head.head.' if hrda else 'decode_head.'}
    if hrda:
        prefixes['scale_attention'] = 'decode_head.scale_attention.'
    # First what we do not have: a ValueError of the converter goes through.
    _check_backbone(fixture, state)
    heads = {k: head_config(fixture, state, at) for k, at in prefixes.items()}
    config = official.config(state) | heads
    config['test_cfg'] = dict(mode='whole')
    if hrda:
        config |= _resolution_settings(fixture)
    return config, dataclasses.replace(official, config=lambda _: config)


def _check_backbone(fixture: Fixture, state: Mapping[str, Tensor]) -> None:
    """The backbone is a MiT of a published size.

    Raises:
        NoRunner: If it is another.
    """
    widths, depths = [], []
    for stage in range(1, 5):
        patch = state.get(f'backbone.patch_embed{stage}.proj.weight')
        widths.append(0 if patch is None else patch.shape[0])
        blocks = rf'backbone\.block{stage}\.(\d+)\.'
        depths.append(len({m[1] for m in (re.match(blocks, k) for k in state) if m}))
    found = tuple(widths), tuple(depths)
    if found not in {(size.embed_dims, size.depths) for size in MIT_VARIANTS.values()}:
        raise NoRunner(
            f'{fixture.name}: no runner for DAFormer or HRDA on a backbone other than '
            f'MiT-B0 to B5: its widths and depths are {found}, and a key is '
            f'{next(iter(state))!r}'
        )


def _resolution_settings(fixture: Fixture) -> dict[str, Any]:
    """Share of the context, and size of the windows where it is stated."""
    meta = fixture.meta
    stated = {**(meta.get('constructor') or {}), **(meta.get('settings') or {})}
    settings = dict(context_scale=min(stated.get('scales', [0.5])))
    found = [stated[name] for name in SIDES if name in stated]
    if found:
        side: Any = found[0]
        size = tuple(side) if isinstance(side, Sequence) else (side, side)
        settings['detail_size'] = size
    return settings


def _boxes(
    fixture: Fixture, model: nn.Module, image: Tensor, case: str
) -> list[CropBox]:
    """The crop that a case states, or windows of the stated size.

    Raises:
        NoRunner: If neither is stated.
    """
    spec = fixture.meta['cases'][case]
    if BOX in spec:
        return [CropBox(*spec[BOX])]
    if 'detail_size' not in _resolution_settings(fixture):
        raise NoRunner(
            f'{fixture.name}: no runner for case {case!r} of HRDA without {BOX} in it '
            f'or one of {SIDES} in the settings'
        )
    return model.windows(image)


def _resolutions(
    model: nn.Module, image: Tensor, boxes: Sequence[CropBox]
) -> tuple[dict[str, Tensor], Sequence[Tensor]]:
    """Logits by name, and the maps of the small picture."""
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
