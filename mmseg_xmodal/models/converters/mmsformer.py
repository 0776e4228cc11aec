"""Official MMSFormer checkpoints into ours.

Official repository: https://github.com/CSIPlab/MMSFormer (Apache-2.0, "for commercial
use contact the authors").
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from .io import shorten
from .mit import find_mit_variant, segformer_key
from .mix_se import mix_se_key
from .official import Official, State, mlp_head, register_official, renaming

_EXTRA = r'backbone\.extra_mit\.(\d+)\.'
_FUSION = 'backbone.fusion_block.'


def mmsformer_key(key: str) -> str | None:
    """Translate one official MMSFormer key; None when it is none.

    Args:
        key: Such as ``backbone.extra_mit.0.norm1.weight``.

    Returns:
        Such as ``backbone.streams.1.stages.0.norm.weight``.
    """
    if key.startswith('decode_head.'):
        return key
    if key.startswith(_FUSION):
        return mix_se_key(key, _FUSION)
    match = re.fullmatch(rf'(?:{_EXTRA}|backbone\.)(.+)', key)
    inner = segformer_key(match[2]) if match else None
    if match is None or inner is None:
        return None
    stream = 0 if match[1] is None else int(match[1]) + 1
    return f'backbone.streams.{stream}.{inner}'


def mmsformer_config(state: State) -> dict:
    """Read the config of an official MMSFormer checkpoint.

    One modality alone is a plain SegFormer with the decoder of CMNeXt.

    Args:
        state: Official key to tensor.

    Raises:
        ValueError: If it is none.
    """
    variant = find_mit_variant(state, prefix='backbone.')
    found = {int(m[1]) for m in (re.match(_EXTRA, key) for key in state) if m}
    extras = {
        str(find_mit_variant(state, prefix=f'backbone.extra_mit.{i}.')) for i in found
    }
    needed = ['decode_head.linear_fuse.conv.weight', 'decode_head.linear_pred.weight']
    if found:
        needed.append(f'{_FUSION}liner_fusion_layers.0.weight')
    lacking = [key for key in needed if key not in state]
    # MiT alone has no key of its own, so it may have no other ones either.
    foreign = [key for key in state if mmsformer_key(key) is None]
    known = variant is not None and 'None' not in extras and len(extras) <= 1
    if not known or lacking or (foreign and not found):
        raise ValueError(
            f'This is no official MMSFormer checkpoint: got the MiT size {variant} at '
            f'backbone.patch_embed1-4 and backbone.block1-4, the sizes '
            f'{sorted(extras)} at backbone.extra_mit.{sorted(found)}, lacking keys '
            f'{lacking}, and foreign ones {shorten(foreign, 5)}, expected a known '
            'size, at most one more for all, none lacking and none foreign. The first '
            f'keys are {shorten(state, 5)}. Give the file that the official repository '
            'offers.'
        )
    backbone = dict(
        type='mmseg_xmodal.MMSFormer',
        modalities=_modalities(state, len(found)),
        variant=variant,
    )
    if extras:
        backbone['extra_variant'] = extras.pop()
    return dict(
        type='mmseg.EncoderDecoder',
        backbone=backbone,
        decode_head=mlp_head(state, 'CMNeXtHead'),
    )


def _modalities(state: State, extras: int) -> list[Mapping]:
    """Modalities in the official order; the list keeps it."""
    channels = {'rgb': state['backbone.patch_embed1.proj.weight'].shape[1]}
    for i in range(extras):
        key = f'backbone.extra_mit.{i}.patch_embed1.proj.weight'
        channels[f'x{i + 1}'] = state[key].shape[1]
    return [dict(name=name, channels=width) for name, width in channels.items()]


MMSFORMER = register_official(
    Official(
        name='mmsformer',
        title='official MMSFormer (one MiT per modality)',
        config=mmsformer_config,
        translate=renaming(mmsformer_key),
        notes=(
            'the modalities are rgb, x1, x2, ... in the official order, three channels '
            'each; give `modalities` as a list in that order',
            'official inputs: RGB with the ImageNet mean and standard deviation, the '
            'others divided by 255 only',
        ),
    )
)
