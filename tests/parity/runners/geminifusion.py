"""Runner for the official GeminiFusion repository."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from mmseg_xmodal.models.converters import convert_official
from mmseg_xmodal.models.converters.geminifusion import GEMINIFUSION, gemini_key
from mmseg_xmodal.registry import MODELS

from ..fixture import Fixture, NoRunner
from .names import check_head, find_mit, plain_name, stated_variant
from .norms import check_eps

REPOSITORY = 'https://github.com/JiaDingCN/GeminiFusion'
# As the official code calls them; a fixture may have other names.
STREAMS = ('rgb', 'depth')
_SWIN = re.compile(
    r'swin(?:transformer)?(?:t|tiny|s|small|l|large)(?:(?:window|patch|\d).*)?'
)


def is_official(name: str) -> bool:
    """Whether the official code builds a network of this name, however spelled."""
    bare = plain_name(name).removeprefix('geminifusion')
    return bool(_SWIN.fullmatch(bare) or find_mit(name, 'geminifusion'))


def is_swin(fixture: Fixture) -> bool:
    """Whether the encoder is a Swin."""
    return any(key.startswith('encoder.body.') for key in fixture.meta['state_dict'])


def _check_branch(fixture: Fixture) -> None:
    """The network is that of the main branch, with two modalities.

    Raises:
        NoRunner: If it is that of branch ``DeLiVER``, which nothing here describes.
    """
    streams, shapes = fixture.streams(), fixture.meta['state_dict']
    if len(streams) == 2 and any(key.startswith('encoder.') for key in shapes):
        return
    raise NoRunner(
        f'{fixture.name}: no runner for GeminiFusion {stated_variant(fixture)!r} with '
        f'the streams {streams} and keys such as {next(iter(shapes))!r} (branch '
        'DeLiVER?)'
    )


def gemini_config(fixture: Fixture) -> dict:
    """Our config of the fixture's variant, decoder and class count.

    The size is the one that the weights have.

    Raises:
        NoRunner: If the variant is not built yet.
    """
    _check_branch(fixture)
    stated = stated_variant(fixture)
    if not (is_official(stated) or is_official(fixture.variant)):
        raise NoRunner(f'{fixture.name}: no runner for GeminiFusion variant {stated!r}')
    config = GEMINIFUSION.config(fixture.shapes())
    inputs = next(iter(fixture.meta['cases'].values()))['inputs']
    channels = {i['stream']: i['shape'][1] for i in inputs}
    # A list keeps its order; a dict would be sorted by name.
    modalities = [dict(name=n, channels=channels[n]) for n in fixture.streams()]
    constructor = fixture.meta.get('constructor') or {}
    # The official Swin does not read it.
    heads = 8 if is_swin(fixture) else constructor.get('n_heads', 8)
    check_head(fixture, config['decode_head'], 'decoder_embedding_dim')
    config['backbone'] |= dict(modalities=modalities, num_heads=heads)
    return dict(
        config,
        data_preprocessor=dict(
            type='mmseg_xmodal.ModalityPreprocessor', modalities=modalities
        ),
        test_cfg=dict(mode='whole'),
    )


def run_geminifusion(fixture: Fixture) -> dict[str, Tensor]:
    """Compute all outputs of a GeminiFusion fixture.

    Raises:
        NoRunner: If the variant is not built yet.
    """
    model = MODELS.build(gemini_config(fixture)).eval()
    check_eps(model, fixture, gemini_key)
    outputs: dict[str, Tensor] = {}
    for case in fixture.meta['cases']:
        converted = convert_official(GEMINIFUSION, fixture.official_state(case))
        model.load_state_dict(converted, strict=True)
        inputs, streams = fixture.inputs(case), fixture.streams(case)
        stack = torch.cat([inputs[name] for name in streams], 1)
        with torch.no_grad():
            maps = model.extract_feat(stack)
            logits = model.decode_head.stream_logits(maps)
            outputs[f'{case}_logits_ens'] = model(stack, mode='tensor')
        for i, names in enumerate(zip(STREAMS, streams, strict=True)):
            for name in names:
                outputs[f'{case}_logits_{name}'] = logits[i]
                for index, level in enumerate(maps, 1):
                    outputs[f'{case}_{name}{index}'] = level.chunk(2, 1)[i]
    return outputs
