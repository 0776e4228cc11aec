"""Put checkpoints of several segmentors into one, for SegmentorEnsemble.

    python tools/model_converters/ensemble.py A.pth B.pth C.pth OUT.pth

Members stand in the order of the files. Of a checkpoint of a domain adaptation the
student is taken, or with ``--network teacher`` its teacher.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mmseg_xmodal.models import plain_state_dict
from mmseg_xmodal.models.converters import load_state


def member_state(state: Mapping[str, Any], network: str) -> Mapping[str, Any]:
    """State of the plain segmentor in a checkpoint.

    Args:
        state: Of a segmentor, or of a domain adaptation.
        network: ``'student'`` or ``'teacher'``, of an adaptation.

    Raises:
        ValueError: If a plain segmentor is asked for its teacher.
    """
    adapted = any(key.startswith('student.') for key in state)
    if adapted or network != 'student':
        return plain_state_dict(state, network)
    return state


def joined_state(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """State of the ensemble.

    Args:
        states: Of the members.
    """
    return {
        f'members.{i}.{key}': value
        for i, state in enumerate(states)
        for key, value in state.items()
    }


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('files', nargs='+', help='checkpoints, then the file to write')
    parser.add_argument(
        '--network', choices=['student', 'teacher'], default='student', help='see above'
    )
    args = parser.parse_args(argv)
    if len(args.files) < 2:
        parser.error(f'got {args.files}, expected one checkpoint or more, then OUT.pth')
    if Path(args.files[-1]).resolve() in [Path(f).resolve() for f in args.files[:-1]]:
        parser.error(
            f'{args.files[-1]} is a checkpoint too; name another file to write'
        )
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0 on success."""
    args = _parse(argv)
    *sources, target = args.files
    states = []
    for source in sources:
        try:
            states.append(member_state(load_state(source), args.network))
        except (ValueError, FileNotFoundError) as error:
            print(f'ensemble.py: {source}: {error}', file=sys.stderr)
            return 1
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    torch.save(
        dict(state_dict=joined_state(states), meta=dict(members=sources)), target
    )
    print(f'{target}: {len(sources)} members')
    return 0


if __name__ == '__main__':
    sys.exit(main())
