"""Panels of a whole sample: what is where, and in which colour."""

from __future__ import annotations

import cv2
import mmcv
import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from mmseg.visualization import SegLocalVisualizer

from mmseg_xmodal.registry import VISUALIZERS
from mmseg_xmodal.structures import ModalityLayout
from mmseg_xmodal.visualization import (
    ModalityView,
    XModalVisualizer,
    view_from_image,
    views_from_stack,
)
from mmseg_xmodal.visualization.colours import CORRECT, WRONG

CLASSES = ('road', 'car')
PALETTE = [[10, 20, 30], [200, 100, 50]]
SIZE = (24, 240)
GAP = 8


@pytest.fixture
def visualizer():
    return XModalVisualizer(classes=CLASSES, palette=PALETTE)


def sample(truth=True, pred=True, size=SIZE):
    """Truth: left half car, first column ignored. Prediction: road everywhere."""
    out = SegDataSample()
    labels = torch.zeros((1, *size), dtype=torch.long)
    labels[..., : size[1] // 2] = 1
    labels[..., 0] = 255
    if truth:
        out.gt_sem_seg = PixelData(data=labels)
    if pred:
        out.pred_sem_seg = PixelData(data=torch.zeros((1, *size), dtype=torch.long))
    return out


def rgbd_stack(dtype):
    """Red image in BGR; depth rises to the right and has a hole."""
    fields = dict(channels=1, dtype=np.dtype(dtype).name, invalid=0, unit='cm')
    layout = ModalityLayout(dict(rgb=dict(channels=3, order='rgb'), depth=fields))
    stack = np.zeros((5, *SIZE), dtype)
    stack[2] = 250
    stack[3] = np.linspace(20, 220, SIZE[1]).astype(dtype)
    stack[4] = layout.validity_max
    stack[3:5, :, 100:120] = 0
    return stack, layout


def tile(panel, index):
    """The picture of a tile in a one-row panel; tiles are 240 wide."""
    x = GAP + index * (240 + GAP)
    top = first_picture_row(panel)
    return panel[top : top + SIZE[0], x : x + 240]


def first_picture_row(panel):
    """Rows of captions always have white in them, pictures here have none."""
    white = (panel[:, GAP : GAP + 240] == 255).all(axis=2)
    return int(np.flatnonzero(~white.any(axis=1))[0])


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_panel_shows_modalities_truth_prediction_and_error(visualizer, dtype):
    stack, layout = rgbd_stack(dtype)
    assert layout.stack_dtype is dtype
    panel = visualizer.draw_panel(views_from_stack(stack, layout), sample())
    assert panel.dtype == np.uint8
    assert panel.shape[1] == 5 * 240 + 6 * GAP
    rgb, depth, truth, pred, error = (tile(panel, i) for i in range(5))
    assert (rgb == (250, 0, 0)).all()
    assert depth[0, 0].sum() < 220  # dark end of viridis
    assert depth[0, -1, 0] > 200  # yellow end
    assert set(np.unique(depth[:, 100:120])) == {80, 160}  # the hole is hatched
    assert (truth[:, 1:120] == PALETTE[1]).all()
    assert (truth[:, 120:] == PALETTE[0]).all()
    assert set(np.unique(truth[:, 0])) <= {80, 160}
    assert (pred == PALETTE[0]).all()
    assert (error[:, 1:120] == WRONG).all()
    assert (error[:, 120:] == CORRECT).all()
    assert set(np.unique(error[:, 0])) <= {80, 160}


def test_works_without_any_colour_modality(visualizer):
    layout = ModalityLayout(dict(thermal=dict(channels=1, unit='K')))
    stack = np.ones((2, *SIZE), np.float32)
    stack[0] = np.linspace(280, 310, SIZE[0])[:, None]
    panel = visualizer.draw_panel(views_from_stack(stack, layout), sample())
    assert panel.shape[1] == 4 * 240 + 5 * GAP
    assert (tile(panel, 2) == PALETTE[0]).all()


def test_missing_and_withheld_modalities_are_hatched_as_a_whole(visualizer):
    stack, layout = rgbd_stack(np.uint8)
    withheld = views_from_stack(stack, layout, kept=['rgb'])
    assert withheld['depth'].withheld
    assert not withheld['rgb'].withheld
    stack[3:] = 0
    missing = views_from_stack(stack, layout)
    assert not missing['depth'].valid.any()
    for views in (withheld, missing):
        depth = tile(visualizer.draw_panel(views), 1)
        edge = np.concatenate([depth[:, :60], depth[:, -60:]], axis=1)
        assert set(np.unique(edge)) == {80, 160}


def test_values_with_two_three_and_more_channels_are_shown(visualizer):
    fields = dict(
        event=dict(channels=2), normal=dict(channels=3), spectrum=dict(channels=6)
    )
    layout = ModalityLayout(fields)
    stack = np.random.default_rng(0).random((layout.stack_channels, *SIZE), np.float32)
    stack[-3:] = 1
    panel = visualizer.draw_panel(views_from_stack(stack, layout))
    assert panel.shape[1] == 3 * 240 + 4 * GAP
    for i in range(3):
        assert tile(panel, i).std() > 20


def test_truth_prediction_and_legend_can_be_left_out(visualizer):
    stack, layout = rgbd_stack(np.uint8)
    views = views_from_stack(stack, layout)
    both = visualizer.draw_panel(views, sample())
    assert visualizer.draw_panel(views, sample(truth=False)).shape[1] < both.shape[1]
    only = visualizer.draw_panel(views, sample(), draw_gt=False)
    assert only.shape[1] == 3 * 240 + 4 * GAP
    assert visualizer.draw_panel(views, None).shape[1] == 2 * 240 + 3 * GAP
    bare = visualizer.draw_panel(views, sample(), with_labels=False)
    assert bare.shape[0] < both.shape[0]


def test_truth_of_another_size_is_refused_with_the_remedy(visualizer):
    data = sample(pred=False)
    data.set_data({'pred_sem_seg': PixelData(data=torch.zeros(1, 3, 4).long())})
    with pytest.raises(ValueError, match=r'\(24, 240\).*\(3, 4\).*LoadAnnotations'):
        visualizer.draw_panel(np.zeros((*SIZE, 3), np.uint8), data)


def test_binary_predictions_and_numpy_fields(visualizer):
    data = SegDataSample()
    data.pred_sem_seg = PixelData(data=torch.ones(1, *SIZE))  # float, as mmseg makes it
    data.gt_sem_seg = PixelData(data=np.ones((1, *SIZE), np.int64))
    panel = visualizer.draw_panel(np.zeros((*SIZE, 3), np.uint8), data)
    assert (tile(panel, 2) == PALETTE[1]).all()
    assert (tile(panel, 3) == CORRECT).all()


def test_it_is_a_stock_visualizer_and_takes_a_plain_rgb_image(visualizer):
    assert isinstance(visualizer, SegLocalVisualizer)
    assert VISUALIZERS.get('mmseg_xmodal.XModalVisualizer') is XModalVisualizer
    image = np.zeros((*SIZE, 3), np.uint8)
    image[..., 0] = 250
    visualizer.add_datasample('a', image, sample(), draw_gt=False)
    shown = visualizer.get_image()
    assert (tile(shown, 0) == (250, 0, 0)).all()
    assert (tile(shown, 1) == PALETTE[0]).all()
    with pytest.raises(ValueError, match=r'\(24, 240, 4\).*\(H, W, 3\)'):
        visualizer.add_datasample('a', np.zeros((*SIZE, 4), np.uint8))


def test_alpha_mixes_labels_with_the_first_colour_modality():
    half = XModalVisualizer(classes=CLASSES, palette=PALETTE, alpha=0.5)
    image = np.full((*SIZE, 3), 100, np.uint8)
    panel = half.draw_panel(image, sample(truth=False))
    assert tile(panel, 1)[0, 0].tolist() == [55, 60, 65]


def test_back_ends_get_rgb_and_files_have_the_right_colours(tmp_path):
    visualizer = XModalVisualizer(
        vis_backends=[dict(type='LocalVisBackend')],
        save_dir=str(tmp_path),
        classes=CLASSES,
        palette=PALETTE,
    )
    stack, layout = rgbd_stack(np.uint8)
    views = views_from_stack(stack, layout)
    visualizer.add_datasample('test_a', views, sample(), step=3)
    (written,) = tmp_path.rglob('test_a_3.png')
    read = mmcv.imread(str(written), channel_order='rgb')
    assert (tile(read, 0) == (250, 0, 0)).all()
    path = tmp_path / 'one.png'
    visualizer.add_datasample('b', views, sample(), out_file=str(path))
    assert (cv2.imread(str(path))[..., ::-1] == read).all()
    assert len(list(tmp_path.rglob('*.png'))) == 2


def test_show_opens_a_window_and_stores_nothing(tmp_path, monkeypatch):
    visualizer = XModalVisualizer(
        vis_backends=[dict(type='LocalVisBackend')], save_dir=str(tmp_path)
    )
    shown = []
    monkeypatch.setattr(
        visualizer, 'show', lambda image, **kwargs: shown.append((image.shape, kwargs))
    )
    image = np.zeros((*SIZE, 3), np.uint8)
    visualizer.add_datasample('a', image, show=True, wait_time=0.5)
    assert shown[0][1] == dict(win_name='a', wait_time=0.5)
    assert not list(tmp_path.rglob('*.png'))


def test_classes_and_palette_are_not_swapped_and_may_lack():
    visualizer = XModalVisualizer(classes=CLASSES, palette=PALETTE)
    assert visualizer.dataset_meta == dict(classes=CLASSES, palette=PALETTE)
    visualizer.set_dataset_meta(classes=('a', 'b', 'c'))
    colours = visualizer.dataset_meta['palette']
    assert len({tuple(c) for c in colours}) == 3
    visualizer.dataset_meta = dict(classes=CLASSES, palette=None)
    panel = visualizer.draw_panel(np.zeros((*SIZE, 3), np.uint8), sample())
    assert (tile(panel, 2) == colours[0]).all()


def test_resizing_keeps_invalid_values_out():
    values = np.full((8, 8, 1), 5.0, np.float32)
    valid = np.ones((8, 8), bool)
    values[:, :4], valid[:, :4] = 1e9, False
    view = ModalityView(values, valid, colour=False)
    for size in ((16, 16), (5, 5), (3, 12)):
        out = view.resized(size)
        assert out.valid.shape == size
        assert 0 < out.valid.mean() < 1
        np.testing.assert_allclose(out.values[out.valid], 5.0, rtol=1e-5)


def test_resampled_stack_is_divided_by_its_validity():
    layout = ModalityLayout(dict(depth=dict(channels=1, invalid=0)))
    stack = np.zeros((2, 2, 2), np.float32)
    stack[:, 0, 0] = 0.8 * 5, 0.8  # as bilinear resizing leaves it beside a hole
    stack[:, 0, 1] = 0.4 * 5, 0.4
    view = views_from_stack(stack, layout)['depth']
    assert view.values[0, 0, 0] == pytest.approx(5)
    assert view.valid.tolist() == [[True, False], [False, False]]
    low = views_from_stack(stack, layout, threshold=0.3)['depth']
    assert low.valid.tolist() == [[True, True], [False, False]]


def test_wrong_number_of_channels_is_refused():
    _, layout = rgbd_stack(np.uint8)
    with pytest.raises(ValueError, match=r'\(3, 4, 4\).*\(5, H, W\).*OnModalities'):
        views_from_stack(np.zeros((3, 4, 4), np.uint8), layout)


def test_flips_are_undone_along_the_right_axis():
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    view = view_from_image(image)
    assert (view.flipped('horizontal').values == image[:, ::-1]).all()
    assert (view.flipped('vertical').values == image[::-1]).all()
    assert (view.flipped('diagonal').values == image[::-1, ::-1]).all()
    with pytest.raises(ValueError, match="'left'.*RandomFlip"):
        view.flipped('left')
