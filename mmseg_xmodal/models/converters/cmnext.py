"""Official CMNeXt checkpoints into ours: any size, none to many extra modalities.

Official repository: https://github.com/jamycheung/DELIVER (Apache-2.0, with the line
"for commercial use contact the authors" in its README).

The number of extra modalities is that of the norms ``ln_0``, ``ln_1``, ... in a
checkpoint. Which modality each of them belongs to is not in the file: it is the order
in which the official config lists them (depth, event, lidar on DELIVER).
"""

from __future__ import annotations

import re
from typing import Any

from .cmx import fusion_key
from .io import shorten
from .mit import find_mit_variant, segformer_key
from .official import Official, State, mlp_head, register_official, renaming

_SIZES = {f'mit_b{i}': f'cmnext_b{i}' for i in (2, 4, 5)}
_FIRST = 'backbone.extra_downsample_layers.0.'
# Official pattern of the extra branch, with stages from {0} or {1}, and our place.
_EXTRA = [
    (r'extra_downsample_layers\.(\d+)\.proj\.module\.(.+)', 0, 'embed.proj.{1}'),
    (r'extra_downsample_layers\.(\d+)\.norm\.ln_(\d+)\.(.+)', 0, 'embed.norms.{1}.{2}'),
    (r'extra_score_predictor\.(\d+)\.(score_nets\.\d+\.[01]\..+)', 0, 'hub.{1}'),
    (r'extra_block(\d+)\.(\d+)\.c_nets\.0\.(.+)', 1, 'blocks.{1}.eca.{2}'),
    (
        r'extra_block(\d+)\.(\d+)\.mlp\.dwconv\.dwconv\.(.+)',
        1,
        'blocks.{1}.mlp.dwconv.{2}',
    ),
    (
        r'extra_block(\d+)\.(\d+)\.((?:norm[12]|attn\.conv[04]|mlp\.fc[12])\.\w+|'
        r'layer_scale_[12])',
        1,
        'blocks.{1}.{2}',
    ),
    (r'extra_norm(\d+)\.(.+)', 1, 'norm.{1}'),
]


def cmnext_key(key: str) -> str | None:
    """Translate one official CMNeXt key; None when it is none.

    Args:
        key: Such as ``backbone.extra_norm1.weight``.

    Returns:
        Such as ``backbone.extra.0.norm.weight``.
    """
    if key.startswith('decode_head.'):
        return key
    if not key.startswith('backbone.'):
        return None
    inner = key.removeprefix('backbone.')
    fusion = fusion_key(inner)
    if fusion is not None:
        return f'backbone.{fusion}'
    for pattern, start, place in _EXTRA:
        match = re.fullmatch(pattern, inner)
        if match:
            stage = int(match[1]) - start
            return f'backbone.extra.{stage}.{place.format(*match.groups())}'
    ours = segformer_key(inner)
    return None if ours is None else f'backbone.rgb.{ours}'


def _num_extras(state: State) -> int:
    """Count the extra modalities; 0 = MiT alone."""
    norms = [k for k in state if re.fullmatch(rf'{_FIRST}norm\.ln_\d+\.weight', k)]
    return len(norms)


def cmnext_config(state: State) -> dict:
    """Read the config of an official CMNeXt checkpoint.

    Args:
        state: Official key to tensor.

    Raises:
        ValueError: If it is none.
    """
    variant = find_mit_variant(state, prefix='backbone.')
    extras = _num_extras(state)
    needed = ['decode_head.linear_fuse.conv.weight', 'decode_head.linear_pred.weight']
    if extras:
        needed += [f'{_FIRST}proj.module.weight', 'backbone.FRMs.0.channel_weights.']
    lacking = [key for key in needed if not any(k.startswith(key) for k in state)]
    # MiT alone has no key of its own, so it may have no other ones either.
    foreign = [k for k in state if cmnext_key(k) is None]
    if variant is None or lacking or (foreign and not extras):
        raise ValueError(
            'This is no official CMNeXt checkpoint: got the MiT size '
            f'{variant} at backbone.patch_embed1-4 and backbone.block1-4, {extras} '
            f'extra modalities at {_FIRST}norm.ln_*, lacking keys {lacking}, and '
            f'foreign ones {shorten(foreign, 5)}, expected a known size, none lacking '
            f'and none foreign. The first keys are {shorten(state, 5)}. Give the file '
            'that the official repository offers.'
        )
    channels = {'rgb': state['backbone.patch_embed1.proj.weight'].shape[1]}
    backbone: dict[str, Any] = dict(
        type='mmseg_xmodal.CMNeXt', variant=_SIZES.get(variant, variant)
    )
    if extras:
        width = state[f'{_FIRST}proj.module.weight'].shape[1]
        channels.update({f'x{i + 1}': width for i in range(extras)})
        backbone.update(extra_channels=width, layout='official')
    # A list keeps its order.
    modalities = [dict(name=name, channels=count) for name, count in channels.items()]
    return dict(
        type='mmseg.EncoderDecoder',
        backbone=dict(backbone, modalities=modalities),
        decode_head=mlp_head(state, 'CMNeXtHead'),
    )


CMNEXT = register_official(
    Official(
        name='cmnext',
        title='official CMNeXt (MiT for RGB, PPX branch for the others)',
        config=cmnext_config,
        translate=renaming(cmnext_key),
        notes=(
            "official inputs: RGB with order='rgb', mean=[123.675, 116.28, 103.53], "
            'std=[58.395, 57.12, 57.375]; all other modalities divided by 255 '
            '(mean=0, std=255), with 3 channels, or 1 in place of 3 equal ones',
            'extra modalities x1, x2, ... stand in the order of the official config '
            '(DELIVER: depth, event, lidar); a list of modalities keeps its order, a '
            'dict is sorted by name after colour ones',
        ),
        variants=('cmnext_b2', 'cmnext_b4', 'cmnext_b5', 'mit_b2 (RGB alone)'),
    )
)
