"""Samplers that hand every sample the seed of its own augmentation.

A stock data loader augments with the random state of whichever process happens to load
the sample. The draws then depend on the number of workers and on prefetching, and a
resumed run augments otherwise than the uninterrupted one. Here the sampler decides:
each index it yields carries a seed, and the data set runs its pipeline under that seed.
"""

# The legacy global state of numpy is the very subject here.
# ruff: noqa: NPY002
from __future__ import annotations

import contextlib
import hashlib
import itertools
import random
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler

from mmseg_xmodal.registry import DATA_SAMPLERS


class SeededIndex(int):
    """Index of a sample together with the seed of its augmentation.

    It is an ``int`` wherever one is expected. ``-`` and ``%`` keep the seed, because
    with these two the stock ``ConcatDataset`` and ``RepeatDataset`` turn an index of
    the whole into one of a part. Pickling, on the way to the workers, keeps it too.

    Args:
        index: Position in the data set.
        seed: Seed of this draw of the sample, in [0, 2**63).
    """

    seed: int

    def __new__(cls, index: int, seed: int) -> SeededIndex:
        self = super().__new__(cls, index)
        self.seed = int(seed)
        return self

    def __reduce__(self) -> tuple[type[SeededIndex], tuple[int, int]]:
        return type(self), (int(self), self.seed)

    def __repr__(self) -> str:
        return f'SeededIndex({int(self)}, seed={self.seed})'

    def __sub__(self, other: int) -> Any:
        return self._keep_seed(super().__sub__(other))

    def __mod__(self, other: int) -> Any:
        return self._keep_seed(super().__mod__(other))

    def _keep_seed(self, value: Any) -> Any:
        return value if value is NotImplemented else SeededIndex(value, self.seed)


def derive_seed(*parts: int) -> int:
    """Hash integers to one seed, the same on every machine and in every process.

    Args:
        parts: For example the run's seed, the rank, and a position. Each in
            [-2**63, 2**63).

    Returns:
        A seed in [0, 2**63).
    """
    message = struct.pack(f'<{len(parts)}q', *parts)
    digest = hashlib.blake2b(message, digest_size=8).digest()
    return int.from_bytes(digest, 'little') >> 1


@contextlib.contextmanager
def seeded_rng(seed: int) -> Iterator[None]:
    """Run a block under a seed and leave the global random states as they were.

    Covers ``random``, ``numpy.random`` and torch's CPU generator, from which stock
    transforms draw. A transform with a generator of its own (some of albumentations)
    is not covered. ``torch.manual_seed`` is avoided: it seeds CUDA as well, which a
    forked worker must not touch.

    Args:
        seed: Seed of the block. The three generators get different seeds derived from
            it, since numpy and torch would otherwise produce the same stream.
    """
    python_state = random.getstate()
    numpy_state = np.random.get_state()
    torch_state = torch.get_rng_state()
    random.seed(derive_seed(seed, 0))
    np.random.seed(derive_seed(seed, 1) % 2**32)
    torch.default_generator.manual_seed(derive_seed(seed, 2))
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)


@DATA_SAMPLERS.register_module()
class SeededInfiniteSampler(InfiniteSampler):
    """mmengine's ``InfiniteSampler``, yielding :class:`SeededIndex`.

    The order is the stock one for the same seed. The seed of a sample is a hash of
    (seed, rank, number of samples that this rank drew before it), so the number of
    workers and prefetching change nothing.

    On resume the upstream mmengine replays the loader from the start and the forks call
    :meth:`skip`; both lead to the same samples with the same seeds. Give
    ``randomness=dict(seed=...)``: a run without a seed draws another one on resume.

    Args:
        dataset: Anything with a length.
        shuffle: Whether every pass over the data has its own random order. Defaults to
            True.
        seed: Seed of the order and of the samples, the same on all ranks. The runner
            passes its own.
    """

    def _indices_of_rank(self, start: int = 0) -> Iterator[int]:
        indices = itertools.islice(super()._indices_of_rank(), start, None)
        for position, index in enumerate(indices, start):
            yield SeededIndex(index, derive_seed(self.seed, self.rank, position))

    def skip(self, num_samples: int) -> None:
        """Jump to a position before iterating starts.

        Args:
            num_samples: Samples of this rank to leave out, counted from the very start.

        Raises:
            ValueError: If negative.
        """
        if num_samples < 0:
            raise ValueError(
                f'SeededInfiniteSampler.skip got num_samples={num_samples}, expected '
                'the number of samples that this rank has already seen (0 or more).'
            )
        self.indices = self._indices_of_rank(start=num_samples)


@DATA_SAMPLERS.register_module()
class SeededDefaultSampler(DefaultSampler):
    """mmengine's ``DefaultSampler`` (epochs), yielding :class:`SeededIndex`.

    The seed of a sample is a hash of (seed, rank, position), where positions go on from
    epoch to epoch. The epoch comes from ``DistSamplerSeedHook``, a default hook.

    Args:
        dataset: Anything with a length.
        shuffle: Whether every epoch has its own random order. Defaults to True.
        seed: Seed of the order and of the samples, the same on all ranks. The runner
            passes its own.
        round_up: Whether to repeat samples so that all ranks get equally many. Defaults
            to True.
    """

    def __iter__(self) -> Iterator[int]:
        start = self.epoch * self.num_samples
        for position, index in enumerate(super().__iter__(), start):
            yield SeededIndex(index, derive_seed(self.seed, self.rank, position))
