"""Where pseudo-labels of an image lie: for what writes and for what reads them."""

from __future__ import annotations

import os
from pathlib import Path

# Their name in a sample.
KEY = 'gt_pseudo_labels'


def label_path(
    folder: str | Path, img_root: str | Path, img_path: str, who: str
) -> Path:
    """File of an image's labels: its path below ``img_root``, as PNG in ``folder``.

    Args:
        folder: Of the labels.
        img_root: Of the images.
        img_path: Of the image.
        who: Asks, for the error.

    Raises:
        ValueError: If the image does not lie in ``img_root``.
    """
    own, root = os.path.abspath(img_path), os.path.abspath(img_root)
    inside = os.path.relpath(own, root)
    if inside.startswith(os.pardir):
        raise ValueError(
            f'{who}: the image {img_path!r} does not lie in img_root={str(img_root)!r}.'
            ' Give the folder of the images.'
        )
    return Path(folder) / Path(inside).with_suffix('.png')
