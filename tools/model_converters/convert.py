"""Convert a published checkpoint into one that loads strictly into our models.

    python tools/model_converters/convert.py cmx IN.pth OUT.pth

Files with pickled code are refused: what comes out holds tensors and numbers only, so
it is also the safe way to hand a foreign file to tools that load without restriction.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.config import Config

from mmseg_xmodal.models.converters import OFFICIAL, convert_official, load_state


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0 on success."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or '').splitlines()[0],
    )
    parser.add_argument('method', choices=sorted(OFFICIAL))
    parser.add_argument('source', help='published checkpoint')
    parser.add_argument('target', type=Path, help='file to write')
    args = parser.parse_args(argv)
    try:
        official = OFFICIAL[args.method]
        source = load_state(args.source)
        state = convert_official(official, source)
    except (ValueError, FileNotFoundError) as error:
        print(f'convert.py: {error}', file=sys.stderr)
        return 1
    args.target.parent.mkdir(parents=True, exist_ok=True)
    model = official.config(source)
    torch.save(
        dict(state_dict=state, meta=dict(source=official.title, model=model)),
        args.target,
    )
    print(f'{args.target}: {len(state)} tensors of {official.title}. Its config:')
    print(Config(dict(model=model)).pretty_text)
    print('\n'.join(official.notes))
    return 0


if __name__ == '__main__':
    sys.exit(main())
