"""Access to the other samples of a data set, for transforms that mix samples."""

from __future__ import annotations

from typing import Any


class SampleSource:
    """The data set that a sample comes from, as a transform needs it.

    The data set puts it into every sample. A transform that mixes samples asks it for
    another one **by index**, and draws that index as it draws everything else: under
    the seed of the sample. A cache of samples that the worker saw before would make the
    result depend on the number of workers and on where a run was resumed.

    ``copy.deepcopy``, which test-time augmentation makes per view, gives the same
    object, not another data set.

    Args:
        dataset: A data set of mmengine.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __deepcopy__(self, memo: dict) -> SampleSource:
        return self

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes of the main label map; empty where there are none."""
        return tuple(self._dataset.metainfo.get('classes') or ())

    def info(self, index: int) -> dict:
        """What the pipeline gets for the sample at ``index``."""
        return self._dataset.get_data_info(index)
