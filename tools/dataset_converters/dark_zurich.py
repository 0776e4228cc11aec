"""Check the labels of Dark Zurich, and make train ids where they are missing.

    python tools/dataset_converters/dark_zurich.py data/dark_zurich

The package of the validation images brings
ROOT/gt/val/night/SEQUENCE/NAME_gt_labelTrainIds.png; where one is missing it is made
from NAME_gt_labelIds.png. `DarkZurichXModalDataset` reads them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent / 'driving_parts'))

from train_ids import Layout, run

LAYOUT = Layout(
    'rgb_anon',
    'gt',
    '_rgb_anon.png',
    '_gt_labelIds.png',
    '_gt_labelTrainIds.png',
    wanted=lambda stem: stem.startswith('val/night/'),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0 on success."""
    return run(argv, __doc__, 'dark_zurich.py', LAYOUT)


if __name__ == '__main__':
    sys.exit(main())
