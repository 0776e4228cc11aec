# The legacy global state of numpy is the very subject here.
# ruff: noqa: NPY002
from __future__ import annotations

import contextlib
import copy
import itertools
import pickle
import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset, ConcatDataset, InfiniteSampler, RepeatDataset
from mmengine.runner import Runner

from mmseg_xmodal.datasets.samplers import (
    MultiSourceSampler,
    SeededDefaultSampler,
    SeededIndex,
    SeededInfiniteSampler,
    seeded_rng,
)
from mmseg_xmodal.datasets.samplers.seeded import derive_seed
from tests.forked import in_two_processes

from .toy import ToyDataset, loader


class _Recorder(BaseDataset):
    """A data set that tells which index reached it."""

    def __init__(self, length: int) -> None:
        self.length = length
        super().__init__()

    def load_data_list(self) -> list[dict]:
        return [{} for _ in range(self.length)]

    def prepare_data(self, idx: int) -> int:
        return idx


def _take(sampler: Sequence, count: int) -> list[tuple[int, int]]:
    return [(int(i), i.seed) for i in itertools.islice(iter(sampler), count)]


def test_index_is_an_int_that_survives_pickle_and_arithmetic():
    index = SeededIndex(7, seed=2**62 + 1)
    assert index == 7
    assert list(range(10))[index] == 7
    for kept in (
        pickle.loads(pickle.dumps(index)),
        copy.deepcopy(index),
        index - 0,
        index % 8,
    ):
        assert (type(kept), int(kept), kept.seed) == (SeededIndex, 7, index.seed)
    assert (index - 3, (index - 3).seed) == (4, index.seed)
    assert index - 0.5 == 6.5
    assert repr(index) == f'SeededIndex(7, seed={index.seed})'


def test_stock_wrappers_keep_the_seed():
    concat = ConcatDataset([_Recorder(3), _Recorder(4)])
    got = concat[SeededIndex(5, seed=11)]
    assert (got, got.seed) == (2, 11)
    repeat = RepeatDataset(_Recorder(7), times=2)
    got = repeat[SeededIndex(12, seed=12)]
    assert (got, got.seed) == (5, 12)


def test_derive_seed_is_stable():
    # Fixed numbers: the seeds of a run must not depend on machine or version.
    assert derive_seed(0, 0, 0) == 1445694884619442965
    assert derive_seed(0, 1, 0) == 4273803895383222415
    assert derive_seed(0, 0, 1) != derive_seed(0, 1, 0)


def _draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), torch.rand(()).item()


def test_seeded_rng_fixes_the_draws_and_leaves_no_trace():
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    expected = [_draw() for _ in range(3)]
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    got = [_draw()]
    with seeded_rng(5):
        inside = _draw()
    got.append(_draw())
    with contextlib.suppress(KeyError), seeded_rng(5):
        assert _draw() == inside
        raise KeyError
    got.append(_draw())
    assert got == expected
    with seeded_rng(6):
        assert not set(_draw()) & set(inside)


def test_numpy_and_torch_do_not_share_a_stream():
    with seeded_rng(5):
        from_numpy = np.random.randint(0, 2**32, 8, dtype=np.uint32).tolist()
        from_torch = torch.randint(0, 2**32, (8,)).tolist()
    assert not set(from_numpy) & set(from_torch)


def test_infinite_sampler_has_the_stock_order_and_new_seeds_each_pass():
    data = range(5)
    stock = InfiniteSampler(data, seed=4)
    ours = _take(SeededInfiniteSampler(data, seed=4), 15)
    assert [i for i, _ in ours] == list(itertools.islice(iter(stock), 15))
    assert len({seed for _, seed in ours}) == 15
    assert ours != _take(SeededInfiniteSampler(data, seed=5), 15)


@pytest.mark.parametrize('skipped', [0, 1, 7, 23])
def test_skip_goes_to_an_absolute_position(skipped: int):
    whole = _take(SeededInfiniteSampler(range(5), seed=4), 40)
    sampler = SeededInfiniteSampler(range(5), seed=4)
    sampler.skip(skipped)
    assert _take(sampler, 10) == whole[skipped : skipped + 10]


def test_ranks_agree_where_each_has_a_seed_of_its_own(tmp_path):
    """``diff_rank_seed=True``: mmengine gives samplers no seed, states differ."""
    data = ConcatDataset([_Recorder(4), _Recorder(6)])

    def work(rank: int) -> list:
        np.random.seed(3 + rank)
        infinite = SeededInfiniteSampler(data)
        epochs = SeededDefaultSampler(data)
        several = MultiSourceSampler(data, batch_size=2, source_ratio=[1, 1])
        taken = [_take(infinite, 5), _take(epochs, 5), _take(several, 4)]
        return [[infinite.seed, epochs.seed, several.seed], *taken]

    (seeds, *first), (other, *second) = in_two_processes(tmp_path, work)
    assert seeds == other
    for mine, yours in zip(first[:2], second[:2], strict=True):
        assert sorted(i for i, _ in [*mine, *yours]) == list(range(10))
    # Two of the first source in each of the ranks, and none twice.
    assert sorted(i for i, _ in [*first[2], *second[2]] if i < 4) == list(range(4))
    # No augmentation comes twice.
    draws = [seed for part in (*first, *second) for _, seed in part]
    assert len(set(draws)) == len(draws)


def test_skip_refuses_negative_numbers():
    with pytest.raises(ValueError, match='num_samples=-1, expected'):
        SeededInfiniteSampler(range(5), seed=4).skip(-1)


def test_ranks_share_the_data_and_no_seed(monkeypatch: pytest.MonkeyPatch):
    taken = []
    for rank in range(2):
        monkeypatch.setattr(
            'mmengine.dataset.sampler.get_dist_info', lambda r=rank: (r, 2)
        )
        taken.append(_take(SeededInfiniteSampler(range(6), seed=4), 3))
    assert sorted(i for part in taken for i, _ in part) == list(range(6))
    assert len({seed for part in taken for _, seed in part}) == 6


def test_default_sampler_numbers_its_positions_through_the_epochs():
    sampler = SeededDefaultSampler(range(5), seed=4)
    epochs = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        epochs.append(_take(sampler, 99))
        assert sorted(i for i, _ in epochs[-1]) == list(range(5))
    assert len({seed for epoch in epochs for _, seed in epoch}) == 15
    again = SeededDefaultSampler(range(5), seed=4)
    again.set_epoch(2)
    assert _take(again, 99) == epochs[2]


def _batches(workers: int, sampler: str) -> torch.Tensor:
    cfg = loader(workers, dict(type=sampler, shuffle=True), batch_size=3)
    if workers:
        cfg['prefetch_factor'] = 3
    batches = iter(Runner.build_dataloader(cfg, seed=9))
    return torch.cat([next(batches)['x'] for _ in range(6)])


def test_number_of_workers_changes_nothing():
    expected = _batches(0, 'mmseg_xmodal.SeededInfiniteSampler')
    assert expected.shape == (18, 4)
    assert len(expected[:, 0].unique()) == 18  # every sample has draws of its own
    for workers in (1, 2):
        got = _batches(workers, 'mmseg_xmodal.SeededInfiniteSampler')
        assert torch.equal(got, expected)
    # The stock sampler shows that the test can fail.
    assert not torch.equal(
        _batches(1, 'InfiniteSampler'), _batches(2, 'InfiniteSampler')
    )


def test_toy_data_set_is_seeded_by_the_index_alone():
    data = ToyDataset()
    first, second = data[SeededIndex(1, seed=5)], data[SeededIndex(1, seed=5)]
    assert torch.equal(first['x'], second['x'])
    assert not torch.equal(first['x'], data[SeededIndex(1, seed=6)]['x'])
