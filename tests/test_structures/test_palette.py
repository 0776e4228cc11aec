from __future__ import annotations

from mmseg_xmodal.structures.palette import class_colours


def test_colours_are_those_of_voc():
    assert class_colours(10)[:4] == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
    assert class_colours(10)[9] == [192, 0, 0]
