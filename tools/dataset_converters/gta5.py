"""Make train ids from the labels of GTA5.

    python tools/dataset_converters/gta5.py data/gta

reads ROOT/labels/ID.png (palette images with the ids of Cityscapes) beside
ROOT/images/ID.png, and writes ROOT/labels/ID_labelTrainIds.png for `GTA5Dataset`. What
is written is not done again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent / 'driving_parts'))

from train_ids import Layout, run

LAYOUT = Layout('images', 'labels', '.png', '.png', '_labelTrainIds.png')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0 on success."""
    return run(argv, __doc__, 'gta5.py', LAYOUT)


if __name__ == '__main__':
    sys.exit(main())
