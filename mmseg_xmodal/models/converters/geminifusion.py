"""Official GeminiFusion checkpoints (MiT or Swin encoder) into ours.

Official repository: https://github.com/JiaDingCN/GeminiFusion (MIT; some files are
under NVIDIA's licence).

The files hold the network under ``segmenter``, with the prefix ``module.`` of DDP. What
both streams share has a further ``module.`` within, what is each stream's own ``ln_0``
and ``ln_1``. A Swin stands under ``encoder.body``.
"""

from __future__ import annotations

import re
from typing import Any

from .io import shorten
from .mit import find_mit_variant, segformer_key
from .official import Official, State, register_official, renaming
from .swin import find_swin_variant, swin_key

_CROSS = {'cross_attn_0_to_1': 'cross.0', 'cross_attn_1_to_0': 'cross.1'}
_FUSION = {
    'relation_judger.0': 'relation',
    'k_noise': 'key_noise',
    'v_noise': 'value_noise',
    **_CROSS,
}
_PART = '|'.join(re.escape(part) for part in _FUSION)
_SWIN = 'encoder.body.'
_OWN = re.compile(r'(patch_embed\.norm|norm\d)\.ln_([01])\.(weight|bias)')


def _place(inner: str | None, stream: str | None) -> str | None:
    """Our key of an encoder's key, with the number of the stream that owns it."""
    if not inner:
        return inner
    if stream is not None:
        owner, _, leaf = inner.rpartition('.')
        inner = f'{owner}.{stream}.{leaf}'
    return f'backbone.encoder.{inner}'


def _fusion_key(stage: int, block: str, part: str, leaf: str) -> str:
    return f'backbone.fusions.{stage}.{block}.{_FUSION[part]}.{leaf}'


def _mit_key(key: str) -> str | None:
    """Translate a key after ``encoder.``."""
    match = re.fullmatch(rf'block(\d+)\.(\d+)\.attn\.({_PART})\.(.+)', key)
    if match:
        return _fusion_key(int(match[1]) - 1, match[2], match[3], match[4])
    match = re.fullmatch(r'(.+?)(?:\.ln_([01])|\.module)?\.(weight|bias)', key)
    return _place(segformer_key(f'{match[1]}.{match[3]}'), match[2]) if match else None


def _swin_key(key: str) -> str | None:
    """Translate a key after ``encoder.body.``; '' for a constant."""
    match = re.fullmatch(rf'layers\.(\d+)\.blocks\.(\d+)\.({_PART})\.(.+)', key)
    if match:
        return _fusion_key(int(match[1]), match[2], match[3], match[4])
    match = _OWN.fullmatch(key)
    if match:
        return _place(swin_key(f'{match[1]}.{match[3]}'), match[2])
    if '.module.' not in key:
        return None
    return _place(swin_key(key.replace('.module.', '.', 1)), None)


def gemini_key(key: str) -> str | None:
    """Translate one official GeminiFusion key; None when it is none.

    Args:
        key: Such as ``encoder.block1.0.norm1.ln_1.weight`` or
            ``encoder.body.layers.0.blocks.0.norm1.module.weight``.

    Returns:
        Such as ``backbone.encoder.stages.0.blocks.0.norm1.1.weight``; '' for a
        constant.
    """
    if key == 'alpha':
        return 'decode_head.alpha'
    if key.startswith('decoder.'):
        return f'decode_head.{key[len("decoder.") :]}'
    if key.startswith(_SWIN):
        return _swin_key(key[len(_SWIN) :])
    if key.startswith('encoder.'):
        return _mit_key(key[len('encoder.') :])
    return None


def _find_encoder(state: State) -> tuple[Any, str, str]:
    """Our variant (None: unknown), the first convolution, one part of the fusion."""
    plain = {key.replace('.module.', '.'): value for key, value in state.items()}
    if any(key.startswith(_SWIN) for key in state):
        return (
            find_swin_variant(plain, f'{_SWIN}layers.', f'{_SWIN}patch_embed.'),
            f'{_SWIN}patch_embed.proj.module.weight',
            f'{_SWIN}layers.0.blocks.0.cross_attn_0_to_1.in_proj_weight',
        )
    return (
        find_mit_variant(plain, prefix='encoder.'),
        'encoder.patch_embed1.proj.module.weight',
        'encoder.block1.0.attn.cross_attn_0_to_1.in_proj_weight',
    )


def gemini_config(state: State) -> dict:
    """Read the config of an official GeminiFusion checkpoint.

    Args:
        state: Official key to tensor.

    Raises:
        ValueError: If it is none.
    """
    variant, stem, fusion = _find_encoder(state)
    levels = [f'decoder.linear_c{i}.proj.weight' for i in range(1, 5)]
    needed = ('alpha', stem, fusion, 'decoder.linear_pred.weight', *levels)
    lacking = [key for key in needed if key not in state]
    if variant is None or lacking:
        raise ValueError(
            'This is no official GeminiFusion checkpoint with a MiT or Swin encoder: '
            f'got the size {variant} at encoder.patch_embed1-4 and encoder.block1-4, '
            'or at encoder.body.patch_embed and encoder.body.layers.0-3, and lacking '
            f'keys {lacking}, expected a known size and none. The first keys are '
            f'{shorten(state, 5)}. Give the file that the official repository offers.'
        )
    channels = state[stem].shape[1]
    return dict(
        type='mmseg.EncoderDecoder',
        backbone=dict(
            type='mmseg_xmodal.GeminiFusion',
            modalities={n: dict(channels=channels) for n in ('rgb', 'depth')},
            variant=variant,
        ),
        decode_head=dict(
            type='mmseg_xmodal.GeminiHead',
            in_channels=[2 * state[level].shape[1] for level in levels],
            channels=state['decoder.linear_pred.weight'].shape[1],
            num_classes=state['decoder.linear_pred.weight'].shape[0],
        ),
    )


GEMINIFUSION = register_official(
    Official(
        name='geminifusion',
        title='official GeminiFusion (MiT or Swin encoder)',
        config=gemini_config,
        translate=renaming(gemini_key),
        notes=(
            "official inputs are RGB: order='rgb', mean=[123.675, 116.28, 103.53], "
            'std=[58.395, 57.12, 57.375], and depth divided by 255, three times the '
            'same channel (mean=0, std=255)',
        ),
    )
)
