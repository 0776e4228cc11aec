"""Small samples written to files and loaded, for the tests of the transforms."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mmcv.transforms import Compose
from mmseg.registry import TRANSFORMS as MMSEG_TRANSFORMS

from mmseg_xmodal.datasets.transforms import LoadModalities

_count = itertools.count()


def load_arrays(
    folder: Path,
    modalities: Mapping[str, dict],
    arrays: Mapping[str, np.ndarray | None],
    labels: np.ndarray | None = None,
    **kwargs: Any,
) -> dict:
    """Write arrays as npy (colour as RGB), load them, and add a label map."""
    paths: dict[str, str | None] = {}
    for name, array in arrays.items():
        paths[name] = None
        if array is not None:
            paths[name] = str(folder / f'{next(_count)}_{name}.npy')
            np.save(paths[name], array)
    results = LoadModalities(modalities, **kwargs)(
        dict(modality_paths=paths, img_path=next(iter(paths.values())), seg_fields=[])
    )
    if labels is not None:
        results['gt_seg_map'] = labels
        results['seg_fields'].append('gt_seg_map')
        results['seg_map_path'] = 'labels.png'
    return results


def run(results: dict, transforms: Iterable[Any], seed: int = 0) -> dict:
    """Run transforms or their configs on a sample under numpy's global seed."""
    np.random.seed(seed)  # noqa: NPY002
    parts = [
        MMSEG_TRANSFORMS.build(t) if isinstance(t, dict) else t for t in transforms
    ]
    out = Compose(parts)(results)
    assert out is not None
    return out
