"""What the named data sets have in common: their lists of samples, their colours."""

from __future__ import annotations

from pathlib import PurePosixPath

from .multimodal import MultiModalSegDataset


class ListedSegDataset(MultiModalSegDataset):
    """A data set in flat folders, whose lists come in the dialects of several codes.

    A line is a bare id (``12``), one with further columns (``12 x``), or the path of a
    file (``RGB/12.jpg labels/12.png``): sample ``12`` each time.

    Args:
        kwargs: As for :class:`MultiModalSegDataset`.
    """

    def stem_of_line(self, line: str) -> str:
        """Name of the first file on the line, without folder and suffix."""
        path = PurePosixPath(line.split()[0])
        known = {'.jpg', '.jpeg', '.png', '.npy', '.tif', '.tiff'}
        return path.stem if path.suffix.lower() in known else path.name


def class_colours(count: int) -> list[list[int]]:
    """Colours of ``count`` classes, far apart for neighbouring ids.

    The three lowest bits of the id become the highest bits of red, green and blue, the
    next three the next ones, and so on, which is how PASCAL VOC colours its classes. Id
    0 is black.
    """
    return [
        [
            sum(((index >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(8))
            for channel in range(3)
        ]
        for index in range(count)
    ]
