"""Time and memory of one operation, on a CPU or on CUDA; needs torch alone."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

_AHEAD = 1e-3  # seconds of work in front of a step at least
_WRITES, _MOST_WRITES = 8, 200


def seconds(step: Callable[[], Any], device: str, repeats: int) -> float:
    """Return the median time of a step; on CUDA between events, with a cold cache.

    Each CUDA step follows writes of 256 MiB, more than the second-level cache holds:
    repeated on the same small inputs, a step would be timed from cache. There are so
    many of them that the device still writes when the host has queued the whole step:
    after one alone, of 0.1 ms, it would wait for the host, and Python would be timed.
    What is timed is thus the work on the device, as in a network that keeps it busy.
    """
    for _ in range(min(3, repeats)):
        step()
    if not device.startswith('cuda'):
        found = []
        for _ in range(repeats):
            start = time.perf_counter()
            step()
            found.append(time.perf_counter() - start)
        return statistics.median(found)
    flush = torch.empty(1 << 28, dtype=torch.uint8, device=device)
    flushes = _flushes(step, flush)
    events = []
    for _ in range(repeats):
        for _ in range(flushes):
            flush.zero_()
        pair = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        pair[0].record()
        step()
        pair[1].record()
        events.append(pair)
    torch.cuda.synchronize(device)
    return statistics.median(a.elapsed_time(b) / 1000 for a, b in events)


def _flushes(step: Callable[[], Any], flush: torch.Tensor) -> int:
    """Return how many writes take longer than queueing the step takes the host."""
    host = []
    for _ in range(3):
        torch.cuda.synchronize(flush.device)
        start = time.perf_counter()
        step()
        host.append(time.perf_counter() - start)
    pair = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
    pair[0].record()
    for _ in range(_WRITES):
        flush.zero_()
    pair[1].record()
    torch.cuda.synchronize(flush.device)
    write = pair[0].elapsed_time(pair[1]) / 1000 / _WRITES
    wanted = max(_AHEAD, 2 * statistics.median(host))
    return min(math.ceil(wanted / write), _MOST_WRITES)


def peak_bytes(step: Callable[[], Any], device: str) -> int:
    """Return how far allocated memory grows during a step, results included."""
    if device.startswith('cuda'):
        gc.collect()
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    step()  # tables that are built once are not part of it
    with torch.profiler.profile(profile_memory=True) as profile:
        step()
    results: Any = profile.profiler
    events = results.kineto_results.events()
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == '[memory]']
    live = peak = 0
    for _, change in sorted(changes, key=lambda pair: pair[0]):
        live += change
        peak = max(peak, live)
    return peak


def copy_bandwidth(device: str, size: int, repeats: int) -> float:
    """Return bytes per second of a copy, read and written bytes both counted."""
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / seconds(lambda: target.copy_(source), device, repeats)
