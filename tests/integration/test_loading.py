"""The number of workers and prefetching change nothing in a real pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from .helpers import write_config


def _batches(cfg: Config, start: int = 0, count: int = 6, **loader: object) -> list:
    built = Runner.build_dataloader(dict(cfg.train_dataloader, **loader), seed=3)
    built.sampler.skip(start * 2)
    batches = iter(built)
    return [next(batches) for _ in range(count)]


def _assert_equal(got: list, want: list) -> None:
    for one, two in zip(got, want, strict=True):
        for a, b in zip(one['inputs'], two['inputs'], strict=True):
            assert torch.equal(a, b)
        for a, b in zip(one['data_samples'], two['data_samples'], strict=True):
            assert torch.equal(a.gt_sem_seg.data, b.gt_sem_seg.data)
            assert a.metainfo == b.metainfo


@pytest.fixture
def config(tmp_path: Path, rgbd_root: Path) -> Config:
    return Config.fromfile(write_config(tmp_path, 'tiny', rgbd_root))


def test_workers_and_prefetching(config: Config):
    want = _batches(config)
    _assert_equal(_batches(config, num_workers=1, prefetch_factor=4), want)
    _assert_equal(_batches(config, num_workers=2, persistent_workers=True), want)
    # Twelve samples of eight images: augmentation differs from pass to pass.
    first = {}
    again = 0
    for batch in want:
        for x, sample in zip(batch['inputs'], batch['data_samples'], strict=True):
            path = sample.img_path
            again += path in first
            assert not (path in first and torch.equal(first[path], x))
            first[path] = x
    assert again == 4


def test_global_random_state_changes_nothing(config: Config):
    want = _batches(config, count=3)
    torch.manual_seed(12345)
    _assert_equal(_batches(config, count=3), want)


def test_skipping_equals_loading_and_throwing_away(config: Config):
    _assert_equal(_batches(config, start=4, count=2), _batches(config)[4:])
