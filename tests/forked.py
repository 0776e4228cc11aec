"""Two processes on the CPU (gloo), forked: no imports, so they start at once."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch


def _one(rank: int, store: str, work: Callable[[int], Any], said: Any) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        'gloo',
        init_method=f'file://{store}',
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=20),
    )
    try:
        said.put((rank, work(rank)))
    except Exception as error:
        said.put((rank, f'{type(error).__name__}: {error}'))


def in_two_processes(tmp_path: Path, work: Callable[[int], Any]) -> list[Any]:
    """What a function of the rank returns in both, or the error as a text.

    Args:
        tmp_path: Where they meet.
        work: Returns numbers and texts, no tensors.
    """
    context = multiprocessing.get_context('fork')
    said = context.Queue()
    store = str(tmp_path / 'store')
    processes = [
        context.Process(target=_one, args=(rank, store, work, said))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    found = dict(said.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(60)
    return [found[0], found[1]]
