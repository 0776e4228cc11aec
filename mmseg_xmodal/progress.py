"""A progress bar for what may take long, shown only once it does."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from mmengine.dist import is_main_process
from rich.console import Console
from rich.progress import Progress

T = TypeVar('T')


def slow_progress(
    items: Iterable[T], total: int, title: str, after: float = 5.0
) -> Iterator[T]:
    """Hand the items on; in the main process a bar appears after a while.

    Args:
        items: Are handed on.
        total: Their number.
        title: Text beside the bar.
        after: Seconds until the bar appears.
    """
    bar = Progress(console=Console(stderr=True))
    task = bar.add_task(title, total=total)
    began, shown = time.monotonic(), False
    try:
        for item in items:
            yield item
            bar.advance(task)
            late = time.monotonic() - began >= after
            if late and not shown and is_main_process():
                shown = True
                bar.start()
    finally:
        if shown:
            bar.stop()
