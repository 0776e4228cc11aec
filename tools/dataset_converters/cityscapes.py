"""Make train ids from the labels of Cityscapes.

    python tools/dataset_converters/cityscapes.py data/cityscapes

reads ROOT/gtFine/SPLIT/CITY/NAME_gtFine_labelIds.png of the splits train and val, and
writes NAME_gtFine_labelTrainIds.png beside it. What is written is not done again.

mmseg's own converter draws the polygons anew instead, for which it needs the package
cityscapesScripts. Its files serve as well.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent / 'driving_parts'))

from train_ids import Layout, run

LAYOUT = Layout(
    'leftImg8bit',
    'gtFine',
    '_leftImg8bit.png',
    '_gtFine_labelIds.png',
    '_gtFine_labelTrainIds.png',
    wanted=lambda stem: stem.split('/')[0] in ('train', 'val'),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0 on success."""
    return run(argv, __doc__, 'cityscapes.py', LAYOUT)


if __name__ == '__main__':
    sys.exit(main())
