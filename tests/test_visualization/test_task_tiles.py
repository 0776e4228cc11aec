"""Tiles of further tasks: what is drawn, in which colour and scale."""

from __future__ import annotations

from types import SimpleNamespace

import mmcv
import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData, LabelData, PixelData
from mmengine.visualization import Visualizer
from mmseg.structures import SegDataSample
from torch import nn

from mmseg_xmodal.engine import XModalVisualizationHook
from mmseg_xmodal.visualization import XModalVisualizer
from mmseg_xmodal.visualization.colours import CORRECT, WRONG, default_palette
from mmseg_xmodal.visualization.panels import compose
from mmseg_xmodal.visualization.task_marks import _RIGHT, label_lines
from mmseg_xmodal.visualization.task_tiles import TaskPanels

SIZE = (60, 240)
BASE = np.full((*SIZE, 3), 90, np.uint8)


def sample(**fields):
    out = SegDataSample(metainfo=dict(ori_shape=SIZE, img_path='one.png'))
    for name, value in fields.items():
        if not isinstance(value, InstanceData | LabelData):
            value = PixelData(data=torch.as_tensor(value))
        out.set_data({name: value})
    return out


def tiles(data, **kwargs):
    meta = kwargs.pop('targets', {})
    return TaskPanels(data, dict(targets=meta), **kwargs).tiles(SIZE, BASE)


def captions(found):
    return [tile.caption for tile in found]


def ramp(low, high):
    return torch.linspace(low, high, SIZE[1]).expand(1, *SIZE).clone()


def drawn(tile, size=SIZE):
    """The picture of a tile with its overlay, at the size of the base."""
    image = np.ascontiguousarray(tile.image.copy())
    tile.overlay(image, 0.42)
    return image


def test_depth_has_one_scale_for_truth_and_prediction():
    truth = ramp(1, 5)
    truth[0, :, :10] = np.nan
    pred = ramp(1, 5) + 2
    first, second, error = tiles(sample(gt_depth_map=truth, pred_depth_map=pred))
    assert captions((first, second)) == ['depth: truth', 'depth: prediction']
    low, high = first.limits
    assert 1 < low < 1.4
    assert 4.8 < high < 5
    assert second.limits == first.limits
    assert first.unit == second.unit == error.unit == 'm'
    # What the truth shows at 5 m, the prediction shows from there on.
    assert (second.image[:, -40:] == first.image[:, -1:]).all()
    assert (first.marked[:, :10]).all()
    assert not second.marked.any()
    assert error.caption == 'depth: error, mean 2 m'
    assert error.limits[0] == 0
    assert error.marked[:, :10].all()


def test_values_have_their_unit_and_single_fields_no_error():
    targets = dict(dem=dict(kind='value', unit='m above sea'))
    (one,) = tiles(sample(pred_dem=ramp(-3, 9)), targets=targets)
    assert (one.caption, one.unit) == ('dem: prediction', 'm above sea')
    (bare,) = tiles(sample(gt_dem=ramp(-3, 9)))
    assert bare.unit is None
    nothing = torch.full((1, *SIZE), float('nan'))
    blank, pred, error = tiles(sample(gt_dem=nothing, pred_dem=ramp(0, 1)))
    assert blank.limits is None
    assert pred.limits is not None
    assert error.caption == 'dem: error: no truth'


def test_a_further_segmentation_has_its_own_classes_and_colours():
    truth = torch.zeros((1, *SIZE)).long()
    truth[..., 120:] = 2
    truth[..., 0] = 255
    pred = torch.zeros((1, *SIZE)).long()
    data = sample(gt_cover=truth, pred_cover=pred)
    panels = TaskPanels(
        data, dict(targets=dict(cover=dict(kind='label', classes=('sea', 'a', 'wood'))))
    )
    first, second, error = panels.tiles(SIZE, BASE)
    palette = default_palette(3)
    assert (first.image[:, 120:] == palette[2]).all()
    assert (second.image == palette[0]).all()
    assert error.caption.startswith('cover: error: 50.2% wrong')
    assert (error.image[:, 120:] == WRONG).all()
    assert (error.image[:, 1:120] == CORRECT).all()
    assert error.marked[:, 0].all()
    assert panels.legend == [
        ('cover: sea', tuple(palette[0])),
        ('cover: wood', tuple(palette[2])),
    ]
    # Without names: numbers. With a palette of the data set: that.
    panels = TaskPanels(data, dict(targets=dict(cover=dict(palette=[[1, 2, 3]] * 3))))
    assert (panels.tiles(SIZE, BASE)[1].image == (1, 2, 3)).all()
    assert [name for name, _ in panels.legend] == ['cover: 0', 'cover: 2']


def test_normals_are_colours_and_their_error_an_angle():
    truth = torch.zeros(3, *SIZE)
    truth[2] = 1
    truth[:, :, :5] = np.nan
    pred = torch.zeros(3, *SIZE)
    pred[0] = 1
    first, second, error = tiles(sample(gt_normal_map=truth, pred_normal_map=pred))
    assert (first.image[:, 5:] == (128, 128, 255)).all()
    assert (second.image == (255, 128, 128)).all()
    assert first.marked[:, :5].all()
    assert error.caption == 'normals: error, mean 90 degrees'


def test_edges_are_dark_on_white():
    truth = torch.zeros((1, *SIZE), dtype=torch.uint8)
    truth[..., 7] = 1
    truth[..., 9] = 255
    first, second = tiles(
        sample(gt_edge_map=truth, pred_edge_map=torch.full((1, *SIZE), 0.25))
    )
    assert (first.image[:, 7] == 0).all()
    assert (first.image[:, :7] == 255).all()
    assert first.marked[:, 9].all()
    assert (second.image == 191).all()


def boxes(**kwargs):
    return InstanceData(**{key: torch.tensor(value) for key, value in kwargs.items()})


def test_boxes_lie_where_they_should_and_weak_ones_are_left_out():
    data = sample(
        gt_instances=boxes(bboxes=[[20.0, 30, 100, 50]], labels=[1]),
        ignored_instances=boxes(bboxes=[[200.0, 30, 230, 50]]),
        pred_instances=boxes(
            bboxes=[[60.0, 30, 90, 50], [150.0, 30, 190, 50]],
            labels=[0, 1],
            scores=[0.1, 0.8],
        ),
    )
    targets = dict(det=dict(kind='boxes', classes=('cat', 'dog')))
    truth, pred = tiles(data, targets=targets)
    assert truth.caption == 'boxes: truth, 1 and 1 ignored'
    assert pred.caption == 'boxes: prediction, 1 of 2, score from 0.3'
    dog = default_palette(2)[1]
    image = drawn(truth)
    assert (image[48:50, 20:100] == dog).all()
    assert (image[30:50, 98:100] == dog).all()
    assert (image[33:47, 110:190] == 90).all()
    assert (image[30:50, 200:202] == 120).all()
    image = drawn(pred)
    assert (image[48:50, 150:190] == dog).all()
    assert (image[:, 55:95] == 90).all()
    assert (truth.image == 90).all()  # drawn on a copy

    # Shown larger, the boxes grow and their lines do not.
    large = np.repeat(np.repeat(BASE, 2, 0), 2, 1)
    truth.overlay(large, 0.42)
    assert (large[98:100, 40:200] == dog).all()
    assert (large[63:97, 60:180] == 90).all()


def test_boxes_beyond_the_picture_and_unknown_classes_are_drawn():
    data = sample(
        pred_instances=boxes(
            bboxes=[[-50.0, -9, 30, 99], [230.0, 40, 400, 44], [500.0, 90, 600, 99]],
            labels=[7, 0, 0],
            scores=[0.9, 0.9, 0.9],
        )
    )
    (pred,) = tiles(data)
    image = drawn(pred)
    assert (image[42:44, 230:] == default_palette(8)[0]).all()
    assert (image[25:, 28:30] == default_palette(8)[7]).all()
    empty = boxes(bboxes=np.zeros((0, 4)), labels=[], scores=[])
    (none,) = tiles(sample(pred_instances=empty))
    assert none.caption == 'boxes: prediction, 0'
    assert (drawn(none) == 90).all()


def label(values, **more):
    more = {key: torch.tensor(value) for key, value in more.items()}
    return LabelData(label=torch.tensor(values), **more)


def test_lines_of_several_labels_say_what_became_of_each():
    truth = label([1.0, 0.0, 1.0, -1.0, 0.0])
    pred = label([1, 1, 0, 1, 0], score=[0.9, 0.6, 0.2, 0.7, 0.1])
    lines = label_lines(truth, pred, ('a', 'b', 'c', 'd', 'e'))
    assert [text for text, _ in lines] == [
        'a 0.90, right',
        'd 0.70, truth unknown',
        'b 0.60, wrong',
        'c 0.20, missed',
    ]
    assert [lines[i][1] for i in (0, 2, 3)] == [_RIGHT, WRONG, WRONG]
    assert [text for text, _ in label_lines(truth, None, ())] == ['0', '2']
    assert [text for text, _ in label_lines(None, pred, ())] == [
        '0 0.90',
        '3 0.70',
        '1 0.60',
    ]
    none = label_lines(label([0.0, 0.0]), None, ())
    assert none[0][0] == 'none of the classes'


def test_lines_of_one_label_name_truth_and_the_likeliest():
    pred = label([2], score=[0.1, 0.2, 0.6, 0.1])
    names = ('hall', 'yard', 'cave', 'lab')
    lines = label_lines(label([1]), pred, names)
    assert [text for text, _ in lines[:3]] == [
        'truth: yard',
        'prediction: cave 0.60',
        'then yard 0.20',
    ]
    assert lines[1][1] == WRONG
    assert label_lines(label([2]), pred, names)[1][1] == _RIGHT
    assert label_lines(label([-1]), pred, names)[0][0] == 'truth: unknown'
    assert label_lines(None, pred, names)[0][0] == 'prediction: cave 0.60'


def test_text_tiles_show_as_many_lines_as_fit():
    many = label([1.0] * 40)
    (tile,) = tiles(sample(gt_label=many))
    image = drawn(tile)
    assert image.std() > 5  # there is text
    panel = compose([tile])
    assert panel.shape[1] == 240 + 16


def test_truth_and_predictions_can_be_left_out():
    data = sample(gt_depth_map=ramp(1, 2), pred_depth_map=ramp(1, 2))
    assert captions(tiles(data, draw_gt=False)) == ['depth: prediction']
    assert captions(tiles(data, draw_pred=False)) == ['depth: truth']
    assert tiles(None) == []


def test_what_has_another_form_is_not_drawn():
    data = sample(
        gt_flow=torch.zeros(2, *SIZE),
        seg_logits=torch.zeros(1, *SIZE),
        pred_label=label([1]),
        gt_instances=boxes(bboxes=[[1.0, 2, 3, 4]]),
    )
    data.set_field('text', 'gt_words')
    assert tiles(data) == []


def test_another_size_is_refused_with_the_remedy():
    data = sample(gt_depth_map=ramp(1, 2))
    data.set_data(dict(pred_depth_map=PixelData(data=torch.ones(1, 3, 4))))
    with pytest.raises(ValueError, match=r'depth: prediction.*\(3, 4\).*\(60, 240\)'):
        tiles(data)


def full_sample():
    data = sample(
        gt_sem_seg=torch.zeros(1, *SIZE).long(),
        pred_sem_seg=torch.zeros(1, *SIZE).long(),
        gt_depth_map=ramp(1, 5),
        pred_depth_map=ramp(1, 5),
    )
    data.gt_label = label([0])
    return data


def test_panel_of_all_tasks_marks_the_main_one(monkeypatch):
    seen = []
    monkeypatch.setattr(
        'mmseg_xmodal.visualization.visualizer.compose',
        lambda found, *args: seen.append(captions(found)) or compose(found, *args),
    )
    visualizer = XModalVisualizer(classes=('a', 'b'))
    visualizer.draw_panel(BASE, full_sample())
    assert seen[0] == [
        'image',
        'seg: truth',
        'seg: prediction',
        'seg: error: 0.0% wrong',
        'depth: truth',
        'depth: prediction',
        'depth: error, mean 0 m',
        'image labels',
    ]
    only_seg = full_sample()
    for key in ('gt_depth_map', 'pred_depth_map', 'gt_label'):
        delattr(only_seg, key)
    visualizer.draw_panel(BASE, only_seg)
    assert seen[1] == ['image', 'truth', 'prediction', 'error: 0.0% wrong']


def test_size_comes_from_any_task_and_the_picture_follows():
    visualizer = XModalVisualizer(classes=('a', 'b'))
    half = np.zeros((SIZE[0] // 2, SIZE[1] // 2, 3), np.uint8)
    panel = visualizer.draw_panel(half, sample(pred_depth_map=ramp(1, 5)))
    assert panel.shape[1] == 2 * 240 + 3 * 8


class Model(nn.Module):
    """Has a preprocessor without a layout: three channels are BGR."""

    data_preprocessor = nn.Identity()


def test_the_hook_of_show_dir_draws_them_with_no_change(tmp_path):
    name = f'tasks-{tmp_path.name}'
    visualizer = XModalVisualizer.get_instance(
        name,
        vis_backends=[dict(type='LocalVisBackend')],
        save_dir=str(tmp_path),
        classes=('a', 'b'),
    )
    assert Visualizer.get_current_instance() is visualizer
    data = full_sample()
    inputs = [torch.zeros(3, *SIZE, dtype=torch.uint8)]
    XModalVisualizationHook(draw=True).after_test_iter(
        SimpleNamespace(model=Model(), iter=0),
        0,
        dict(inputs=inputs, data_samples=[data]),
        [data],
    )
    (path,) = tmp_path.rglob('test_one_0.png')
    # Eight tiles in two rows of four.
    assert mmcv.imread(str(path)).shape[1] == 4 * 240 + 5 * 8
