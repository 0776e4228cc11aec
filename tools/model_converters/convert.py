"""Convert a published checkpoint into one that loads strictly into our models.

    python tools/model_converters/convert.py cmx IN.pth OUT.pth
    python tools/model_converters/convert.py unwrap IN.pth OUT.pth --allow-pickle

Files with pickled code are refused: what comes out holds tensors and numbers only, so
it is also the safe way to hand a foreign file to tools that load without restriction.
``unwrap`` in place of a method writes the tensors as they are called in the source,
such as those of a backbone for `pretrained`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmseg_xmodal.models.converters import OFFICIAL, convert_official, load_state
from mmseg_xmodal.models.converters.io import shorten
from mmseg_xmodal.registry import MODELS

_UNWRAP = 'unwrap'


def check_config(
    path: str, state: Mapping[str, torch.Tensor], fitting: Mapping[str, Any]
) -> None:
    """Raise unless a state dict loads strictly into the model of a config.

    Weights of a backbone alone must fit that of the config.

    Args:
        path: Of the config.
        state: Converted weights.
        fitting: Config of the model that they fit, for the message.

    Raises:
        ValueError: If keys or shapes differ.
    """
    config = Config.fromfile(path)
    init_default_scope(config.get('default_scope', 'mmseg'))
    part, parts = config.model, dict(fitting)
    if 'backbone' not in fitting:
        part, parts = part.get('student', part).backbone, dict(backbone=fitting)
    with torch.device('meta'):
        own = MODELS.build(part).state_dict()
    missing = [key for key in own if key not in state]
    extra = [key for key in state if key not in own]
    shapes = [
        f'{key}: file {tuple(state[key].shape)}, model {tuple(own[key].shape)}'
        for key in own.keys() & state.keys()
        if state[key].shape != own[key].shape
    ]
    if missing or extra or shapes:
        raise ValueError(
            f'The weights do not fit the model of {path}: {len(missing)} keys that it '
            f'needs are missing {shorten(missing, 5)}, {len(extra)} it does not have '
            f'{shorten(extra, 5)}, {len(shapes)} shapes differ {shorten(shapes, 5)}. '
            f'They fit {_fitting(parts)}. Change the config or the file.'
        )


def _fitting(parts: Mapping[str, Any]) -> str:
    names = [name for name in ('backbone', 'decode_head') if name in parts]
    return ', '.join(f'{name}={_brief(parts[name])}' for name in names)


def _brief(config: Mapping[str, Any]) -> str:
    return 'dict(' + ', '.join(f'{k}={v!r}' for k, v in config.items()) + ')'


def _write(
    target: Path, state: Mapping[str, torch.Tensor], meta: Mapping[str, Any]
) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(state_dict=dict(state), meta=dict(meta)), target)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or '').splitlines()[0],
    )
    parser.add_argument(
        'method',
        choices=[*sorted(OFFICIAL), _UNWRAP],
        help=f'that the source is of; {_UNWRAP} = leave its tensors as they are',
    )
    parser.add_argument('source', help='published checkpoint')
    parser.add_argument('target', type=Path, help='file to write')
    parser.add_argument(
        '--config', help='check that the result loads strictly into its model'
    )
    parser.add_argument(
        '--allow-pickle',
        action='store_true',
        help='run code that is pickled in the source, as if it were a program',
    )
    args = parser.parse_args(argv)
    if args.config and args.method == _UNWRAP:
        parser.error(f'{_UNWRAP} converts nothing that could be checked; drop --config')
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0 on success."""
    args = _parse(argv)
    try:
        source = load_state(args.source, args.allow_pickle)
        if args.method == _UNWRAP:
            _write(args.target, source, dict(source=args.source))
            print(f'{args.target}: {len(source)} tensors of {args.source}')
            return 0
        official = OFFICIAL[args.method]
        state = convert_official(official, source)
        model = official.config(source)
        if args.config:
            check_config(args.config, state, model)
    except (ValueError, FileNotFoundError) as error:
        print(f'convert.py: {error}', file=sys.stderr)
        return 1
    _write(args.target, state, dict(source=official.title, model=model))
    print(f'{args.target}: {len(state)} tensors of {official.title}. Its config:')
    print(Config(dict(model=model)).pretty_text)
    print('\n'.join(official.notes))
    return 0


if __name__ == '__main__':
    sys.exit(main())
