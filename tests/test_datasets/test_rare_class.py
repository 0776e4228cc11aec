"""Drawing samples by the rarity of their classes."""

from __future__ import annotations

import itertools
import json
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from mmengine.dataset import ConcatDataset
from mmengine.runner import Runner

from mmseg_xmodal.datasets import MultiSourceDataset
from mmseg_xmodal.datasets.label_reader import LabelReader
from mmseg_xmodal.datasets.samplers import (
    MultiSourceSampler,
    RareClassIndex,
    RareClassSampler,
)
from mmseg_xmodal.datasets.samplers.rare_class import rare_class_probabilities
from mmseg_xmodal.registry import DATA_SAMPLERS
from tests.parity.fixture import HERE

from .labelled import PIPELINE, build, config, write_labelled

ROOT = HERE.parents[2]
# a: 100 of 120 labelled pixels, b 17, c 3. Class c is in sample 2 alone, b in 1 and 3.
SAMPLES = [{0: 40}, {0: 30, 1: 9}, {0: 20, 2: 3}, {0: 10, 1: 8}]
PIXELS = np.array([100, 17, 3])


@pytest.fixture
def dataset(tmp_path):
    write_labelled(tmp_path, SAMPLES)
    return build(tmp_path)


def sampler(dataset, **kwargs) -> RareClassSampler:
    kwargs = dict(temperature=0.5, min_pixels=2, seed=4) | kwargs
    return RareClassSampler(dataset, **kwargs)


def take(sampler, count: int) -> list[tuple[int, int, int]]:
    drawn = itertools.islice(iter(sampler), count)
    return [(int(i), i.seed, i.rare_class) for i in drawn]


@pytest.mark.parametrize('temperature', [0.01, 0.1])
def test_official_probabilities(temperature):
    section = json.loads((HERE / 'uda_ops.json').read_text())['sections']['rcs']
    arrays = np.load(HERE / 'uda_ops.npz')
    assert temperature in section['temperatures']
    pixels = np.zeros(19, int)
    for sample in section['sample_class_stats']:
        for name, count in sample.items():
            if name != 'file':
                pixels[int(name)] += count
    classes, probabilities = rare_class_probabilities(pixels, temperature)
    assert classes.tolist() == arrays['rcs.classes'].tolist()
    # The tolerance of the fixture; the official softmax is in single precision.
    np.testing.assert_allclose(
        probabilities, arrays[f'rcs.prob_T{temperature}'], rtol=1e-5, atol=1e-6
    )


def test_classes_that_never_occur_are_left_out():
    classes, probabilities = rare_class_probabilities([0, 5, 0, 5, 1], 0.5)
    assert classes.tolist() == [4, 1, 3]
    share = np.array([1, 5, 5]) / 11
    expected = np.exp((1 - share) / 0.5)
    assert probabilities == pytest.approx(expected / expected.sum())
    # Small temperatures do not overflow.
    assert rare_class_probabilities([1, 10**9], 1e-5)[1].tolist() == [1, 0]


def test_draws_follow_the_probabilities(dataset):
    number = 6000
    drawn = take(sampler(dataset), number)
    expected = np.exp((1 - PIXELS / 120) / 0.5)
    expected /= expected.sum()
    found = Counter(rare for _, _, rare in drawn)
    for rare, probability in enumerate(expected):
        # Five standard deviations; the seed is fixed.
        spread = 5 * np.sqrt(probability * (1 - probability) / number)
        assert abs(found[rare] / number - probability) < spread
    # Samples of a class are drawn alike, and only those that hold it.
    places = {r: Counter(i for i, _, c in drawn if c == r) for r in range(3)}
    assert {r: sorted(p) for r, p in places.items()} == {
        0: [0, 1, 2, 3],
        1: [1, 3],
        2: [2],
    }
    for counts in places.values():
        mean = sum(counts.values()) / len(counts)
        assert all(abs(n - mean) < 5 * np.sqrt(mean) for n in counts.values())
    assert len({seed for _, seed, _ in drawn}) == number


def test_images_must_exceed_the_pixels(dataset):
    assert {i for i, _, c in take(sampler(dataset), 300) if c == 1} == {1, 3}
    with pytest.raises(ValueError, match=r"min_pixels=3 .*one has\): \{'c': 3\}.*to 2"):
        sampler(dataset, min_pixels=3)
    with pytest.raises(ValueError, match=r"\{'c': 3, 'b': 9\}.*to 2"):
        sampler(dataset, min_pixels=9)


@pytest.mark.parametrize('skipped', [0, 1, 25, 10**9])
def test_skip_goes_to_an_absolute_position(dataset, skipped):
    later = sampler(dataset)
    later.skip(skipped)
    if skipped < 10**6:
        assert take(later, 20) == take(sampler(dataset), skipped + 20)[skipped:]
    else:  # at once: nothing before it is drawn
        assert len(take(later, 2)) == 2


def test_other_seeds_draw_others(dataset):
    assert take(sampler(dataset), 50) == take(sampler(dataset), 50)
    assert take(sampler(dataset), 50) != take(sampler(dataset, seed=5), 50)


def test_ranks_draw_independently_and_in_turn(dataset, monkeypatch):
    alone = [index for index, _, _ in take(sampler(dataset), 80)]
    ranks = []
    for rank in range(2):
        monkeypatch.setattr(
            'mmengine.dataset.sampler.get_dist_info', lambda r=rank: (r, 2)
        )
        ranks.append(take(sampler(dataset), 40))
    indices = [[i for i, _, _ in rank] for rank in ranks]
    assert indices[0] != indices[1]
    assert list(itertools.chain(*zip(*indices, strict=True))) == alone
    assert not {s for _, s, _ in ranks[0]} & {s for _, s, _ in ranks[1]}


def test_index_says_the_class_wherever_it_goes(dataset):
    index = next(iter(sampler(dataset)))
    assert isinstance(index, RareClassIndex)
    both = ConcatDataset([dataset, dataset])
    moved = RareClassIndex(int(index) + 4, index.seed, index.rare_class)
    for kept in (
        pickle.loads(pickle.dumps(index)),
        both._get_ori_dataset_idx(moved)[1],
        index % 4,
    ):
        assert type(kept) is RareClassIndex
        assert (int(kept), kept.seed, kept.rare_class) == (
            int(index),
            index.seed,
            index.rare_class,
        )
    assert index - 0.5 == int(index) - 0.5


def test_statistics_are_kept_and_followed(dataset, tmp_path, monkeypatch):
    path = str(tmp_path / 'stats.json')
    first = take(sampler(dataset, stats=path), 20)
    counted = []
    count = LabelReader.count
    monkeypatch.setattr(
        LabelReader, 'count', lambda self, i: counted.append(i) or count(self, i)
    )
    assert take(sampler(dataset, stats=path), 20) == first
    assert counted == []
    write_labelled(tmp_path, [{1: 40}, {0: 30}, {0: 20}, {2: 9}])
    changed = take(sampler(dataset, stats=path), 20)
    assert counted == [0, 1, 2, 3]
    assert {(i, c) for i, _, c in changed} <= {(0, 1), (1, 0), (2, 0), (3, 2)}


def test_as_one_source_of_several(dataset, tmp_path_factory):
    other = tmp_path_factory.mktemp('target')
    write_labelled(other, [{0: 40}] * 3)
    mixed = MultiSourceDataset([dataset, config(other)], names=['labelled', 'target'])

    def make() -> MultiSourceSampler:
        rare = dict(
            type='mmseg_xmodal.RareClassSampler', temperature=0.01, min_pixels=2
        )
        return MultiSourceSampler(mixed, 4, [1, 1], [rare, None], seed=3)

    drawn = list(itertools.islice(iter(make()), 400))
    for start in range(0, 400, 4):
        a, b, c, d = drawn[start : start + 4]
        # At this temperature the class is always the rarest: sample 2.
        assert (int(a), int(b)) == (2, 2)
        assert (a.rare_class, b.rare_class) == (2, 2)
        assert {int(c), int(d)} <= {4, 5, 6}
    later = make()
    later.skip(37)
    again = itertools.islice(iter(later), 30)
    assert [(int(i), i.seed) for i in again] == [(int(i), i.seed) for i in drawn[37:67]]


def _batches(dataset, workers: int) -> list[torch.Tensor]:
    cfg = dict(
        dataset=dataset,
        batch_size=2,
        num_workers=workers,
        sampler=dict(type='mmseg_xmodal.RareClassSampler', min_pixels=0),
        collate_fn=dict(type='pseudo_collate'),
    )
    batches = iter(Runner.build_dataloader(cfg, seed=9))
    return [next(batches)['data_samples'] for _ in range(4)]


def test_number_of_workers_changes_nothing(tmp_path):
    write_labelled(tmp_path, SAMPLES)
    load, annotate, pack = PIPELINE
    crop = dict(type='RandomCrop', crop_size=(2, 3))
    dataset = build(tmp_path, pipeline=[load, annotate, crop, pack])
    expected, got = _batches(dataset, 0), _batches(dataset, 2)
    for ours, theirs in zip(expected, got, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert a.img_path == b.img_path
            assert torch.equal(a.gt_sem_seg.data, b.gt_sem_seg.data)


def test_wrong_numbers(dataset, tmp_path_factory):
    for wrong in (dict(temperature=0), dict(min_pixels=-1)):
        with pytest.raises(ValueError, match='expected a number above 0 and'):
            sampler(dataset, **wrong)
    void = tmp_path_factory.mktemp('void')
    write_labelled(void, [{}])
    with pytest.raises(ValueError, match='no sample has a labelled pixel'):
        sampler(build(void))
    with pytest.raises(ValueError, match='num_samples=-1'):
        sampler(dataset).skip(-1)


def test_lines_of_the_document(dataset, tmp_path):
    text = (ROOT / 'docs/imbalance.md').read_text().split('## Sampling\n')[1]
    rare, mixed = (block.split('```')[0] for block in text.split('```python\n')[1:3])
    found: dict = {}
    exec(rare, found)
    cfg = found['train_dataloader']['sampler']
    assert cfg.pop('_delete_') is True
    cfg |= dict(stats=str(tmp_path / 'stats.json'), min_pixels=2)
    assert len(take(DATA_SAMPLERS.build(cfg, default_args=dict(dataset=dataset)), 3))

    found = dict(own_dataset=config(tmp_path), more_dataset=config(tmp_path))
    exec(mixed, found)
    loader = found['train_dataloader']
    for part in ('dataset', 'sampler'):
        assert loader[part].pop('_delete_') is True
    loader['sampler']['samplers'][0]['min_pixels'] = 2
    cfg = dict(**loader, num_workers=0, collate_fn=dict(type='pseudo_collate'))
    batch = next(iter(Runner.build_dataloader(cfg, seed=0)))['data_samples']
    assert [d.metainfo['source'] for d in batch] == ['own', 'more', 'more', 'more']
