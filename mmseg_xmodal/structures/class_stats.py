"""How often each class occurs, per sample, and class weights made from it.

Sources: median frequency balancing, 2015, https://arxiv.org/abs/1411.4734; effective
number of samples, 2019, https://arxiv.org/abs/1901.05555; logarithmic weights of ENet,
2016, https://arxiv.org/abs/1606.02147. Clean room, nothing copied.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

_VERSION = 1
_COMMAND = 'python tools/class_stats.py CONFIG --out FILE'
SCHEMES = ('inverse', 'median', 'effective', 'enet')


@dataclasses.dataclass(frozen=True)
class ClassStats:
    """Labelled pixels of every class in every sample of a data set.

    Args:
        classes: Names, in the order of the ids.
        files: Label file of every sample; '' where a sample has none.
        counts: Pixels by sample and class.
        ignored: Pixels without a class, by sample.
        digest: Fingerprint of the label files that were counted.

    Shape:
        - counts: (N, C) int64
        - ignored: (N,) int64

    Raises:
        ValueError: If the shapes do not fit together.
    """

    classes: tuple[str, ...]
    files: tuple[str, ...]
    counts: np.ndarray
    ignored: np.ndarray
    digest: str = ''

    def __post_init__(self) -> None:
        expected = (len(self.files), len(self.classes))
        if self.counts.shape != expected or self.ignored.shape != expected[:1]:
            raise ValueError(
                f'ClassStats has counts {self.counts.shape} and ignored '
                f'{self.ignored.shape}, expected {expected} and {expected[:1]} for '
                f'{expected[0]} files and {expected[1]} classes. Count again: '
                f'{_COMMAND}'
            )

    @property
    def pixels(self) -> np.ndarray:
        """Pixels of each class, (C,)."""
        return self.counts.sum(0)

    @property
    def images(self) -> np.ndarray:
        """Samples in which each class occurs, (C,)."""
        return (self.counts > 0).sum(0)

    @property
    def pixel_share(self) -> np.ndarray:
        """Share of the labelled pixels, (C,), in [0, 1]; zeros where none is."""
        return self.pixels / max(int(self.pixels.sum()), 1)

    @property
    def image_share(self) -> np.ndarray:
        """Share of the labelled samples in which a class occurs, (C,), in [0, 1]."""
        return self.images / max(sum(1 for file in self.files if file), 1)

    def weights(self, scheme: str, beta: float = 0.9999) -> np.ndarray:
        """Weight of each class in a loss.

        With f the share of the labelled pixels: ``'inverse'`` is 1 / f, scaled to a
        mean of 1. ``'median'`` is median(g) / g, with g the share of the class in the
        labelled pixels of the samples in which it occurs. ``'effective'`` is
        (1 - beta) / (1 - beta^n), scaled to a mean of 1, with n the samples in which
        the class occurs: pixels of one image are the near copies whose overlap this
        number takes out, and counted in pixels every usual beta gives equal weights.
        ``'enet'`` is 1 / ln(1.02 + f), unscaled, between 1.4 and 50.5.

        A class that never occurs gets 1 (no pixel uses it) and is left out of scales
        and medians.

        Args:
            scheme: One of the four.
            beta: Of ``'effective'``, in [0, 1): 0 weighs all alike, near 1 by 1 / n.

        Shape:
            - output: (C,) float64, positive

        Raises:
            ValueError: If the scheme is unknown or beta outside of its range.
        """
        self.check_scheme(scheme, beta)
        weights = np.ones(len(self.classes))
        occurs = self.pixels > 0
        if not occurs.any():
            return weights
        share = self.pixel_share[occurs]
        if scheme == 'inverse':
            weights[occurs] = _mean_one(1 / share)
        elif scheme == 'median':
            labelled = self.counts.sum(1)
            where = (self.counts[:, occurs] > 0).T @ labelled
            frequency = self.pixels[occurs] / where
            weights[occurs] = np.median(frequency) / frequency
        elif scheme == 'effective':
            weights[occurs] = _mean_one((1 - beta) / (1 - beta ** self.images[occurs]))
        else:
            weights[occurs] = 1 / np.log(1.02 + share)
        return weights

    @staticmethod
    def check_scheme(scheme: str, beta: float) -> None:
        """Raise unless :meth:`weights` knows these.

        Raises:
            ValueError: If the scheme is unknown or beta outside of its range.
        """
        if scheme not in SCHEMES or not 0 <= beta < 1:
            raise ValueError(
                f'Class weights got scheme={scheme!r} and beta={beta}, expected one of '
                f'{list(SCHEMES)} and a beta in [0, 1). Change them.'
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write JSON, whole or not at all."""
        path = Path(path)
        samples = [
            dict(
                file=file,
                pixels={str(c): int(row[c]) for c in np.flatnonzero(row)},
                ignored=int(ignored),
            )
            for file, row, ignored in zip(
                self.files, self.counts, self.ignored, strict=True
            )
        ]
        content = dict(
            version=_VERSION, digest=self.digest, classes=self.classes, samples=samples
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        # Another process may be writing the same file.
        partial = path.with_name(f'{path.name}.{os.getpid()}.partial')
        partial.write_text(json.dumps(content), encoding='utf-8')
        os.replace(partial, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ClassStats:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it holds something else.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f'Class statistics {str(path)!r} do not exist. Correct the path, or '
                f'count: {_COMMAND}'
            )
        try:
            content = json.loads(path.read_text(encoding='utf-8'))
        except ValueError as error:
            _refuse(path, f'no JSON ({error})')
        if not isinstance(content, dict) or content.get('version') != _VERSION:
            _refuse(path, f'not version {_VERSION} of the format')
        try:
            return cls._parse(content)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            _refuse(path, f'incomplete ({type(error).__name__}: {error})')

    @classmethod
    def _parse(cls, content: dict[str, Any]) -> ClassStats:
        samples, classes = content['samples'], tuple(content['classes'])
        counts = np.zeros((len(samples), len(classes)), np.int64)
        for row, sample in zip(counts, samples, strict=True):
            for index, pixels in sample['pixels'].items():
                row[int(index)] = pixels
        ignored = np.array([s['ignored'] for s in samples], np.int64)
        files = tuple(s['file'] for s in samples)
        return cls(classes, files, counts, ignored, str(content['digest']))


def _mean_one(weights: np.ndarray) -> np.ndarray:
    return weights / weights.mean()


def _refuse(path: Path, why: str) -> NoReturn:
    raise ValueError(
        f'{str(path)!r} holds no class statistics: {why}. Delete it and count again: '
        f'{_COMMAND}'
    )
