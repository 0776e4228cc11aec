"""Stock geometry that gets targets wrong is noticed."""

from __future__ import annotations

import pytest
from mmengine.dataset import Compose

from mmseg_xmodal.datasets.transforms import (
    PackXModalInputs,
    XModalRandomCrop,
    XModalRandomFlip,
    XModalRandomRotate,
)
from mmseg_xmodal.datasets.transforms.geometry_guard import (
    check_pipeline,
    mark_geometry,
)
from mmseg_xmodal.datasets.transforms.target_specs import build_specs

from .helpers import run
from .multitask_samples import make_sample

STOCK_MOVES = [
    (dict(type='RandomFlip', prob=1.0), 'normal', 'XModalRandomFlip'),
    (dict(type='Resize', scale=(15, 10)), 'depth', 'XModalResize'),
    (dict(type='Resize', scale=(15, 10)), 'edge', 'XModalResize'),
    (dict(type='RandomCrop', crop_size=(9, 9)), 'boxes', 'XModalRandomCrop'),
]


def of_kind(kind, size=(20, 30)):
    """A marked sample with one kind of target."""
    sample = make_sample(size)
    kinds = {k: v for k, v in sample['target_kinds'].items() if v == kind}
    sample['target_kinds'] = kinds
    if kind != 'boxes':
        del sample['gt_bboxes'], sample['gt_bboxes_labels'], sample['gt_ignore_flags']
    for key in set(sample['seg_fields']) - {'gt_seg_map', *kinds}:
        sample['seg_fields'].remove(key)
        del sample[key]
    mark_geometry(sample)
    return sample


@pytest.mark.parametrize(('stock', 'kind', 'ours'), STOCK_MOVES)
@pytest.mark.parametrize('last', [PackXModalInputs(), XModalRandomFlip(prob=0.0)])
def test_stock_moves_that_break_a_target_are_noticed(stock, kind, ours, last):
    with pytest.raises(ValueError, match=f'sample.png.*{kind}.*mmseg_xmodal.{ours}'):
        run(of_kind(kind), [stock, last])


@pytest.mark.parametrize(
    ('stock', 'kind'),
    [
        (dict(type='RandomFlip', prob=1.0), 'depth'),
        (dict(type='RandomFlip', prob=0.0), 'normal'),
        (dict(type='RandomFlip', prob=1.0), 'boxes'),
        (dict(type='RandomCrop', crop_size=(9, 9)), 'normal'),
        (dict(type='Resize', scale=(15, 10)), 'label'),
    ],
)
def test_stock_moves_that_break_nothing_pass(stock, kind):
    assert 'inputs' in run(of_kind(kind), [stock, PackXModalInputs()])


def test_our_moves_pass():
    sample = make_sample((20, 30))
    mark_geometry(sample)
    moves = [
        dict(
            type='mmseg_xmodal.XModalRandomResize',
            scale=(30, 20),
            ratio_range=(0.5, 0.9),
        ),
        XModalRandomCrop(crop_size=(8, 9)),
        XModalRandomRotate(prob=1.0, degree=20.0),
        XModalRandomFlip(prob=1.0),
        XModalRandomFlip(prob=0.0),
    ]
    assert 'inputs' in run(sample, [*moves, PackXModalInputs()])


LOAD = dict(type='mmseg_xmodal.LoadTargets')


def built(*parts):
    return Compose(list(parts))


@pytest.mark.parametrize(
    ('stock', 'kind'),
    [
        (dict(type='RandomRotate', prob=0.5, degree=10.0), 'value'),
        (dict(type='RandomRotate', prob=0.5, degree=10.0), 'normal'),
        (dict(type='RandomFlip', prob=0.5), 'normal'),
        (dict(type='RandomResize', scale=(9, 9), ratio_range=(1.0, 2.0)), 'depth'),
        (
            dict(
                type='RandomChoice',
                transforms=[
                    [dict(type='RandomFlip', prob=0.0)],
                    [dict(type='Resize', scale_factor=0.5)],
                ],
            ),
            'depth',
        ),
        (
            dict(
                type='RandomApply',
                transforms=[dict(type='RandomRotate', prob=0.5, degree=10.0)],
            ),
            'depth',
        ),
    ],
)
def test_a_wrong_pipeline_is_refused_at_the_start(stock, kind):
    specs = build_specs(dict(t=dict(kind=kind)))
    with pytest.raises(ValueError, match=f'Set: Random|Set: Resize.*{kind}'):
        check_pipeline(built(LOAD, stock), specs, 'Set')
    check_pipeline(built(stock, LOAD), specs, 'Set')
    views = dict(type='TestTimeAug', transforms=[[stock], [LOAD]])
    check_pipeline(built(views), specs, 'Set')


def test_a_wrong_pipeline_for_the_other_sample_is_refused():
    specs = build_specs(dict(depth=dict(kind='depth')))
    inner = [LOAD, dict(type='RandomRotate', prob=0.5, degree=10.0)]
    mix = dict(type='mmseg_xmodal.CopyPaste', classes=['a'], pipeline=inner)
    with pytest.raises(ValueError, match='RandomRotate.*depth'):
        check_pipeline(built(LOAD, mix), specs, 'Set')


def test_a_stock_random_resize_that_uses_ours_passes():
    specs = build_specs(dict(depth=dict(kind='depth')))
    resize = dict(
        type='RandomResize',
        scale=(9, 9),
        ratio_range=(1.0, 2.0),
        resize_type='mmseg_xmodal.XModalResize',
    )
    check_pipeline(built(LOAD, resize), specs, 'Set')


def test_targets_of_another_size_than_the_image_are_refused():
    sample = make_sample((20, 30))
    sample['gt_depth_map'] = sample['gt_depth_map'][:10]
    with pytest.raises(ValueError, match=r'sample\.png.*gt_depth_map.*\(10, 30\)'):
        XModalRandomFlip(prob=1.0)(sample)
