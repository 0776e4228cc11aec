"""Several data sets in one, and batches composed of them."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from mmengine.dataset import ConcatDataset
from mmengine.runner import Runner

from mmseg_xmodal.datasets import MultiSourceDataset
from mmseg_xmodal.datasets.samplers import (
    MultiSourceSampler,
    SeededIndex,
    SeededInfiniteSampler,
)

from .labelled import PIPELINE, build, config, write_labelled

SIZES = (5, 12)


@pytest.fixture(scope='module')
def roots(tmp_path_factory):
    found = []
    for number, size in enumerate(SIZES):
        root = tmp_path_factory.mktemp(f'source{number}')
        write_labelled(root, [{0: 20, 1: 1 + n, 2: 5} for n in range(size)])
        found.append(root)
    return found


@pytest.fixture
def mixed(roots):
    return MultiSourceDataset([build(r) for r in roots], names=['real', 'game'])


def lengths(dataset) -> list[int]:
    return [len(d) for d in dataset.datasets]


def test_every_sample_knows_its_source(mixed):
    first, last = mixed[0], mixed[len(mixed) - 1]
    assert first['data_samples'].metainfo['source'] == 'real'
    assert first['data_samples'].metainfo['source_index'] == 0
    assert last['data_samples'].metainfo['source'] == 'game'
    assert last['data_samples'].metainfo['source_index'] == 1
    assert mixed.metainfo['sources'] == ('real', 'game')
    assert mixed.metainfo['classes'] == ('a', 'b', 'c')


def test_pipelines_see_the_source(roots):
    seen = []

    def look(results):
        seen.append((results['source'], results['source_index']))
        return results

    repeat = dict(type='RepeatDataset', times=2)
    cfgs = [config(r, pipeline=[look, *PIPELINE]) for r in roots]
    cfgs[1] = dict(**repeat, dataset=cfgs[1])
    dataset = MultiSourceDataset(cfgs)
    for index in (0, len(dataset) - 1):
        _ = dataset[index]
    assert seen == [('source0', 0), ('source1', 1)]


def test_views_of_test_time_augmentation_know_it_too(roots):
    load, annotate, pack = PIPELINE
    tta = dict(type='TestTimeAug', transforms=[[annotate], [pack, pack]])
    dataset = MultiSourceDataset([config(roots[0], pipeline=[load, tta])])
    views = dataset[0]['data_samples']
    assert [v.metainfo['source'] for v in views] == ['source0', 'source0']


def test_differences_that_do_not_matter(roots):
    three = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    other = config(
        roots[1],
        metainfo=dict(classes=['a', 'b', 'c'], palette=three),  # a list, other colours
        modalities=dict(x=dict(channels=1, dtype='uint8', bands=[0])),
        data_prefix=dict(x='rgb', seg_map_path='labels'),
        reduce_zero_label=True,
    )
    unlabelled = config(roots[1], data_prefix=None)
    del unlabelled['metainfo']
    parts = [config(roots[0]), other, unlabelled]
    dataset = MultiSourceDataset(parts)
    assert dataset[len(dataset.datasets[0])]['inputs'].shape[0] == 1
    # The stock class refuses them.
    with pytest.raises((ValueError, TypeError)):
        ConcatDataset([build(roots[0]), MultiSourceDataset(parts[1:2]).datasets[0]])


def test_classes_are_compared(roots):
    parts = [config(roots[0]), config(roots[1], ('a', 'c', 'b'))]
    with pytest.raises(ValueError, match=r"'source0'.*'b', 'c'.*'source1'.*'c', 'b'"):
        MultiSourceDataset(parts)
    allowed = MultiSourceDataset(parts, allow_different_classes=True)
    assert allowed.metainfo['classes'] == ('a', 'b', 'c')


def test_wrong_sources(roots):
    with pytest.raises(ValueError, match='one name for each, all different'):
        MultiSourceDataset([config(r) for r in roots], names=['x', 'x'])
    with pytest.raises(ValueError, match='at least one'):
        MultiSourceDataset([])
    with pytest.raises(TypeError, match='got a list'):
        MultiSourceDataset([[1, 2]])
    same = build(roots[0])
    with pytest.raises(ValueError, match='is a source already'):
        MultiSourceDataset([same, same])


def sampler(dataset, **kwargs) -> MultiSourceSampler:
    kwargs = dict(batch_size=8, source_ratio=[1, 3], seed=4) | kwargs
    return MultiSourceSampler(dataset, **kwargs)


def take(sampler, count: int) -> list[tuple[int, int]]:
    return [(int(i), i.seed) for i in itertools.islice(iter(sampler), count)]


def test_every_batch_has_the_ratio(mixed):
    first = lengths(mixed)[0]
    drawn = take(sampler(mixed), 8 * 40)
    for start in range(0, len(drawn), 8):
        batch = [index < first for index, _ in drawn[start : start + 8]]
        assert batch == [True] * 2 + [False] * 6
    # All samples of a source are seen equally often: 80 and 240 draws.
    seen = Counter(index for index, _ in drawn)
    assert sorted(seen) == list(range(len(mixed)))
    counts = [[n for i, n in seen.items() if (i < first) == own] for own in (1, 0)]
    assert all(max(c) - min(c) <= 1 for c in counts)
    assert len({seed for _, seed in drawn}) == len(drawn)
    assert drawn != take(sampler(mixed, seed=5), len(drawn))


# Inside a batch, at its ends, and after many.
@pytest.mark.parametrize('skipped', [0, 1, 2, 7, 8, 9, 37, 400])
def test_skip_goes_to_an_absolute_position(mixed, skipped):
    whole = take(sampler(mixed), 450)
    later = sampler(mixed)
    later.skip(skipped)
    assert take(later, 40) == whole[skipped : skipped + 40]


def _ranks(monkeypatch, make, count: int, world: int = 2) -> list:
    taken = []
    for rank in range(world):
        monkeypatch.setattr(
            'mmengine.dataset.sampler.get_dist_info', lambda r=rank: (r, world)
        )
        taken.append(take(make(), count))
    return taken


def test_ranks_share_the_sources_without_overlap(mixed, monkeypatch):
    first, second = lengths(mixed)
    taken = _ranks(monkeypatch, lambda: sampler(mixed, source_ratio=[1, 1]), 8 * 12)
    for number, size in ((0, first), (1, second)):
        own = [[i for i, _ in rank if (i < first) == (number == 0)] for rank in taken]
        # One pass over a source, ranks in turn.
        turns = list(itertools.chain(*zip(*own, strict=True)))
        start = 0 if number == 0 else first
        assert sorted(turns[:size]) == list(range(start, start + size))
    assert not {s for _, s in taken[0]} & {s for _, s in taken[1]}
    batches = [[i < first for i, _ in rank] for rank in taken]
    assert batches[0] == batches[1] == ([True] * 4 + [False] * 4) * 12


def test_sources_with_samplers_of_their_own(mixed):
    ordered = dict(type='mmseg_xmodal.SeededInfiniteSampler', shuffle=False)
    own = sampler(mixed, batch_size=2, source_ratio=[1, 1], samplers=[ordered, None])
    first = lengths(mixed)[0]
    drawn = [index for index, _ in take(own, 12)]
    assert drawn[::2] == [i % first for i in range(6)]
    assert drawn[1::2] != sorted(drawn[1::2])
    assert isinstance(own.samplers[1], SeededInfiniteSampler)
    # Their seeds differ, so that two copies of a source are not in step.
    assert own.samplers[0].seed != own.samplers[1].seed
    still = sampler(mixed, batch_size=2, source_ratio=[1, 1], shuffle=False)
    assert [i for i, _ in take(still, 4)] == [0, first, 1, first + 1]


def _batches(dataset, workers: int) -> list:
    cfg = dict(
        dataset=dataset,
        batch_size=4,
        num_workers=workers,
        sampler=dict(
            type='mmseg_xmodal.MultiSourceSampler', batch_size=4, source_ratio=[1, 1]
        ),
        collate_fn=dict(type='pseudo_collate'),
    )
    batches = iter(Runner.build_dataloader(cfg, seed=9))
    return [next(batches) for _ in range(4)]


def test_number_of_workers_changes_nothing(roots):
    load, annotate, pack = PIPELINE
    crop = dict(type='RandomCrop', crop_size=(2, 3))
    cfgs = [config(r, pipeline=[load, annotate, crop, pack]) for r in roots]
    dataset = MultiSourceDataset(cfgs, names=['real', 'game'])
    expected = _batches(dataset, 0)
    sources = [[d.metainfo['source'] for d in b['data_samples']] for b in expected]
    assert sources == [['real', 'real', 'game', 'game']] * 4
    crops = [d.gt_sem_seg.data for b in expected for d in b['data_samples']]
    assert len({tuple(c.flatten().tolist()) for c in crops}) > 1
    got = _batches(dataset, 2)
    for ours, theirs in zip(expected, got, strict=True):
        for key in range(4):
            assert torch.equal(ours['inputs'][key], theirs['inputs'][key])
            a, b = ours['data_samples'][key], theirs['data_samples'][key]
            assert torch.equal(a.gt_sem_seg.data, b.gt_sem_seg.data)
            assert a.metainfo['source'] == b.metainfo['source']


def test_indices_reach_the_parts_with_their_seeds(mixed):
    index = next(iter(sampler(mixed, source_ratio=[1, 1])))
    assert type(index) is SeededIndex
    assert mixed._get_ori_dataset_idx(index)[1].seed == index.seed


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (dict(source_ratio=[1, 2]), 'gives 2.66667, 5.33333 samples of a batch of 8'),
        (dict(source_ratio=[1]), 'for 2 data sets'),
        (dict(samplers=[None]), 'and 1 samplers for 2 data sets'),
        (dict(source_ratio=[0, 1]), 'whole numbers above 0'),
        (dict(source_ratio=[0.5, 0.5]), 'whole numbers above 0'),
        (dict(batch_size=0), 'whole numbers above 0'),
    ],
)
def test_wrong_numbers(mixed, wrong, message):
    with pytest.raises(ValueError, match=message):
        sampler(mixed, **wrong)


def test_wrong_parts(mixed, roots):
    stock = dict(type='DefaultSampler')
    with pytest.raises(TypeError, match=r'samplers\[1\] is a DefaultSampler'):
        sampler(mixed, samplers=[None, stock])
    with pytest.raises(TypeError, match='got a MultiModalSegDataset'):
        sampler(build(roots[0]))

    class Empty:
        datasets = ((), range(3))
        cumulative_sizes = (0, 3)

        def __len__(self):
            return 3

    with pytest.raises(ValueError, match=r'Source 0 \(tuple\).*no samples'):
        sampler(Empty())
    with pytest.raises(ValueError, match='num_samples=-1'):
        sampler(mixed).skip(-1)
