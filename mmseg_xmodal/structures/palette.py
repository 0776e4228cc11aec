"""Colours for classes that have none of their own."""

from __future__ import annotations


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
