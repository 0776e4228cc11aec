"""SyncBatchNorm in the heads of a model with partial labels, in two processes."""

from __future__ import annotations

import multiprocessing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from .multitask_toys import SEG, step, toy_heads, toy_model, toy_samples


class SyncOnCpu(nn.SyncBatchNorm):
    """Waits for all ranks as torch's, which runs on GPUs alone."""

    def forward(self, input: Tensor) -> Tensor:
        return input - all_reduce(input.mean((0, 2, 3), keepdim=True)) / 2


def _in_a_process(
    rank: int, store: str, labelled: tuple[bool, bool], said: Any
) -> None:
    """Take the losses of a batch as one of two, and say how it ended."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        'gloo',
        init_method=f'file://{store}',
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=20),
    )
    model = toy_model(toy_heads() | dict(cover=SEG | dict(num_classes=4)))
    convolution = model.task_heads.cover.head.convs[0]
    convolution.register_module(convolution.norm_name, SyncOnCpu(8))
    without = [] if labelled[rank] else ['gt_cover']
    try:
        total, _ = step(model, toy_samples(without=without))
        said.put((rank, 'finite' if bool(total.isfinite()) else 'not finite'))
    except Exception as error:
        said.put((rank, f'{type(error).__name__}: {error}'))


def in_two_processes(tmp_path: Path, labelled: tuple[bool, bool]) -> list[str]:
    # Forked, as the workers of a data loader: no imports.
    context = multiprocessing.get_context('fork')
    said = context.Queue()
    store = str(tmp_path / 'store')
    processes = [
        context.Process(target=_in_a_process, args=(rank, store, labelled, said))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    found = dict(said.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(60)
    return [found[0], found[1]]


@pytest.mark.parametrize('labelled', [(True, False), (False, True)])
def test_a_task_with_labels_in_one_process_is_refused_by_both(tmp_path, labelled):
    for said in in_two_processes(tmp_path, labelled):
        assert said.startswith("ValueError: Labels of the tasks ['cover'] are in the")
        assert "norm_cfg=dict(type='BN')" in said


@pytest.mark.parametrize('labelled', [(True, True), (False, False)])
def test_all_or_none_is_fine(tmp_path, labelled):
    assert in_two_processes(tmp_path, labelled) == ['finite'] * 2
