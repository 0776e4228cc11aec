"""Make train ids from the labels of SYNTHIA-RAND-CITYSCAPES.

    python tools/dataset_converters/synthia.py data/synthia

reads ROOT/GT/LABELS/ID.png (16 bits, the class in the first channel) beside
ROOT/RGB/ID.png, and writes ROOT/GT/LABELS/ID_labelTrainIds.png for `SYNTHIADataset`.
What is written is not done again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

sys.path.append(str(Path(__file__).resolve().parent / 'driving_parts'))

from train_ids import SYNTHIA, Layout, run

LAYOUT = Layout('RGB', 'GT/LABELS', '.png', '.png', '_labelTrainIds.png')


def read_first_channel(path: Path) -> np.ndarray:
    """Class ids of a label file. Pillow cannot read it; cv2 turns the channels around.

    Raises:
        ValueError: If it is no image of 16 bits with three channels.
    """
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None or image.ndim != 3 or image.dtype != np.uint16:
        got = 'no image' if image is None else f'{image.dtype} {image.shape}'
        raise ValueError(
            f'{path} holds {got}, expected 16 bits and three channels. Take the files '
            'of GT/LABELS, not those of GT/COLOR.'
        )
    return image[..., 2]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0 on success."""
    return run(argv, __doc__, 'synthia.py', LAYOUT, SYNTHIA, read_first_channel)


if __name__ == '__main__':
    sys.exit(main())
