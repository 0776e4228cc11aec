"""Draw samples by the rarity of the classes in them.

Paper: DAFormer, 2022, https://arxiv.org/abs/2111.14887. Official code:
https://github.com/lhoyer/DAFormer (Apache-2.0). Clean room, written from the formula.

Differences: the draws belong to the sampler instead of the data set, so they depend on
the seed and the position alone, ranks get different samples, and training resumes
exactly; probabilities are computed in double precision.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mmseg_xmodal.datasets.class_stats import LABEL_KEY, cached_class_stats
from mmseg_xmodal.registry import DATA_SAMPLERS
from mmseg_xmodal.structures import ClassStats

from .seeded import SeededIndex, SeededInfiniteSampler, derive_seed


class RareClassIndex(SeededIndex):
    """Index of a sample, the seed of its augmentation, and the class it was drawn for.

    Args:
        index: Position in the data set.
        seed: Seed of this draw of the sample, in [0, 2**63).
        rare_class: Id of the class.
    """

    rare_class: int

    def __new__(cls, index: int, seed: int, rare_class: int) -> RareClassIndex:
        self = super().__new__(cls, index, seed)
        assert isinstance(self, cls)
        self.rare_class = int(rare_class)
        return self

    def __reduce__(self) -> Any:
        return type(self), (int(self), self.seed, self.rare_class)

    def _keep_seed(self, value: Any) -> Any:
        if value is NotImplemented:
            return value
        return type(self)(value, self.seed, self.rare_class)


def rare_class_probabilities(
    pixels: Sequence[int] | np.ndarray, temperature: float
) -> tuple[np.ndarray, np.ndarray]:
    """Probability of every class that occurs: softmax((1 - f) / T).

    Args:
        pixels: Labelled pixels of each class in the data set; f is the share in them.
        temperature: T, above 0. Small values prefer rare classes.

    Returns:
        Ids of the classes by ascending pixels, and their probabilities.

    Shape:
        - output: (K,) int64 and (K,) float64, K the classes that occur
    """
    counts = np.asarray(pixels, np.int64)
    order = np.argsort(counts, kind='stable')
    order = order[counts[order] > 0]
    scores = (1 - counts[order] / counts.sum()) / temperature
    odds = np.exp(scores - scores.max())
    return order, odds / odds.sum()


@DATA_SAMPLERS.register_module()
class RareClassSampler(SeededInfiniteSampler):
    """Endless samples: first a class is drawn, rare ones more often, then an image.

    The class comes from softmax((1 - f) / T), f its share of the labelled pixels; the
    image is any of those with more than ``min_pixels`` pixels of the class, all alike.
    Draw and seed of a sample depend on (seed, position) alone, where ranks take turns.
    The indices are :class:`RareClassIndex` and say which class was drawn.

    Args:
        dataset: A labelled data set of mmengine, or a wrapper of one.
        stats: JSON file of ``tools/class_stats.py``; made where it is missing, made
            anew where the label files have changed. Defaults to a file beside the
            labels.
        temperature: T, above 0.
        min_pixels: Pixels of the class, in the label file, that an image must exceed to
            be drawn for it. 0 = any.
        key: Label map whose classes are balanced, ``'gt_NAME'`` for a further task.
        classes: Names of the classes of ``key``. Defaults to those of the data set.
        seed: Seed of the draws and of the samples, the same on all ranks. The runner
            passes its own.

    Raises:
        ValueError: If a number lies outside of its range, or no image has enough pixels
            of a class that occurs.
    """

    def __init__(
        self,
        dataset: Any,
        stats: str | None = None,
        temperature: float = 0.01,
        min_pixels: int = 3000,
        key: str = LABEL_KEY,
        classes: Sequence[str] | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(dataset, seed=seed)
        if temperature <= 0 or min_pixels < 0:
            raise ValueError(
                f'RareClassSampler has temperature={temperature} and min_pixels='
                f'{min_pixels}, expected a number above 0 and one of at least 0.'
            )
        self.stats = cached_class_stats(dataset, stats, key, classes)
        if not self.stats.pixels.any():
            raise ValueError(
                'RareClassSampler: no sample has a labelled pixel. Correct the labels, '
                'or use SeededInfiniteSampler.'
            )
        self.classes, self.probabilities = rare_class_probabilities(
            self.stats.pixels, temperature
        )
        self.candidates = {
            int(c): np.flatnonzero(self.stats.counts[:, c] > min_pixels)
            for c in self.classes
        }
        self._check(self.stats, min_pixels)
        self._cumulative = np.cumsum(self.probabilities)

    def _check(self, stats: ClassStats, min_pixels: int) -> None:
        lacking = {
            stats.classes[c]: int(stats.counts[:, c].max())
            for c, found in self.candidates.items()
            if not found.size
        }
        if lacking:
            raise ValueError(
                f'RareClassSampler: no image has more than min_pixels={min_pixels} '
                f'pixels of these classes (the most that one has): {lacking}. Set '
                f'min_pixels to {min(lacking.values()) - 1} or less.'
            )

    def _indices_of_rank(self, start: int = 0) -> Iterator[int]:
        for position in itertools.count(start):
            place = position * self.world_size + self.rank
            # Negative parts: apart from the seeds of the samples, which count from 0.
            share = derive_seed(self.seed, place, -1) / 2**63
            drawn = int(np.searchsorted(self._cumulative, share, side='right'))
            # The last sum may fall short of 1 by rounding.
            rare = int(self.classes[min(drawn, len(self.classes) - 1)])
            found = self.candidates[rare]
            index = int(found[derive_seed(self.seed, place, -2) % len(found)])
            seed = derive_seed(self.seed, self.rank, position)
            yield RareClassIndex(index, seed, rare)
