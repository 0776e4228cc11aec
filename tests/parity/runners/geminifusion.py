"""Runner for the official GeminiFusion repository."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from mmseg_xmodal.models.converters import convert_official
from mmseg_xmodal.models.converters.geminifusion import GEMINIFUSION, gemini_key
from mmseg_xmodal.models.layers.mit import MIT_VARIANTS, mit_variant
from mmseg_xmodal.models.layers.swin_sizes import SWIN_VARIANTS, swin_variant
from mmseg_xmodal.registry import MODELS

from ..fixture import Fixture, NoRunner

REPOSITORY = 'https://github.com/JiaDingCN/GeminiFusion'
STREAMS = ('rgb', 'depth')


# As the official constructor calls them.
SWIN = {
    'swin_tiny': 'swin_t',
    'swin_small': 'swin_s',
    'swin_large': 'swin_l',
    'swin_large_window12': 'swin_l_384',
    'swin_large_window12_to_1k': 'swin_l_384',
}


def find_variant(name: str) -> str | None:
    """Our name of a size, however MiT is spelled; None when it is none."""
    if name in SWIN:
        return SWIN[name]
    match = re.search(r'mi(?:x_?)?t(?:ransformer)?[-_]?b([0-5])', name.lower())
    variant = f'mit_b{match[1]}' if match else None
    return variant if variant in MIT_VARIANTS else None


def gemini_config(fixture: Fixture) -> dict:
    """Our config of the fixture's variant, decoder and class count.

    Raises:
        NoRunner: If the variant is not built yet.
    """
    meta, constructor = fixture.meta, fixture.meta.get('constructor') or {}
    stated = str(constructor.get('backbone', fixture.variant))
    variant = find_variant(stated) or find_variant(fixture.variant)
    if variant is None:
        raise NoRunner(f'{fixture.name}: no runner for GeminiFusion variant {stated!r}')
    shapes = meta['state_dict']
    inputs = next(iter(meta['cases'].values()))['inputs']
    modalities = {i['stream']: dict(channels=i['shape'][1]) for i in inputs}
    is_swin = variant in SWIN_VARIANTS
    widths = (swin_variant if is_swin else mit_variant)(variant).embed_dims
    classes, channels = shapes['decoder.linear_pred.weight'][:2]
    return dict(
        type='mmseg.EncoderDecoder',
        data_preprocessor=dict(
            type='mmseg_xmodal.ModalityPreprocessor', modalities=modalities
        ),
        backbone=dict(
            type='mmseg_xmodal.GeminiFusion',
            modalities=modalities,
            variant=variant,
            # The official Swin does not read it.
            num_heads=8 if is_swin else constructor.get('n_heads', 8),
        ),
        decode_head=dict(
            type='mmseg_xmodal.GeminiHead',
            in_channels=[2 * width for width in widths],
            channels=constructor.get('decoder_embedding_dim', channels),
            num_classes=constructor.get('num_classes', classes),
        ),
        test_cfg=dict(mode='whole'),
    )


def check_eps(model: nn.Module, fixture: Fixture) -> None:
    """Every norm layer has the official eps (cases a and b hardly show it)."""
    modules = dict(model.named_modules())
    for eps, names in fixture.meta.get('norm_eps', {}).items():
        for name in names:
            ours = (gemini_key(f'{name}.weight') or '').removesuffix('.weight')
            assert modules[ours].eps == float(eps), (name, modules[ours].eps, eps)


def run_geminifusion(fixture: Fixture) -> dict[str, Tensor]:
    """Compute all outputs of a GeminiFusion fixture.

    Raises:
        NoRunner: If the variant is not built yet.
    """
    model = MODELS.build(gemini_config(fixture)).eval()
    check_eps(model, fixture)
    outputs: dict[str, Tensor] = {}
    for case in fixture.meta['cases']:
        converted = convert_official(GEMINIFUSION, fixture.official_state(case))
        model.load_state_dict(converted, strict=True)
        inputs = fixture.inputs(case)
        # The layout puts RGB first, whatever the order of the fixture.
        names = model.backbone.input.names
        stack = torch.cat([inputs[name] for name in names], 1)
        with torch.no_grad():
            maps = model.extract_feat(stack)
            logits = model.decode_head.stream_logits(maps)
            outputs[f'{case}_logits_ens'] = model(stack, mode='tensor')
        for index, level in enumerate(maps, 1):
            for name, part in zip(names, level.chunk(2, 1), strict=True):
                outputs[f'{case}_{name}{index}'] = part
        for name, part in zip(names, logits, strict=True):
            outputs[f'{case}_logits_{name}'] = part
    return outputs
