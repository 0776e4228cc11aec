"""IoU, with written predictions in the folders of their images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmseg.evaluation import IoUMetric

from mmseg_xmodal.registry import METRICS


@METRICS.register_module()
class FolderIoUMetric(IoUMetric):
    """mmseg's ``IoUMetric`` for images with equal names in several folders.

    The stock metric calls a prediction in ``output_dir`` (``test.py --out``) by the
    name of its image alone: of ``sun/test/a/1.png`` and ``fog/test/a/1.png`` the second
    overwrites the first. Here it goes to the same folders below ``output_dir``. The
    results are those of the stock metric.

    Args:
        keep_folders: How many of the image's innermost folders are kept, 1 or more.
        kwargs: As for mmseg's ``IoUMetric``.

    Raises:
        ValueError: If ``keep_folders`` is below 1; on evaluation, if a sample has no
            ``img_path`` with as many folders.
    """

    output_dir: str | None

    def __init__(self, keep_folders: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if keep_folders < 1:
            raise ValueError(
                f'FolderIoUMetric has keep_folders={keep_folders}, expected 1 or more. '
                "Without folders to keep, take mmseg's IoUMetric."
            )
        self.keep_folders = keep_folders

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Count pixels of a batch, and write its predictions; see mmengine."""
        if self.output_dir is None:
            return super().process(data_batch, data_samples)
        root = self.output_dir
        try:
            for sample in data_samples:
                folder = Path(root, *self._folders_of(sample))
                folder.mkdir(parents=True, exist_ok=True)
                self.output_dir = str(folder)
                super().process(data_batch, [sample])
        finally:
            self.output_dir = root

    def _folders_of(self, sample: Mapping[str, Any]) -> tuple[str, ...]:
        path = Path(str(sample.get('img_path', '')))
        # The root of an absolute path is no folder that could be kept.
        folders = path.relative_to(path.anchor).parts[:-1]
        if len(folders) < self.keep_folders or '..' in folders[-self.keep_folders :]:
            raise ValueError(
                f'FolderIoUMetric: keep_folders={self.keep_folders}, but the image is '
                f'{str(path)!r}, expected a path with as many named folders. Lower '
                '`keep_folders` of the metric.'
            )
        return folders[-self.keep_folders :]
