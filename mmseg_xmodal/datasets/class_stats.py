"""Count the classes in the labels of any data set, once.

The labels are those that training sees: the data set's own loading transforms run, its
label map and ``reduce_zero_label`` included, and nothing random after them. The result
is kept in a JSON file together with a fingerprint of the label files (path, size, time
of the last change) and of the classes, so that a stale file is noticed and replaced.
"""

from __future__ import annotations

import hashlib
import json
import os.path as osp
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from mmengine.dist import all_gather_object, is_main_process
from mmengine.logging import print_log
from rich.console import Console
from rich.progress import track

from mmseg_xmodal.structures import ClassStats

from .label_reader import LABEL_KEY, LabelReader


def count_classes(
    dataset: Any,
    key: str = LABEL_KEY,
    classes: Sequence[str] | None = None,
    threads: int = 1,
) -> ClassStats:
    """Read all labels of a data set and count, with a progress bar.

    Args:
        dataset: See :class:`LabelReader`.
        key: The same.
        classes: The same.
        threads: Files that are read at a time.

    Raises:
        ValueError: See :class:`LabelReader` and :meth:`LabelReader.count`.
    """
    return _count(LabelReader(dataset, key, classes), threads)


def _count(reader: LabelReader, threads: int) -> ClassStats:
    digest = reader.fingerprint()
    with ThreadPoolExecutor(threads) as pool:
        found = pool.map(reader.count, range(len(reader)))
        title, console = f'Counting {reader.name}', Console(stderr=True)
        rows = list(track(found, title, total=len(reader), console=console))
    return ClassStats(
        classes=reader.classes,
        files=tuple(reader.relative_files()),
        counts=np.stack([counts for counts, _ in rows]).astype(np.int64),
        ignored=np.array([ignored for _, ignored in rows], np.int64),
        digest=digest,
    )


def cached_class_stats(
    dataset: Any,
    path: str | None = None,
    key: str = LABEL_KEY,
    classes: Sequence[str] | None = None,
    threads: int = 1,
) -> ClassStats:
    """Statistics from a file, or counted and written to it where it is stale.

    In distributed training one process counts while the others wait. Count a large
    data set before (``tools/class_stats.py``): waiting ends at the timeout of the
    process group.

    Args:
        dataset: See :class:`LabelReader`.
        path: JSON file. Defaults to :func:`default_path`.
        key: See :class:`LabelReader`.
        classes: The same.
        threads: Files that are read at a time.

    Raises:
        ValueError: As :func:`count_classes`; if the file cannot be written; if another
            process met an error.
    """
    reader = LabelReader(dataset, key, classes)
    path = path or default_path(reader)
    main = is_main_process()
    stats = error = None
    for turn in (main, not main):
        if turn:
            # In the second one: another machine may have a disk of its own.
            try:
                stats = _fresh(reader, path, threads)
            except Exception as found:  # raised below, where nobody waits any more
                error = found
        _raise_together(error, reader.name)
    assert stats is not None  # one of the turns was ours
    return stats


def _raise_together(error: Exception | None, name: str) -> None:
    """Wait for all processes, and raise if one met an error: none waits for it."""
    text = None if error is None else f'{type(error).__name__}: {error}'
    found = all_gather_object(text)
    if error is not None:
        raise error
    for rank, other in enumerate(found):
        if other is not None:
            raise ValueError(
                f'The classes of {name} cannot be counted: process {rank} met {other}'
            )


def default_path(reader: LabelReader) -> str:
    """A file in the folder of the labels, one per list of samples and classes."""
    which = [reader.key, reader.classes, reader.relative_files()]
    digest = hashlib.blake2b(json.dumps(which).encode(), digest_size=4).hexdigest()
    return osp.join(reader.folder, f'class_stats-{digest}.json')


def _fresh(reader: LabelReader, path: str, threads: int) -> ClassStats:
    if osp.isfile(path):
        stats = ClassStats.load(path)
        if stats.digest == reader.fingerprint():
            return stats
        print_log(
            f'{path}: the label files or the classes of {reader.name} have changed '
            'since they were counted; counting again.',
            logger='current',
        )
    stats = _count(reader, threads)
    try:
        stats.save(path)
    except OSError as error:
        raise ValueError(
            f'The class statistics cannot be written to {path!r} ({error}). Give '
            'another path.'
        ) from error
    return stats
