"""Copy-paste of objects, in all modalities and targets."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from mmseg_xmodal.datasets.transforms import CopyPaste, XModalRandomFlip
from mmseg_xmodal.datasets.transforms.sample_source import SampleSource
from mmseg_xmodal.datasets.transforms.target_specs import build_specs
from mmseg_xmodal.structures import ModalityLayout

from .multitask_samples import MODALITIES, TARGETS

CLASSES = ('road', 'car', 'dog', 'sky')
SIZE = (10, 12)
SPECS = build_specs({n: TARGETS[n] for n in ('depth', 'normal', 'edge', 'det', 'cls')})
OBJECT = np.s_[2:6, 3:8]
HOLE = np.s_[3:4, 3:5]


def sample(fill, depth, label=0):
    """A picture of one value everywhere, without objects."""
    layout = ModalityLayout.build(MODALITIES)
    img = np.full((*SIZE, layout.stack_channels), fill, np.float32)
    img[..., -1] = 1
    return dict(
        img=img,
        img_path=f'{fill}.png',
        ori_shape=SIZE,
        modality_layout=layout,
        gt_seg_map=np.full(SIZE, label, np.uint8),
        gt_depth_map=np.full(SIZE, depth, np.float32),
        gt_normal_map=np.full((*SIZE, 3), (0, 0, 1), np.float32),
        gt_edge_map=np.zeros(SIZE, np.uint8),
        gt_bboxes=np.zeros((0, 4), np.float32),
        gt_bboxes_labels=np.zeros(0, np.int64),
        gt_ignore_flags=np.zeros(0, bool),
        gt_img_label=np.zeros(2, np.float32),
        seg_fields=['gt_seg_map', 'gt_depth_map', 'gt_normal_map', 'gt_edge_map'],
        target_kinds=dict(
            gt_depth_map='depth', gt_normal_map='normal', gt_edge_map='edge'
        ),
        target_specs=SPECS,
    )


def there():
    """A sample with a car; two of its pixels have no thermal value."""
    other = sample(90, depth=3)
    other['gt_seg_map'][OBJECT] = 1
    other['gt_depth_map'][OBJECT] = 2
    other['gt_edge_map'][OBJECT] = 1
    other['gt_normal_map'][OBJECT] = (1, 0, 0)
    other['img'][(*HOLE, slice(3, 5))] = 0
    other['gt_bboxes'] = np.array([[3, 2, 8, 6]], np.float32)
    other['gt_bboxes_labels'] = np.array([0])
    other['gt_ignore_flags'] = np.array([False])
    other['gt_img_label'] = np.array([1, 0], np.float32)
    return other


def here(depth=5):
    return sample(10, depth)


class Samples:
    """What CopyPaste needs of a data set."""

    metainfo = dict(classes=CLASSES)

    def __init__(self, *samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def get_data_info(self, index):
        return copy.deepcopy(self.samples[index])


def paste(results, *others, **kwargs):
    results['sample_source'] = SampleSource(Samples(*(others or (there(),))))
    options = dict(classes=['car'], pipeline=[], prob=1.0) | kwargs
    options.setdefault('generator', np.random.default_rng(0))
    return CopyPaste(**options)(results)


def test_values_validity_and_truth_are_pasted():
    results, other, plain = paste(here()), there(), here()
    pasted = np.zeros(SIZE, bool)
    pasted[OBJECT] = True
    for key in ('img', *plain['seg_fields']):
        assert np.array_equal(results[key][pasted], other[key][pasted])
        assert np.array_equal(results[key][~pasted], plain[key][~pasted])
    assert (results['img'][(*HOLE, 4)] == 0).all(), 'no value, as there'
    assert results['gt_bboxes'].tolist() == [[3, 2, 8, 6]]
    assert results['gt_bboxes'].dtype == np.float32
    assert results['gt_bboxes_labels'].tolist() == [0]
    assert results['gt_ignore_flags'].tolist() == [False]
    assert results['pasted_from'] == '90.png'


def test_ids_serve_as_names():
    by_id, by_name = paste(here(), classes=[1]), paste(here())
    assert np.array_equal(by_id['gt_seg_map'], by_name['gt_seg_map'])
    assert len(by_id['gt_bboxes']) == 1


def test_nothing_to_paste():
    other = sample(90, depth=3)
    results = paste(here(), other)
    assert results['pasted_from'] is None
    assert np.array_equal(results['img'], here()['img'])
    assert paste(here(), prob=0.0)['pasted_from'] is None
    assert paste(here(), min_pixels=21)['pasted_from'] is None
    unlabelled = there()
    del unlabelled['gt_seg_map']
    assert paste(here(), unlabelled)['pasted_from'] is None


def test_it_looks_on_where_a_sample_shows_nothing():
    empty = sample(90, depth=3)
    found = [
        paste(here(), empty, there(), tries=8, generator=np.random.default_rng(seed))
        for seed in range(8)
    ]
    # Missed in all eight tries once in 256 times.
    assert sum(f['pasted_from'] is not None for f in found) >= 7


def test_only_given_sources():
    empty = sample(91, depth=3)
    for seed in range(6):
        rng = np.random.default_rng(seed)
        got = paste(here(), empty, there(), empty, sources=[1], generator=rng)
        assert got['pasted_from'] == '90.png'


@pytest.mark.parametrize('nearer', ['gt_depth_map', 'thermal'])
def test_what_is_nearer_hides_the_object(nearer):
    """The right half of the picture is nearer than the car; one place is unknown."""
    results = here()
    if nearer == 'thermal':
        results['img'][..., 3] = 95
        results['img'][:, 6:, 3] = 50
        results['img'][4, 7, 3:5] = 0
        unknown_there = np.s_[3, 3:5]
    else:
        results['gt_depth_map'][:, 6:] = 1
        results['gt_depth_map'][4, 7] = np.nan
        unknown_there = np.s_[3, 3:3]
    results = paste(results, nearer=nearer)
    want = np.zeros(SIZE, bool)
    want[2:6, 3:6] = True
    want[4, 7] = True
    want[unknown_there] = False
    assert np.array_equal(results['gt_seg_map'] == 1, want)
    assert results['gt_bboxes'].tolist() == [[3, 2, 8, 6]]


def test_an_object_of_which_little_is_seen_is_not_pasted():
    results = here()
    results['gt_depth_map'][:, 4:] = 1  # 4 of 20 pixels are left
    before = copy.deepcopy(results)
    results = paste(results, nearer='gt_depth_map')
    assert results['pasted_from'] is None
    assert np.array_equal(results['gt_seg_map'], before['gt_seg_map'])
    assert paste(before, nearer='gt_depth_map', min_visible=0.2)['pasted_from']


def test_depth_that_one_sample_lacks():
    """Unknown depth there pastes nothing, unknown depth here everything."""
    bare = there()
    del bare['gt_depth_map']
    bare['seg_fields'].remove('gt_depth_map')
    assert paste(here(), bare, nearer='gt_depth_map')['pasted_from'] is None
    results = here()
    del results['gt_depth_map']
    results['seg_fields'].remove('gt_depth_map')
    assert (paste(results, nearer='gt_depth_map')['gt_seg_map'] == 1).sum() == 20


def test_truth_that_the_other_sample_lacks_becomes_unknown():
    other = there()
    for key in ('gt_depth_map', 'gt_normal_map', 'gt_edge_map'):
        other['seg_fields'].remove(key)
        del other[key], other['target_kinds'][key]
    for key in ('gt_bboxes', 'gt_bboxes_labels', 'gt_ignore_flags', 'gt_img_label'):
        del other[key]
    results = paste(here(), other)
    assert (results['gt_seg_map'][OBJECT] == 1).all()
    assert np.isnan(results['gt_depth_map'][OBJECT]).all()
    assert np.isnan(results['gt_normal_map'][OBJECT]).all()
    assert (results['gt_edge_map'][OBJECT] == 255).all()
    assert np.isfinite(results['gt_depth_map'][0]).all()
    # A car is there, and nobody has boxed it.
    assert results['gt_bboxes'].tolist() == [[3, 2, 8, 6]]
    assert results['gt_ignore_flags'].tolist() == [True]
    assert results['gt_img_label'].tolist() == [-1, -1]


def test_classes_without_boxes_bring_none():
    other = sample(90, depth=3)
    other['gt_seg_map'][OBJECT] = 3
    results = paste(here(), other, classes=['sky'])
    assert (results['gt_seg_map'] == 3).sum() == 20
    assert len(results['gt_bboxes']) == 0


def test_a_sample_without_boxes_gets_none():
    results = here()
    for key in ('gt_bboxes', 'gt_bboxes_labels', 'gt_ignore_flags'):
        del results[key]
    assert 'gt_bboxes' not in paste(results)


def test_touching_objects_come_together_each_with_its_box():
    other = there()
    other['gt_bboxes'] = np.array([[3, 2, 6, 6], [5, 3, 8, 6]], np.float32)
    other['gt_bboxes_labels'] = np.array([0, 0])
    other['gt_ignore_flags'] = np.array([False, True])
    results = paste(here(), other)
    assert results['gt_bboxes'].tolist() == [[3, 2, 6, 6], [5, 3, 8, 6]]
    assert results['gt_ignore_flags'].tolist() == [False, True]


def test_a_covered_object_loses_its_box_and_a_half_covered_one_keeps_it():
    results = here()
    results['gt_seg_map'][4:6, 4:8] = 2  # all of it under the car
    results['gt_seg_map'][5:8, 7:9] = 1  # a pixel of six under it
    results['gt_bboxes'] = np.array([[4, 4, 8, 6], [7, 5, 9, 8]], np.float32)
    results['gt_bboxes_labels'] = np.array([1, 0])
    results['gt_ignore_flags'] = np.array([False, False])
    results['gt_img_label'] = np.array([1, 1], np.float32)
    results = paste(results)
    assert results['gt_bboxes'].tolist() == [[7, 5, 9, 8], [3, 2, 8, 6]]
    assert results['gt_bboxes_labels'].tolist() == [0, 0]
    # The dog may be gone.
    assert results['gt_img_label'].tolist() == [-1, -1]


@pytest.mark.parametrize(
    ('mine', 'its', 'want'), [(0, 1, -1), (0, 0, 0), (1, 0, 1), (1, 1, 1), (-1, 0, -1)]
)
def test_image_labels(mine, its, want):
    results, other = here(), there()
    results['gt_img_label'] = np.array([mine, 0], np.float32)
    other['gt_img_label'] = np.array([its, 0], np.float32)
    assert paste(results, other)['gt_img_label'].tolist() == [want, 0]


def test_one_class_of_the_image_stays():
    results = here()
    results['gt_img_label'] = np.array(1)
    assert paste(results)['gt_img_label'] == 1


def test_rectangles_of_boxes():
    other = there()
    del other['gt_seg_map']
    other['seg_fields'].remove('gt_seg_map')
    results = here()
    results['target_specs'] = other['target_specs'] = SPECS
    results = paste(results, other, objects='boxes')
    assert (results['img'][OBJECT][..., 0] == 90).all()
    assert results['gt_bboxes'].tolist() == [[3, 2, 8, 6]]
    assert (results['gt_seg_map'][OBJECT] == 255).all()


def test_shifted_objects():
    shifts = set()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        results = paste(here(), max_shift=1.0, generator=rng)
        columns = np.flatnonzero((results['gt_seg_map'] == 1).any(0))
        if len(columns):
            assert len(results['gt_bboxes']) == 1
            left, _, right, _ = results['gt_bboxes'][0]
            assert (left, right) == (columns.min(), columns.max() + 1)
            assert (results['img'][2, columns, 0] == 90).all()
            shifts.add(int(left))
    assert len(shifts) > 3


def test_samples_of_another_size():
    other = there()
    for key in ('img', *other['seg_fields']):
        other[key] = np.pad(
            other[key], [(0, 4), (0, 5)] + [(0, 0)] * (other[key].ndim - 2)
        )
    results = paste(here(), other)
    assert results['img'].shape[:2] == SIZE
    assert (results['gt_seg_map'][OBJECT] == 1).all()


def test_number_of_objects():
    other = sample(90, depth=3)
    for column in (0, 4, 8):
        other['gt_seg_map'][0:4, column : column + 3] = 1
    count = {}
    for most in (1, 2, 5):
        results = paste(here(), other, max_objects=most, min_pixels=4)
        count[most] = (results['gt_seg_map'] == 1).sum() // 12
    assert count == {1: 1, 2: 2, 5: 3}


def test_the_pipeline_may_move_the_other_sample():
    flip = XModalRandomFlip(prob=1.0)
    results = paste(here(), pipeline=[flip])
    assert results['gt_bboxes'].tolist() == [[4, 2, 9, 6]]
    assert (results['gt_seg_map'][2:6, 4:9] == 1).all()
    assert (results['gt_normal_map'][2:6, 4:9] == (-1, 0, 0)).all()


# Wrong input.


@pytest.mark.parametrize(
    ('change', 'pattern'),
    [
        (dict(prob=2), "'prob': 2"),
        (dict(min_visible=-1), "'min_visible': -1"),
        (dict(objects='masks'), r"objects='masks'.*\('regions', 'boxes'\)"),
        (dict(max_objects=0), 'max_objects=0'),
        (dict(classes='car'), "classes is 'car'"),
        (dict(classes=[]), r'classes is \[\]'),
        (dict(sources=[]), r'sources is \[\]'),
        (dict(classes=['cow']), r"\['cow'\].*names of the data set.*'road'"),
        (dict(classes=['road'], objects='boxes'), r"\['road'\].*of the boxes"),
        (dict(nearer='depth'), r"nearer is 'depth'.*'thermal'.*'gt_depth_map'"),
    ],
)
def test_wrong_arguments(change, pattern):
    with pytest.raises(ValueError, match=pattern):
        paste(here(), **change)


def test_a_sample_of_no_data_set():
    results = here()
    with pytest.raises(ValueError, match=r"10\.png.*'sample_source'.*MultiModalSeg"):
        CopyPaste(['car'], [])(results)


def test_maps_of_another_size_than_the_image():
    other = there()
    other['gt_depth_map'] = other['gt_depth_map'][:5]
    with pytest.raises(ValueError, match=r'CopyPaste.*90\.png.*gt_depth_map'):
        paste(here(), other)


def test_representation():
    assert "classes=('car',)" in repr(CopyPaste(['car'], []))
