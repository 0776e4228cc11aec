"""Batches that are composed of several data sets in a fixed ratio."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from mmseg_xmodal.registry import DATA_SAMPLERS

from .seeded import SeededInfiniteSampler, derive_seed


@DATA_SAMPLERS.register_module()
class MultiSourceSampler(SeededInfiniteSampler):
    """Endless batches with the same number of samples of every source.

    With ``batch_size=8, source_ratio=[1, 3]`` every batch of every rank has two samples
    of the first data set, then six of the second. Each source has a sampler of its own,
    with its own order; ranks share a source without overlap. It ends never: train by
    iterations (``IterBasedTrainLoop``).

    Args:
        dataset: Several data sets in one: :class:`MultiSourceDataset` or mmengine's
            ``ConcatDataset``.
        batch_size: That of the data loader. (A sampler cannot see it: with another
            number the batches are cut elsewhere.)
        source_ratio: Shares of the sources, whole numbers above 0. They must divide the
            batch exactly.
        samplers: Config of the sampler of each source, None for a
            ``SeededInfiniteSampler``: a class of its kind, such as
            ``dict(type='mmseg_xmodal.RareClassSampler')``. Defaults to None for all.
        shuffle: Whether the sources without a config are shuffled. Defaults to True.
        seed: Seed of the order and of the samples, the same on all ranks. The runner
            passes its own.

    Raises:
        TypeError: If the data set is no concatenation, or a sampler of another kind.
        ValueError: If the numbers do not fit the data set, or a source is empty.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        source_ratio: Sequence[int],
        samplers: Sequence[dict | None] | None = None,
        shuffle: bool = True,
        seed: int | None = None,
    ) -> None:
        super().__init__(dataset, shuffle=shuffle, seed=seed)
        if not hasattr(dataset, 'datasets') or not hasattr(dataset, 'cumulative_sizes'):
            raise TypeError(
                f'MultiSourceSampler got a {type(dataset).__name__}, expected several '
                "data sets in one. Use type='mmseg_xmodal.MultiSourceDataset'."
            )
        sources = list(dataset.datasets)
        samplers = [None] * len(sources) if samplers is None else list(samplers)
        shares = _shares(len(sources), batch_size, source_ratio, len(samplers))
        # Source of each place in a batch.
        self.pattern = [i for i, share in enumerate(shares) for _ in range(share)]
        self.starts = [0, *dataset.cumulative_sizes[:-1]]
        self.samplers = [
            self._build(number, source, cfg)
            for number, (source, cfg) in enumerate(zip(sources, samplers, strict=True))
        ]

    def _build(
        self, number: int, source: Any, cfg: dict | None
    ) -> SeededInfiniteSampler:
        if len(source) == 0:
            raise ValueError(
                f'Source {number} ({type(source).__name__}) of MultiSourceSampler has '
                'no samples. Correct its paths, or leave it out.'
            )
        if cfg is None:
            cfg = dict(type='mmseg_xmodal.SeededInfiniteSampler', shuffle=self.shuffle)
        default = dict(dataset=source, seed=derive_seed(self.seed, number))
        sampler = DATA_SAMPLERS.build(cfg, default_args=default)
        if not isinstance(sampler, SeededInfiniteSampler):
            raise TypeError(
                f'samplers[{number}] is a {type(sampler).__name__}, expected a '
                'SeededInfiniteSampler (RareClassSampler is one): others cannot be '
                'resumed, or end.'
            )
        return sampler

    def _indices_of_rank(self, start: int = 0) -> Iterator[int]:
        whole, rest = divmod(start, len(self.pattern))
        for number, sampler in enumerate(self.samplers):
            seen = self.pattern.count(number) * whole
            sampler.skip(seen + self.pattern[:rest].count(number))
        streams = [iter(sampler) for sampler in self.samplers]
        for number in itertools.islice(itertools.cycle(self.pattern), rest, None):
            # Subtraction keeps the seed, and whatever else the index carries.
            yield next(streams[number]) - -self.starts[number]


def _shares(
    sources: int, batch_size: int, ratio: Sequence[int], samplers: int
) -> list[int]:
    """Samples of each source in a batch."""
    if len(ratio) != sources or samplers != sources:
        raise ValueError(
            f'MultiSourceSampler has source_ratio={list(ratio)} and {samplers} '
            f'samplers for {sources} data sets, expected one entry each per data set.'
        )
    if any(not isinstance(r, int) or r < 1 for r in ratio) or batch_size < 1:
        raise ValueError(
            f'MultiSourceSampler has source_ratio={list(ratio)} and batch_size='
            f'{batch_size}, expected whole numbers above 0. Leave a source that is '
            'not wanted out of the data set.'
        )
    total = sum(ratio)
    if any(batch_size * r % total for r in ratio):
        wanted = ', '.join(f'{batch_size * r / total:g}' for r in ratio)
        raise ValueError(
            f'source_ratio={list(ratio)} gives {wanted} samples of a batch of '
            f'{batch_size}, expected whole numbers. Change the ratio or batch_size '
            '(of the sampler and of the data loader).'
        )
    return [batch_size * r // total for r in ratio]
