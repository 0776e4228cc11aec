"""What the named data sets have in common: their lists of samples."""

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
