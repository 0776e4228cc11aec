"""Official GeminiFusion checkpoints (MiT encoder) into ours.

Official repository: https://github.com/JiaDingCN/GeminiFusion (MIT; some files are
under NVIDIA's licence).

The files hold the network under ``segmenter``, with the prefix ``module.`` of DDP.
"""

from __future__ import annotations

import re

from .io import shorten
from .mit import find_mit_variant, segformer_key
from .official import Official, State, register_official, renaming

_CROSS = {'cross_attn_0_to_1': 'cross.0', 'cross_attn_1_to_0': 'cross.1'}
_FUSION = {
    'relation_judger.0': 'relation',
    'k_noise': 'key_noise',
    'v_noise': 'value_noise',
    **_CROSS,
}
_PART = '|'.join(re.escape(part) for part in _FUSION)


def gemini_key(key: str) -> str | None:
    """Translate one official GeminiFusion key; None when it is none.

    Args:
        key: Such as ``encoder.block1.0.norm1.ln_1.weight``.

    Returns:
        Such as ``backbone.encoder.stages.0.blocks.0.norm1.1.weight``.
    """
    if key == 'alpha':
        return 'decode_head.alpha'
    if key.startswith('decoder.'):
        return f'decode_head.{key[len("decoder.") :]}'
    match = re.fullmatch(rf'encoder\.block(\d+)\.(\d+)\.attn\.({_PART})\.(.+)', key)
    if match:
        stage, block, part, leaf = match.groups()
        return f'backbone.fusions.{int(stage) - 1}.{block}.{_FUSION[part]}.{leaf}'
    match = re.fullmatch(r'encoder\.(.+?)(?:\.ln_([01])|\.module)?\.(weight|bias)', key)
    inner = segformer_key(f'{match[1]}.{match[3]}') if match else None
    if match is None or inner is None:
        return None
    if match[2] is not None:
        owner, _, leaf = inner.rpartition('.')
        inner = f'{owner}.{match[2]}.{leaf}'
    return f'backbone.encoder.{inner}'


def gemini_config(state: State) -> dict:
    """Read the config of an official GeminiFusion checkpoint with a MiT encoder.

    Args:
        state: Official key to tensor.

    Raises:
        ValueError: If it is none.
    """
    plain = {key.replace('.module.', '.'): value for key, value in state.items()}
    variant = find_mit_variant(plain, prefix='encoder.')
    needed = (
        'alpha',
        'encoder.block1.0.attn.cross_attn_0_to_1.in_proj_weight',
        'decoder.linear_pred.weight',
    )
    lacking = [key for key in needed if key not in state]
    if variant is None or lacking:
        raise ValueError(
            'This is no official GeminiFusion checkpoint with a MiT encoder: got the '
            f'MiT size {variant} at encoder.patch_embed1-4 and encoder.block1-4, and '
            f'lacking keys {lacking}, expected a known size and none. The first keys '
            f'are {shorten(state, 5)}. Give the file that the official repository '
            'offers.'
        )
    stem = state['encoder.patch_embed1.proj.module.weight']
    classes, channels = state['decoder.linear_pred.weight'].shape[:2]
    return dict(
        type='mmseg.EncoderDecoder',
        backbone=dict(
            type='mmseg_xmodal.GeminiFusion',
            modalities={n: dict(channels=stem.shape[1]) for n in ('rgb', 'depth')},
            variant=variant,
        ),
        decode_head=dict(
            type='mmseg_xmodal.GeminiHead',
            in_channels=[
                2 * plain[f'encoder.patch_embed{i}.proj.weight'].shape[0]
                for i in range(1, 5)
            ],
            channels=channels,
            num_classes=classes,
        ),
    )


GEMINIFUSION = register_official(
    Official(
        name='geminifusion',
        title='official GeminiFusion (MiT encoder)',
        config=gemini_config,
        translate=renaming(gemini_key),
        notes=(
            "official inputs are RGB: order='rgb', mean=[123.675, 116.28, 103.53], "
            'std=[58.395, 57.12, 57.375], and depth divided by 255, three times the '
            'same channel (mean=0, std=255)',
        ),
    )
)
