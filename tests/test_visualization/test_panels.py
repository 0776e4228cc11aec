"""Pure drawing functions: colours, scale bars, error maps, layout, files."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mmseg_xmodal.visualization.colours import (
    CORRECT,
    WRONG,
    colour_labels,
    colour_scalar,
    error_map,
    hatch,
    stretch_channels,
)
from mmseg_xmodal.visualization.panels import Tile, compose, save_panel
from mmseg_xmodal.visualization.text import draw_text, format_number, to_ascii


def test_scalar_colours_follow_valid_values_only():
    values = np.tile(np.linspace(2, 6, 101, dtype=np.float32), (4, 1))
    valid = np.ones(values.shape, bool)
    values[0] = 1e6
    valid[0] = False
    values[1, 50] = np.nan
    image, (low, high) = colour_scalar(values, valid)
    assert (low, high) == pytest.approx((2.04, 5.96), abs=0.05)
    # Viridis runs from dark violet to yellow.
    dark, bright = image[2, 0].astype(int), image[2, -1].astype(int)
    assert dark.sum() < 200
    assert bright[0] > 200
    assert bright[1] > 200
    assert bright[2] < 90


def test_scalar_without_any_valid_pixel_has_no_limits():
    image, limits = colour_scalar(np.ones((3, 4)), np.zeros((3, 4), bool))
    assert limits is None
    assert image.shape == (3, 4, 3)


def test_constant_scalar_keeps_its_value_on_the_bar():
    _, limits = colour_scalar(np.full((3, 4), 7.0), np.ones((3, 4), bool))
    assert limits == (7.0, 7.0)
    assert format_number(7.0, 0.0) == '7.0'


def test_stretched_channels_are_independent():
    values = np.zeros((1, 101, 3), np.float32)
    values[0, :, 0] = np.linspace(0, 1, 101)
    values[0, :, 1] = np.linspace(1000, 0, 101)
    image = stretch_channels(values, np.ones((1, 101), bool))
    assert image[0, 0].tolist() == [0, 255, 0]
    assert image[0, -1].tolist() == [255, 0, 0]


def test_labels_take_the_palette_and_ids_without_colour_are_marked():
    labels = np.array([[0, 1], [255, 2]])
    image, outside = colour_labels(labels, [[1, 2, 3], [4, 5, 6]])
    assert image[0].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert outside.tolist() == [[False, False], [True, True]]


def test_error_map_counts_labelled_pixels_only():
    truth = np.array([[0, 1, 1, 255]])
    prediction = np.array([[0, 0, 1, 1]])
    image, share = error_map(prediction, truth, truth == 255)
    assert image[0, 0].tolist() == list(CORRECT)
    assert image[0, 1].tolist() == list(WRONG)
    assert image[0, 3].tolist() == list(CORRECT)
    assert share == pytest.approx(1 / 3)
    assert error_map(prediction, truth, np.ones((1, 4), bool))[1] is None


def test_hatching_changes_marked_pixels_only():
    image = np.full((16, 16, 3), 7, np.uint8)
    mask = np.zeros((16, 16), bool)
    mask[:8] = True
    out = hatch(image, mask)
    assert (out[8:] == 7).all()
    assert set(np.unique(out[:8])) == {80, 160}


@pytest.mark.parametrize(
    ('size', 'tile'), [((120, 160), (240, 320)), ((960, 1280), (480, 640))]
)
def test_small_pictures_grow_and_large_ones_shrink(size, tile):
    picture = np.zeros((*size, 3), np.uint8)
    picture[:, : size[1] // 2] = (255, 0, 0)
    panel = compose([Tile(picture, 'a'), Tile(picture, 'b')])
    assert panel.shape[1] == 2 * tile[1] + 3 * 8
    red = (panel == (255, 0, 0)).all(axis=2)
    assert red.sum() == 2 * tile[0] * tile[1] // 2


def test_many_tiles_wrap_into_equal_rows():
    tiles = [Tile(np.zeros((30, 40, 3), np.uint8), str(i)) for i in range(7)]
    assert compose(tiles, max_columns=5).shape[1] == 4 * 240 + 5 * 8


def test_scale_bar_and_legend_add_room_below():
    picture = np.zeros((240, 320, 3), np.uint8)
    bare = compose([Tile(picture, 'a')])
    bar = compose([Tile(picture, 'a', limits=(0.5, 8.0), unit='m')])
    legend = compose([Tile(picture, 'a')], [('road', (1, 200, 3))])
    assert bar.shape[0] > bare.shape[0]
    # The bar shows the colour map, from its dark end on the left to its bright end.
    foot = bar[bare.shape[0] - 4 :].astype(int)
    colourful = foot.max(axis=2) - foot.min(axis=2) > 40
    first, last = np.flatnonzero(colourful.any(axis=0))[[0, -1]]
    assert last - first > 150
    assert (legend == (1, 200, 3)).all(axis=2).sum() > 50


def test_long_legends_wrap_instead_of_being_cut():
    legend = [(f'class number {i}', (i, 0, 0)) for i in range(1, 31)]
    panel = compose([Tile(np.zeros((240, 320, 3), np.uint8), 'a')], legend)
    for _, colour in legend:
        assert (panel == colour).all(axis=2).any()


def test_tiles_of_different_sizes_are_refused():
    tiles = [Tile(np.zeros((h, 8, 3), np.uint8), 'a') for h in (8, 9)]
    with pytest.raises(ValueError, match=r'\(8, 8\), \(9, 8\).*resize'):
        compose(tiles)


def test_saved_panels_keep_their_colours(tmp_path):
    panel = np.zeros((8, 8, 3), np.uint8)
    panel[..., 0] = 250
    path = tmp_path / 'new' / 'rötlich.png'
    save_panel(path, panel)
    read = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    assert read[0, 0].tolist() == [0, 0, 250]
    with pytest.raises(ValueError, match=r"'\.xyz'.*\.png"):
        save_panel(tmp_path / 'a.xyz', panel)
    with pytest.raises(ValueError, match=r'\.png'):
        save_panel(tmp_path / 'a', panel)


@pytest.mark.parametrize(
    ('value', 'span', 'text'),
    [
        (0.804, 4.4, '0.8'),
        (291.6, 12, '292'),
        (-0.001, 4, '0.0'),
        (0.01234, 0.01, '0.012'),
        (3e-7, 1e-6, '3e-07'),
        (12345678.0, 1e7, '1.23e+07'),
    ],
)
def test_numbers_have_the_digits_that_matter(value, span, text):
    assert format_number(value, span) == text


def test_units_are_spelled_where_opencv_knows_ascii_only():
    assert to_ascii('°C') == 'deg C'
    assert to_ascii('µm') == 'um'
    assert to_ascii('m²') == 'm2'
    assert to_ascii('Café') == 'Cafe'


def test_long_text_ends_before_its_limit():
    image = np.full((30, 400, 3), 255, np.uint8)
    draw_text(
        image,
        'a caption that is far too long for its place',
        (0, 20),
        0.5,
        (0,) * 3,
        120,
    )
    dark = (image < 128).all(axis=2)
    assert dark[:, :120].any()
    assert not dark[:, 124:].any()
