"""Heads that wait for all ranks in a model with partial labels, in two processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from tests.forked import in_two_processes

from .multitask_toys import SEG, step, toy_heads, toy_model, toy_samples


class SyncOnCpu(nn.SyncBatchNorm):
    """Waits for all ranks as torch's, which runs on GPUs alone."""

    def forward(self, input: Tensor) -> Tensor:
        return input - all_reduce(input.mean((0, 2, 3), keepdim=True)) / 2


def reduce_mean(tensor: Tensor) -> Tensor:
    """As mmdet's: heads whose module has this name may call it."""
    return all_reduce(tensor.detach()) / 2


class Averaging(nn.Identity):
    """A head's loss that counts over all ranks."""

    def forward(self, input: Tensor) -> Tensor:
        return input / reduce_mean(input.new_ones(()))


def stepped(
    tmp_path: Path, labelled: tuple[bool, bool], waiting: type[nn.Module]
) -> list[str]:
    """How the losses of a batch end in each of two processes."""

    def work(rank: int) -> str:
        model = toy_model(toy_heads() | dict(cover=SEG | dict(num_classes=4)))
        convolution = model.task_heads.cover.head.convs[0]
        convolution.register_module(convolution.norm_name, waiting(8))
        without = [] if labelled[rank] else ['gt_cover']
        total, _ = step(model, toy_samples(without=without))
        return 'finite' if bool(total.isfinite()) else 'not finite'

    return in_two_processes(tmp_path, work)


@pytest.mark.parametrize('waiting', [SyncOnCpu, Averaging])
@pytest.mark.parametrize('labelled', [(True, False), (False, True)])
def test_a_task_with_labels_in_one_process_is_refused_by_both(
    tmp_path, labelled, waiting
):
    for said in stepped(tmp_path, labelled, waiting):
        assert said.startswith("ValueError: Labels of the tasks ['cover'] are in the")
        assert f'{waiting.__name__} waits for all' in said
        assert "norm_cfg=dict(type='BN')" in said


@pytest.mark.parametrize('waiting', [SyncOnCpu, Averaging])
@pytest.mark.parametrize('labelled', [(True, True), (False, False)])
def test_all_or_none_is_fine(tmp_path, labelled, waiting):
    assert stepped(tmp_path, labelled, waiting) == ['finite'] * 2
