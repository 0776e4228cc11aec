"""Check the labels of ACDC, and make train ids where they are missing.

    python tools/dataset_converters/acdc.py data/acdc

The package brings ROOT/gt/CONDITION/SPLIT/SEQUENCE/NAME_gt_labelTrainIds.png; where one
is missing it is made from NAME_gt_labelIds.png. Files are not moved: the condition
stands in the path, and `ACDCXModalDataset` reads it there.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent / 'driving_parts'))

from train_ids import Layout, run


def has_labels(stem: str) -> bool:
    """Whether a stem CONDITION/SPLIT/... is of a split with published labels."""
    parts = stem.split('/')
    known = ('fog', 'night', 'rain', 'snow')
    return parts[0] in known and parts[1:2] in (['train'], ['val'])


LAYOUT = Layout(
    'rgb_anon',
    'gt',
    '_rgb_anon.png',
    '_gt_labelIds.png',
    '_gt_labelTrainIds.png',
    wanted=has_labels,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0 on success."""
    return run(argv, __doc__, 'acdc.py', LAYOUT)


if __name__ == '__main__':
    sys.exit(main())
