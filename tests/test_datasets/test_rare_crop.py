"""MinimumClassPixelsCrop: more of the rare class, the same crops as mmseg's else."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from mmcv.transforms.utils import cache_random_params
from mmseg.datasets.transforms import RandomCrop

from mmseg_xmodal.datasets.samplers import RareClassIndex, SeededIndex
from mmseg_xmodal.datasets.transforms import MinimumClassPixelsCrop, XModalRandomCrop

from .labelled import PIPELINE, build, write_labelled

SIZE = (40, 60)
CROP = (16, 16)


def sample(rare: int | None = 2) -> dict:
    """Class 2 fills 8 x 8 pixels of a map of classes 0 and 1 and ignored ones."""
    labels = np.zeros(SIZE, np.uint8)
    labels[:, 30:] = 1
    labels[:, 50:] = 255
    labels[4:12, 10:18] = 2
    place = np.arange(40 * 60, dtype=np.float32).reshape(SIZE)
    image = np.stack([place, labels.astype(np.float32)], -1)
    results = dict(
        img=image,
        gt_seg_map=labels,
        gt_depth_map=place.copy(),
        seg_fields=['gt_seg_map', 'gt_depth_map'],
        img_path='a.png',
    )
    return results if rare is None else dict(results, rare_class=rare)


def crops(transform, rare: int | None = 2, count: int = 200) -> list[dict]:
    np.random.seed(0)  # noqa: NPY002
    return [transform(sample(rare)) for _ in range(count)]


def share(found: list[dict], more_than: int) -> float:
    """Share of the crops with so many pixels of class 2."""
    return np.mean([(r['gt_seg_map'] == 2).sum() > more_than for r in found])


def test_the_class_is_there_more_often():
    # 24 of the 64 pixels; a crop has them with the chance p, one of eleven with
    # 1 - (1 - p)^11.
    chance = share(crops(XModalRandomCrop(crop_size=CROP), count=2000), 24)
    assert 0.1 < chance < 0.3
    for tries in (0, 1, 10):
        crop = MinimumClassPixelsCrop(CROP, 24, tries, cat_max_ratio=1.0)
        expected = 1 - (1 - chance) ** (tries + 1)
        # Three standard deviations of 1000 draws are 0.047 or less.
        assert share(crops(crop, count=1000), 24) == pytest.approx(expected, abs=0.05)
    assert share(crops(MinimumClassPixelsCrop(CROP, 24, 1000)), 24) == 1


def test_everything_is_cut_alike():
    for result in crops(MinimumClassPixelsCrop(CROP, 30), count=20):
        place, labels = np.moveaxis(result['img'], -1, 0)
        assert result['img_shape'] == CROP
        assert np.array_equal(place, result['gt_depth_map'])
        assert np.array_equal(labels, result['gt_seg_map'])


def test_without_a_rare_class_it_is_the_stock_crop():
    for ratio in (0.75, 1.0):
        stock = RandomCrop(CROP, cat_max_ratio=ratio)
        ours = MinimumClassPixelsCrop(CROP, 24, cat_max_ratio=ratio)
        pairs = zip(crops(stock, None, 50), crops(ours, None, 50), strict=True)
        assert all(np.array_equal(a['img'], b['img']) for a, b in pairs)
        # Nor are random numbers spent where no crop can have enough.
        pairs = zip(crops(stock, 7, 50), crops(ours, 7, 50), strict=True)
        assert all(np.array_equal(a['img'], b['img']) for a, b in pairs)


def test_a_cached_draw_is_one_crop():
    crop = MinimumClassPixelsCrop(CROP, 24, 1000)
    np.random.seed(1)  # noqa: NPY002
    with cache_random_params(crop):
        first, second = crop(sample()), crop(sample())
    assert np.array_equal(first['img'], second['img'])
    assert (first['gt_seg_map'] == 2).sum() > 24


def test_what_it_refuses():
    for wrong in (dict(min_pixels=-1), dict(max_tries=-1)):
        with pytest.raises(ValueError, match='expected 0 or more'):
            MinimumClassPixelsCrop(CROP, **wrong)
    unlabelled = sample()
    del unlabelled['gt_seg_map']
    with pytest.raises(ValueError, match="class 2 and has no 'gt_seg_map'"):
        MinimumClassPixelsCrop(CROP)(unlabelled)
    with pytest.raises(ValueError, match="has no 'gt_parts'"):
        MinimumClassPixelsCrop(CROP, key='gt_parts')(sample())


def test_the_class_comes_from_the_sampler(tmp_path):
    labels = np.zeros(SIZE, np.uint8)
    labels[4:12, 10:18] = 2
    write_labelled(tmp_path, [labels, labels])
    load, annotate, pack = PIPELINE
    seen = []

    def look(results: dict) -> dict:
        seen.append((results.get('rare_class'), type(results['sample_idx'])))
        return results

    crop = dict(type='mmseg_xmodal.MinimumClassPixelsCrop', crop_size=CROP)
    crop |= dict(min_pixels=24, max_tries=500)
    dataset = build(tmp_path, pipeline=[load, annotate, look, crop, pack])
    found = Counter()
    for seed in range(10):
        for index in (RareClassIndex(1, seed, 2), SeededIndex(1, seed)):
            out = dataset[index]['data_samples'].gt_sem_seg.data
            again = dataset[index]['data_samples'].gt_sem_seg.data
            assert torch.equal(out, again)
            found[type(index).__name__] += int((out == 2).sum() > 24)
    assert found['RareClassIndex'] == 10
    assert found['SeededIndex'] < 10
    assert seen[:4] == [(2, int), (2, int), (None, int), (None, int)]
    assert dataset.get_data_info(0).get('rare_class') is None


def test_a_substitute_has_no_class(tmp_path):
    write_labelled(tmp_path, [{0: 40}, {1: 40}])
    seen = []

    def drop_first(results: dict) -> dict | None:
        seen.append((results['sample_idx'], results.get('rare_class')))
        return None if len(seen) == 1 else results

    dataset = build(tmp_path, pipeline=[drop_first, *PIPELINE])
    assert dataset[RareClassIndex(0, 5, 0)] is not None
    assert seen[0] == (0, 0)
    assert seen[1][1] is None
