"""Load all modalities of a sample into one stack, validity included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.logging import print_log

from mmseg_xmodal.registry import TRANSFORMS
from mmseg_xmodal.structures import Modality, ModalityLayout

from .decoding import read_raster
from .raster import (
    Raster,
    check_raster,
    over_channels,
    pick_bands,
    write,
    write_resized,
)
from .stack import ModalitiesCfg, layout_of


@TRANSFORMS.register_module()
class LoadModalities(BaseTransform):
    """Read every modality and stack them into ``img``.

    Reads png and tif (8 and 16 bit, float tif), jpg, npy, npz, and exr with the extra
    ``[exr]``. The stack is uint8 when every modality is uint8, else float32 in units
    (stored * scale + offset). Colour lies in it as BGR.

    Validity is fixed here, before any geometry: a pixel is invalid where the stored
    value is ``invalid`` (in any channel; for a colour modality in all of them), where
    a float value is NaN or infinite, and everywhere in a missing modality. Values are
    stored times validity, so that stock resizing and rotating mix both alike and the
    preprocessor can divide.

    Required keys: ``modality_paths`` (a path, None where missing, or an array of what
    a file would store, colour as BGR), and ``modality_layout`` unless ``modalities``
    is given (``MultiModalSegDataset`` and the inferencer put it there). Added keys:
    ``img``, ``img_shape``, ``ori_shape``, ``modality_layout``, ``nonfinite_counts``
    (pixels by modality).

    Args:
        modalities: The config's ``modalities``. Defaults to those of the data set.
        resize_to: Name of the modality whose size all others are resized to, bilinear
            with normalised weights. Defaults to refusing different sizes.
        strict: Whether NaN or infinity in a float modality is an error. Defaults to
            invalid pixels, counted, with one warning per modality.
        npz_keys: Name of the array in npz files, by modality.
        backend_args: mmengine file backend. Defaults to the local disk.

    Shape:
        - img: (H, W, ``layout.stack_channels``)

    Raises:
        ValueError: If ``resize_to`` or ``npz_keys`` name no modality.
    """

    def __init__(
        self,
        modalities: ModalitiesCfg | None = None,
        resize_to: str | None = None,
        strict: bool = False,
        npz_keys: Mapping[str, str] | None = None,
        backend_args: dict[str, Any] | None = None,
    ) -> None:
        self.layout = None if modalities is None else ModalityLayout.build(modalities)
        self.resize_to = resize_to
        self.strict = strict
        self.npz_keys = dict(npz_keys or {})
        if self.layout is not None:
            self._check_names(self.layout)
        self.backend_args = backend_args
        self._warned: set[str] = set()

    def transform(self, results: dict) -> dict:
        """Load one sample.

        Raises:
            ValueError: If a file cannot be decoded, has other channels or another type
                than its modality, or sizes differ; if every modality is missing, or the
                sample has no ``modality_paths``.
            FileNotFoundError: If a path does not exist, or is None for a modality that
                may not be missing.
        """
        layout = self._layout(results)
        paths = self._paths(results, layout)
        rasters = {
            name: self._read(layout[name], path)
            for name, path in paths.items()
            if path is not None
        }
        size = self._common_size(rasters)
        results['img'] = _stack(rasters, layout, size)
        results['img_shape'] = results['ori_shape'] = size
        results['modality_layout'] = layout
        results['nonfinite_counts'] = {n: r.nonfinite for n, r in rasters.items()}
        return results

    def _layout(self, results: Mapping[str, Any]) -> ModalityLayout:
        if 'modality_paths' not in results:
            names = list(self.layout.names) if self.layout else 'the modalities'
            raise ValueError(
                f"LoadModalities got a sample without 'modality_paths' (keys: "
                f'{sorted(results)}, img_path={results.get("img_path")!r}); it expects '
                f'one path for each of {names}. In training and testing use '
                "type='mmseg_xmodal.MultiModalSegDataset'; mmseg's own inferencer and "
                'inference_model pass one image only: use '
                'mmseg_xmodal.apis.XModalInferencer or inference_xmodal instead.'
            )
        if self.layout is not None:
            return self.layout
        layout = layout_of(results, None, self)
        self._check_names(layout)
        return layout

    def _check_names(self, layout: ModalityLayout) -> None:
        for name in (*self.npz_keys, *filter(None, [self.resize_to])):
            layout.check(name)

    def _paths(
        self, results: Mapping[str, Any], layout: ModalityLayout
    ) -> dict[str, str | np.ndarray | None]:
        paths = {n: results['modality_paths'].get(n) for n in layout.names}
        # Arrays by their shape, so that errors stay readable.
        given = {n: getattr(p, 'shape', p) for n, p in paths.items()}
        for name, path in paths.items():
            if path is None and not layout[name].may_be_missing:
                raise FileNotFoundError(
                    f'{name}: this sample has no file (modality_paths={given}). '
                    f"Give its path, or set modalities[{name!r}]['may_be_missing']="
                    'True.'
                )
        if all(path is None for path in paths.values()):
            raise ValueError(
                f'Every modality of this sample is missing (modality_paths='
                f'{given}); at least one file is needed. Give one of '
                f'{list(layout.names)} or take the sample out of ann_file.'
            )
        return paths

    def _read(self, modality: Modality, path: str | np.ndarray) -> Raster:
        if isinstance(path, np.ndarray):
            # From inference: colour as OpenCV reads it, all else as it is.
            stored, bgr, path = path, modality.order is not None, 'array'
        else:
            stored, bgr = read_raster(
                path, modality.name, self.npz_keys.get(modality.name), self.backend_args
            )
        if stored.ndim == 2:
            stored = stored[..., None]
        check_raster(stored, modality, path)
        stored, bgr = pick_bands(stored, bgr, modality)
        raster = Raster(stored, path, bgr)
        if modality.has_validity:
            self._find_invalid(raster, modality)
        return raster

    def _find_invalid(self, raster: Raster, modality: Modality) -> None:
        stored, invalid = raster.stored, modality.invalid
        marked = None
        if invalid is not None:
            same = np.isnan(stored) if np.isnan(invalid) else stored == invalid
            marked = over_channels(
                same, np.logical_and if modality.order else np.logical_or
            )
        if stored.dtype.kind == 'f':
            bad = ~over_channels(_fits_float32(stored, modality), np.logical_and)
            if marked is not None:
                bad &= ~marked
            raster.nonfinite = int(np.count_nonzero(bad))
            if raster.nonfinite:
                self._report_nonfinite(raster, modality)
                marked = bad if marked is None else marked | bad
        if marked is not None and marked.any():
            raster.valid = ~marked

    def _report_nonfinite(self, raster: Raster, modality: Modality) -> None:
        height, width = raster.size
        message = (
            f'{modality.name}: {raster.nonfinite} of {height * width} pixels are NaN '
            f'or infinite in {raster.path!r}'
        )
        if self.strict:
            raise ValueError(
                f'{message}, and LoadModalities has strict=True. Repair the file, or '
                'set strict=False to take such pixels as invalid.'
            )
        if modality.name not in self._warned:
            self._warned.add(modality.name)
            print_log(
                f'{message}: taken as invalid (counted in nonfinite_counts; further '
                'files of this modality without a word; strict=True makes it an error)',
                logger='current',
                level=30,
            )

    def _common_size(self, rasters: Mapping[str, Raster]) -> tuple[int, int]:
        if self.resize_to is not None and self.resize_to in rasters:
            return rasters[self.resize_to].size
        first, *others = rasters
        for other in others:
            if rasters[other].size != rasters[first].size:
                (h1, w1), (h2, w2) = rasters[first].size, rasters[other].size
                raise ValueError(
                    f'Sizes differ: {first} is {h1} x {w1} (height x width) in '
                    f'{rasters[first].path!r}, {other} is {h2} x {w2} in '
                    f'{rasters[other].path!r}. Resize the files, or give '
                    f"dict(type='mmseg_xmodal.LoadModalities', resize_to={first!r}, "
                    '...)'
                    + (
                        f' ({self.resize_to!r} is missing here)'
                        if self.resize_to
                        else ''
                    )
                    + '.'
                )
        return rasters[first].size


def _fits_float32(stored: np.ndarray, modality: Modality) -> np.ndarray:
    """Which numbers stay finite in the stack (float64 nodata may not)."""
    if stored.itemsize <= 4 and abs(modality.scale) <= 1:
        return np.isfinite(stored)
    with np.errstate(over='ignore', invalid='ignore'):
        in_unit = stored.astype(np.float64) * modality.scale + modality.offset
        return np.abs(in_unit) <= np.finfo(np.float32).max


def _stack(
    rasters: Mapping[str, Raster], layout: ModalityLayout, size: tuple[int, int]
) -> np.ndarray:
    img: np.ndarray = np.empty((*size, layout.stack_channels), layout.stack_dtype)
    for modality in layout:
        values = img[..., layout.value_slice(modality.name)]
        index = layout.stack_validity_index(modality.name)
        valid = None if index is None else img[..., index]
        raster = rasters.get(modality.name)
        if raster is None:
            values[...] = 0
            valid[...] = 0  # type: ignore[index]  # may_be_missing brings one
        elif raster.size == size:
            write(raster, modality, values, valid, layout.validity_max)
        else:
            write_resized(raster, modality, values, valid, layout.validity_max)
    return img
