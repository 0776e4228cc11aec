"""Runner for the official DFormer repository, which holds DFormer and DFormerv2."""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_xmodal.models.converters import convert_official
from mmseg_xmodal.models.converters.dformer import DFORMER
from mmseg_xmodal.models.layers.dformer_sizes import DFORMER_VARIANTS
from mmseg_xmodal.registry import MODELS

from ..fill import make_uniform
from ..fixture import Fixture, NoRunner
from .dformerv2 import require_ham, run_dformerv2
from .names import plain_name, stated_variant
from .norms import check_eps

REPOSITORY = 'https://github.com/VCIP-RGBD/DFormer'


def nmf_bases(channels: int = 512, rank: int = 64) -> Tensor:
    """The bases that the fixtures' Ham head starts from."""
    return F.normalize(make_uniform('nmf_bases', [1, channels, rank]), dim=1)


def is_v2(fixture: Fixture) -> bool:
    """Whether the variant is one of DFormerv2, however it is spelled."""
    names = (fixture.variant, stated_variant(fixture))
    return any('v2' in plain_name(name) for name in names)


def run_dformer_family(fixture: Fixture) -> dict[str, Tensor]:
    """Compute all outputs of a DFormer or DFormerv2 fixture.

    Raises:
        NoRunner: If the variant is not built yet.
    """
    return run_dformerv2(fixture) if is_v2(fixture) else run_dformer(fixture)


def dformer_config(fixture: Fixture) -> dict:
    """Our config of the fixture's variant, head and class count.

    Raises:
        NoRunner: If the variant or the decoder is not built yet.
    """
    meta, constructor = fixture.meta, fixture.meta.get('constructor') or {}
    stated = stated_variant(fixture)
    variant = find_variant(stated) or find_variant(fixture.variant)
    if variant is None:
        raise NoRunner(f'{fixture.name}: no runner for DFormer variant {stated!r}')
    require_ham(fixture, 'DFormer')
    shapes = meta['state_dict']
    channels = {
        'rgb': shapes['backbone.downsample_layers.0.0.weight'][1],
        'depth': shapes['backbone.downsample_layers_e.0.0.weight'][1],
    }
    classes, width = shapes['decode_head.conv_seg.weight'][:2]
    modalities = {name: dict(channels=channels[name]) for name in channels}
    return dict(
        type='mmseg.EncoderDecoder',
        data_preprocessor=dict(
            type='mmseg_xmodal.ModalityPreprocessor', modalities=modalities
        ),
        backbone=dict(
            type='mmseg_xmodal.DFormer', modalities=modalities, variant=variant
        ),
        decode_head=dict(
            type='mmseg_xmodal.HamHead',
            in_channels=DFORMER_VARIANTS[variant].embed_dims[1:],
            ham_channels=shapes['decode_head.squeeze.conv.weight'][0],
            channels=width,
            num_classes=classes,
            norm_cfg=dict(type='BN', eps=constructor.get('bn_eps', 1e-3)),
        ),
        test_cfg=dict(mode='whole'),
    )


def find_variant(name: str) -> str | None:
    """Our name of a size that is spelled like ``DFormer-Tiny`` or ``DFormer_T``."""
    text = re.sub('[^a-z]', '', name.lower()).removeprefix('dformer')
    sizes = [ours for ours in DFORMER_VARIANTS if ours.split('_')[1].startswith(text)]
    return sizes[0] if text and sizes else None


def _has_no_place(key: str) -> bool:
    """Whether an official key is of an auxiliary head."""
    return DFORMER.translate(key, torch.empty(0)) == {}


def _record(model: nn.Module, case: str, outputs: dict[str, Tensor]) -> list:
    """Hook the maps of both streams; return the handles."""

    def stages(_module, _args, result) -> None:
        for index, feat in enumerate(result, 1):
            outputs[f'{case}_stage{index}'] = feat

    def depth(index: int):
        def hook(_module, _args, result) -> None:
            outputs[f'{case}_depth{index}'] = result[1].permute(0, 3, 1, 2)

        return hook

    handles = [model.backbone.register_forward_hook(stages)]
    for index, blocks in enumerate(model.backbone.stages, 1):
        handles.append(blocks[-1].register_forward_hook(depth(index)))
    return handles


def stack_inputs(fixture: Fixture, case: str, channels: int) -> Tensor:
    """Stack RGB and the first channels of the depth, which official code reads."""
    inputs = fixture.inputs(case)
    rgb, depth = (inputs[name] for name in fixture.streams(case))
    return torch.cat([rgb, depth[:, :channels]], 1)


def run_dformer(fixture: Fixture) -> dict[str, Tensor]:
    """Compute all outputs of a DFormer fixture.

    Raises:
        NoRunner: If the variant or the decoder is not built yet.
    """
    model = MODELS.build(dformer_config(fixture)).eval()
    check_eps(model, fixture, lambda key: key, _has_no_place)
    nmf = model.decode_head.nmf
    nmf.set_bases(nmf_bases(nmf.channels, nmf.rank))
    outputs: dict[str, Tensor] = {}
    for case in fixture.meta['cases']:
        converted = convert_official(DFORMER, fixture.official_state(case))
        model.load_state_dict(converted, strict=True)
        stack = stack_inputs(fixture, case, model.backbone.input.channels[1])
        handles = _record(model, case, outputs)
        with torch.no_grad():
            outputs[f'{case}_logits'] = model(stack, mode='tensor')
        for handle in handles:
            handle.remove()
    return outputs
