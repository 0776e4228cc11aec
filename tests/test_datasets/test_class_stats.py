"""Counting classes: the numbers, the cache, the wrappers, the weights."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmseg_xmodal.datasets import LoadModalities, cached_class_stats, count_classes
from mmseg_xmodal.datasets.class_stats import default_path
from mmseg_xmodal.datasets.label_reader import LabelReader
from mmseg_xmodal.registry import DATASETS
from mmseg_xmodal.structures import ClassStats
from tests.forked import in_two_processes

from .labelled import MODALITIES, PIPELINE, build, config, write_labelled

# 30 a, 8 b, 2 c of 40; the last sample is half ignored.
SAMPLES = [{0: 36, 1: 4}, {0: 40}, {0: 20, 1: 10, 2: 10}, {1: 20}]


@pytest.fixture
def root(tmp_path):
    write_labelled(tmp_path, SAMPLES)
    return tmp_path


def test_counts(root):
    stats = count_classes(build(root))
    assert stats.classes == ('a', 'b', 'c')
    assert stats.files == ('000.png', '001.png', '002.png', '003.png')
    expected = [[36, 4, 0], [40, 0, 0], [20, 10, 10], [0, 20, 0]]
    assert stats.counts.tolist() == expected
    assert stats.ignored.tolist() == [0, 0, 0, 20]
    assert stats.pixels.tolist() == [96, 34, 10]
    assert stats.images.tolist() == [3, 3, 1]
    assert stats.pixel_share == pytest.approx(np.array([96, 34, 10]) / 140)
    assert stats.image_share == pytest.approx([0.75, 0.75, 0.25])


def test_no_image_is_read(root, monkeypatch):
    monkeypatch.setattr(LoadModalities, 'transform', lambda *_: 1 / 0)
    assert count_classes(build(root)).pixels.sum() == 140


def test_threads_keep_the_order(root):
    one, four = (count_classes(build(root), threads=n) for n in (1, 4))
    assert (one.counts == four.counts).all()
    assert one.files == four.files


def test_labels_are_those_of_training(root):
    zero = count_classes(build(root, 'xy', reduce_zero_label=True))
    assert zero.counts.tolist() == [[4, 0], [0, 0], [10, 10], [20, 0]]
    assert zero.ignored.tolist() == [36, 40, 20, 20]

    cls = DATASETS.get('mmseg_xmodal.PST900Dataset')
    names = cls.METAINFO['classes']
    mapped = build(
        root,
        (names[1], names[0]),
        type='mmseg_xmodal.PST900Dataset',
        data_prefix=dict(rgb='rgb', seg_map_path='labels'),
    )
    # The label map of the two classes sends the third one to 255.
    assert count_classes(mapped).counts.tolist() == [
        [4, 36],
        [0, 40],
        [10, 20],
        [20, 0],
    ]


def test_labels_that_no_annotation_transform_loads(root):
    class FromImage(LoadModalities):
        def transform(self, results):
            results = super().transform(results)
            results['gt_seg_map'] = (results['img'][..., 0] % 2).astype(np.uint8)
            return results

    pipeline = [FromImage(MODALITIES), lambda _: 1 / 0]
    stats = count_classes(build(root, pipeline=pipeline))
    assert stats.counts.tolist() == [[40, 0, 0], [0, 40, 0]] * 2


def test_wrappers(root, tmp_path_factory):
    other = tmp_path_factory.mktemp('other')
    write_labelled(other, [{2: 7}])
    twice = dict(type='RepeatDataset', dataset=config(root), times=2)
    both = dict(type='ConcatDataset', datasets=[twice, config(other)])
    stats = count_classes(DATASETS.build(both))
    one = count_classes(build(root)).counts.tolist()
    assert stats.counts.tolist() == [*one, *one, [0, 0, 7]]
    assert stats.files[-1].endswith('other0/labels/000.png')


def test_further_task_of_a_multi_task_set(root):
    cover = np.full((4, 10), 255, np.uint8)
    cover[0] = 1
    cv2.imwrite(str(root / 'cover_000.png'), cover)
    (root / 'cover').mkdir()
    (root / 'cover_000.png').rename(root / 'cover/000.png')
    target = dict(kind='label', classes=('x', 'y'), may_be_missing=True)
    dataset = build(
        root,
        type='mmseg_xmodal.MultiTaskDataset',
        targets=dict(cover=target, dem=dict(kind='value', folder='labels')),
    )
    stats = count_classes(dataset, 'gt_cover')
    assert stats.classes == ('x', 'y')
    assert stats.files == ('000.png', '', '', '')
    assert stats.counts.tolist() == [[0, 10], [0, 0], [0, 0], [0, 0]]
    assert stats.ignored.tolist() == [30, 0, 0, 0]
    assert stats.image_share.tolist() == [0, 1]  # of the labelled images
    with pytest.raises(ValueError, match=r"no label map 'gt_dem'.*'gt_cover'"):
        count_classes(dataset, 'gt_dem')


def _count_calls(monkeypatch):
    calls = []
    count = LabelReader.count
    monkeypatch.setattr(
        LabelReader, 'count', lambda self, i: calls.append(i) or count(self, i)
    )
    return calls


def test_second_time_nothing_is_counted(root, tmp_path_factory, monkeypatch):
    path = str(tmp_path_factory.mktemp('out') / 'deeper' / 'stats.json')
    first = cached_class_stats(build(root), path)
    calls = _count_calls(monkeypatch)
    # A data set that has been used has changed its transforms a little.
    used = build(root)
    used[0]
    second = cached_class_stats(used, path)
    assert calls == []
    assert (second.counts == first.counts).all()
    assert (second.ignored == first.ignored).all()
    assert (second.files, second.classes) == (first.files, first.classes)


@pytest.mark.parametrize('change', ['touch', 'bytes', 'list', 'classes', 'zero'])
def test_stale_statistics_are_replaced(root, tmp_path_factory, change, monkeypatch):
    path = str(tmp_path_factory.mktemp('out') / 'stats.json')
    cached_class_stats(build(root), path)
    label, kwargs, classes = root / 'labels/001.png', {}, 'abc'
    expected = [96, 34, 10]
    if change == 'touch':
        os.utime(label, ns=(1, 1))
    elif change == 'bytes':
        cv2.imwrite(str(label), np.full((4, 10), 2, np.uint8))
        expected = [56, 34, 50]
    elif change == 'list':
        (root / 'list.txt').write_text('000\n003\n')
        kwargs, expected = dict(ann_file='list.txt'), [36, 24, 0]
    elif change == 'classes':
        classes, expected = 'abcd', [96, 34, 10, 0]
    else:
        kwargs, expected = dict(reduce_zero_label=True), [34, 10, 0]
    dataset = build(root, classes, **kwargs)
    said = []
    monkeypatch.setattr(
        'mmseg_xmodal.datasets.class_stats.print_log',
        lambda text, **_: said.append(text),
    )
    stats = cached_class_stats(dataset, path)
    assert len(said) == 1
    assert said[0].startswith(f'{path}: the label files or the classes of')
    assert stats.pixels.tolist() == expected
    assert ClassStats.load(path).digest == stats.digest


def test_moved_data_set_keeps_its_statistics(root, tmp_path_factory, monkeypatch):
    cached_class_stats(build(root))
    moved = tmp_path_factory.mktemp('elsewhere') / 'data'
    root.rename(moved)
    calls = _count_calls(monkeypatch)
    assert cached_class_stats(build(moved)).pixels.tolist() == [96, 34, 10]
    assert calls == []


def test_default_files_do_not_fight(root):
    (root / 'train.txt').write_text('000\n001\n')
    (root / 'test.txt').write_text('002\n003\n')
    sets = [build(root, ann_file=f'{name}.txt') for name in ('train', 'test')]
    paths = [default_path(LabelReader(s)) for s in sets]
    assert len(set(paths)) == 2
    assert all(os.path.dirname(p) == str(root / 'labels') for p in paths)
    for dataset in sets:
        cached_class_stats(dataset)
    assert sorted(p.name for p in (root / 'labels').glob('*.json')) == sorted(
        os.path.basename(p) for p in paths
    )
    # The files of the labels are still those of four samples.
    assert len(build(root)) == 4


def test_other_processes_wait_and_read(root, monkeypatch):
    order = []
    dataset = build(root)
    monkeypatch.setattr(
        'mmseg_xmodal.datasets.class_stats.is_main_process', lambda: False
    )

    def gather(own: str | None) -> list[str | None]:
        if not order:
            count_classes(dataset).save(default_path(LabelReader(dataset)))
        order.append(own)
        return [None, own]

    monkeypatch.setattr('mmseg_xmodal.datasets.class_stats.all_gather_object', gather)
    stats = cached_class_stats(dataset)
    calls = _count_calls(monkeypatch)
    assert order == [None, None]
    assert stats.pixels.tolist() == [96, 34, 10]
    assert calls == []


def _counted(tmp_path: Path, root: Path, path: str) -> list[str]:
    """What counting gives in each of two processes."""

    def work(rank: int) -> str:
        stats = cached_class_stats(build(root), path.format(rank=rank))
        return str(stats.pixels.tolist())

    return in_two_processes(tmp_path, work)


def test_two_processes_get_the_same(root, tmp_path_factory):
    out = tmp_path_factory.mktemp('out')
    found = _counted(out, root, str(out / 'stats.json'))
    assert found == ['[96, 34, 10]'] * 2


@pytest.mark.parametrize('broken', [0, 1])
def test_an_error_of_one_process_is_raised_by_all(root, tmp_path_factory, broken):
    """The others would wait for the failed one until the timeout."""
    out = tmp_path_factory.mktemp('out')
    # A file lies where the folder of this process should.
    (out / f'at{broken}').write_text('')
    path = str(out / 'at{rank}' / 'stats.json')
    found = _counted(out, root, path)
    assert found[broken].startswith('ValueError: The class statistics cannot be writ')
    expected = rf'ValueError: .*process {broken} .*cannot be written to .*at{broken}'
    assert re.match(expected, found[1 - broken]), found


def test_wrong_data(root):
    with pytest.raises(ValueError, match=r'000.png.*ids \[1\], expected 0 to 0'):
        count_classes(build(root, 'a'))
    with pytest.raises(ValueError, match='0 parts with label files'):
        count_classes(build(root, data_prefix=None))
    pipeline = [PIPELINE[0]]
    with pytest.raises(ValueError, match="gives no 'gt_seg_map'"):
        count_classes(build(root, pipeline=pipeline))
    cfg = config(root)
    del cfg['metainfo']
    with pytest.raises(ValueError, match='classes=None'):
        count_classes(DATASETS.build(cfg))
    with pytest.raises(ValueError, match='cannot be written'):
        cached_class_stats(build(root), str(root / 'labels/000.png/stats.json'))


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        ('{', 'no JSON'),
        ('[]', 'not version 1'),
        ('{"version": 1}', 'incomplete'),
        ('{"version": 1, "digest": "", "classes": ["a"], "samples": [{}]}', 'incomp'),
    ],
)
def test_wrong_files(tmp_path, text, reason):
    path = tmp_path / 'stats.json'
    path.write_text(text)
    with pytest.raises(ValueError, match=reason):
        ClassStats.load(path)


def test_missing_file_and_wrong_shape(tmp_path):
    with pytest.raises(FileNotFoundError, match='python tools/class_stats.py'):
        ClassStats.load(tmp_path / 'none.json')
    with pytest.raises(ValueError, match=r'expected \(1, 2\) and \(1,\)'):
        ClassStats(('a', 'b'), ('x',), np.zeros((1, 3), int), np.zeros(1, int))


def _stats() -> ClassStats:
    """Class d never occurs."""
    counts = np.array([[80, 20, 0, 0], [95, 0, 5, 0], [50, 0, 0, 0]])
    return ClassStats(tuple('abcd'), tuple('xyz'), counts, np.array([0, 0, 50]))


def test_inverse_weights():
    share = np.array([225, 20, 5]) / 250
    expected = (1 / share) / (1 / share).mean()
    assert _stats().weights('inverse') == pytest.approx([*expected, 1])


def test_median_weights():
    # Shares in the labelled pixels of the images in which the class occurs.
    frequency = np.array([225 / 250, 20 / 100, 5 / 100])
    assert _stats().weights('median') == pytest.approx([*(0.2 / frequency), 1])


def test_effective_weights():
    number = np.array([3, 1, 1])
    for beta in (0.0, 0.5, 0.9999):
        expected = (1 - beta) / (1 - beta**number)
        expected = expected / expected.mean()
        got = _stats().weights('effective', beta)
        assert got == pytest.approx([*expected, 1])
    assert _stats().weights('effective', 0.0).tolist() == [1, 1, 1, 1]


def test_enet_weights():
    share = np.array([225, 20, 5]) / 250
    assert _stats().weights('enet') == pytest.approx([*(1 / np.log(1.02 + share)), 1])


def test_weights_without_a_labelled_pixel():
    stats = ClassStats(('a', 'b'), ('x',), np.zeros((1, 2), int), np.array([9]))
    for scheme in ('inverse', 'median', 'effective', 'enet'):
        assert stats.weights(scheme).tolist() == [1, 1]
    assert stats.pixel_share.tolist() == [0, 0]


@pytest.mark.parametrize('wrong', [('mean', 0.9), ('effective', 1.0)])
def test_wrong_schemes(wrong):
    with pytest.raises(ValueError, match="expected one of .'inverse'"):
        _stats().weights(*wrong)


def test_file_is_plain_json(root):
    cached_class_stats(build(root), str(root / 'stats.json'))
    content = json.loads((root / 'stats.json').read_text())
    assert content['samples'][3] == dict(file='003.png', pixels={'1': 20}, ignored=20)
    assert not list(root.glob('*.partial'))
