"""Convert a published checkpoint into one that loads strictly into our models.

    python tools/model_converters/convert.py cmx IN.pth OUT.pth

Files with pickled code are refused: what comes out holds tensors and numbers only, so
it is also the safe way to hand a foreign file to tools that load without restriction.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmseg_xmodal.models.converters import convert_cmx, load_state
from mmseg_xmodal.models.converters.cmx import find_cmx_variant
from mmseg_xmodal.models.converters.io import shorten
from mmseg_xmodal.models.layers import MIT_VARIANTS
from mmseg_xmodal.registry import MODELS

Result = tuple[dict[str, Tensor], dict[str, Any], list[str]]


def _check_shapes(state: dict[str, Tensor], config: dict) -> None:
    """Raise unless ``state`` fits the model of ``config`` exactly."""
    with torch.device('meta'):
        own = MODELS.build(config).state_dict()
    odd = sorted(own.keys() ^ state.keys())
    if odd:
        raise ValueError(f'{len(odd)} converted keys do not fit: {shorten(odd)}.')
    wrong = [
        f'{key}: got {tuple(state[key].shape)}, expected {tuple(value.shape)}'
        for key, value in own.items()
        if state[key].shape != value.shape
    ]
    if wrong:
        raise ValueError(
            f'{len(wrong)} tensors have an unexpected shape: {shorten(wrong, 10)}. '
            'The file is not what the official code writes.'
        )


def from_cmx(official: dict[str, Tensor]) -> Result:
    """Convert official CMX (MiT streams, MLP decoder).

    Args:
        official: Official state dict.

    Returns:
        Our state dict, facts for the file, and lines for the user.

    Raises:
        ValueError: If keys or shapes are not those of the official code.
    """
    state = convert_cmx(official)
    variant = find_cmx_variant(official)
    first = 'backbone.streams.{}.stages.0.patch_embed.proj.weight'
    channels = [state[first.format(i)].shape[1] for i in range(2)]
    width, classes = (state['decode_head.linear_pred.weight'].shape[i] for i in (1, 0))
    names = ('rgb', 'x')
    config = dict(
        type='mmseg.EncoderDecoder',
        backbone=dict(
            type='mmseg_xmodal.CMX',
            modalities={
                n: dict(channels=c) for n, c in zip(names, channels, strict=True)
            },
            variant=variant,
        ),
        decode_head=dict(
            type='mmseg_xmodal.CMXHead',
            in_channels=MIT_VARIANTS[variant].embed_dims,
            channels=width,
            num_classes=classes,
        ),
    )
    _check_shapes(state, config)
    facts = dict(source='CMX', variant=variant, channels=channels, num_classes=classes)
    lines = [
        f'backbone: variant={variant!r}, streams of {channels} channels, the first RGB',
        f'decode_head: channels={width}, num_classes={classes}',
        "official inputs are BGR: order='bgr', mean=[123.675, 116.28, 103.53], "
        'std=[58.395, 57.12, 57.375] on both streams',
    ]
    return state, facts, lines


CONVERTERS: dict[str, Callable[[dict[str, Tensor]], Result]] = {'cmx': from_cmx}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0 on success."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or '').splitlines()[0],
    )
    parser.add_argument('method', choices=sorted(CONVERTERS))
    parser.add_argument('source', help='published checkpoint')
    parser.add_argument('target', type=Path, help='file to write')
    args = parser.parse_args(argv)
    try:
        state, facts, lines = CONVERTERS[args.method](load_state(args.source))
    except (ValueError, FileNotFoundError) as error:
        print(f'convert.py: {error}', file=sys.stderr)
        return 1
    args.target.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(state_dict=state, meta=facts), args.target)
    print(f'{args.target}: {len(state)} tensors')
    print('\n'.join(lines))
    return 0


if __name__ == '__main__':
    sys.exit(main())
