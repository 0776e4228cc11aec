"""What a view did to a picture is undone for boxes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_xmodal.models.layers.view import boxes_to_original, flip_axes, scale_factor

ORIGINAL = (30, 50)  # height, width
BOXES = torch.tensor([[0.0, 0, 50, 30], [3, 4, 10, 9.5], [40, 20, 49, 29]])


@settings(deadline=None, max_examples=50)
@given(
    size=st.tuples(st.integers(7, 120), st.integers(7, 120)),
    direction=st.sampled_from([None, 'horizontal', 'vertical', 'diagonal']),
    padding=st.tuples(*[st.integers(0, 9)] * 4),
    key=st.sampled_from(['img_padding_size', 'padding_size']),
    noted=st.booleans(),
)
def test_forth_and_back(size, direction, padding, key, noted) -> None:
    """Resize, flip, pad, as a pipeline does; then back."""
    left, right, top, bottom = padding
    scale = (size[1] / ORIGINAL[1], size[0] / ORIGINAL[0])
    boxes = BOXES * torch.tensor(scale * 2)
    if direction in ('horizontal', 'diagonal'):
        boxes[:, [0, 2]] = size[1] - boxes[:, [2, 0]]
    if direction in ('vertical', 'diagonal'):
        boxes[:, [1, 3]] = size[0] - boxes[:, [3, 1]]
    boxes += torch.tensor([left, top, left, top])
    padded = (size[0] + top + bottom, size[1] + left + right)
    meta = dict(img_shape=size, pad_shape=padded, ori_shape=ORIGINAL)
    meta |= {key: padding, 'flip': direction is not None, 'flip_direction': direction}
    if noted:
        meta['scale_factor'] = scale
    back = boxes_to_original(boxes, meta)
    torch.testing.assert_close(back, BOXES, rtol=1e-4, atol=1e-4)


def test_what_lies_in_the_padding_is_clipped() -> None:
    meta = dict(img_shape=(20, 40), ori_shape=(10, 20), scale_factor=(2.0, 2.0))
    meta |= dict(flip=True, flip_direction='horizontal')
    boxes = torch.tensor([[30.0, 10, 60, 30], [41, 0, 60, 20], [-5, -5, 2, 2]])
    expected = torch.tensor([[0.0, 5, 5, 10], [0, 0, 0, 10], [19, 0, 20, 1]])
    assert torch.equal(boxes_to_original(boxes, meta), expected)


def test_scale_factor() -> None:
    assert scale_factor({}) == (1, 1)
    assert scale_factor(dict(scale_factor=2)) == (2, 2)
    assert scale_factor(dict(scale_factor=(2, 3))) == (2, 3)
    assert scale_factor(dict(img_shape=(30, 20), ori_shape=(10, 10))) == (2, 3)


def test_errors_name_the_remedy() -> None:
    with pytest.raises(ValueError, match="'a.png' is flipped with .*='up'.*meta_keys"):
        flip_axes(dict(img_path='a.png', flip=True, flip_direction='up'))
    with pytest.raises(ValueError, match='no img_shape.*meta_keys'):
        boxes_to_original(BOXES, dict(ori_shape=ORIGINAL))
