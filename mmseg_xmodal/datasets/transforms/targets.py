"""Read the targets of a multi-task sample."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine import fileio
from mmseg.registry import TRANSFORMS as MMSEG_TRANSFORMS
from PIL import Image, UnidentifiedImageError

from mmseg_xmodal.registry import TRANSFORMS

from .decoding import IMAGES, read_raster
from .geometry_guard import mark_geometry
from .target_specs import IGNORE, TargetSpec

# Shorter vectors are no directions (files put zero vectors where nothing is known).
_SHORTEST_NORMAL = 0.5


@TRANSFORMS.register_module()
class LoadTargets(BaseTransform):
    """Read what a :class:`MultiTaskDataset` wants predicted.

    Rasters may be png (8 or 16 bit), tif, npy, npz or exr. Where a sample lacks a
    target, the key is left out and ``task_valid`` says False.

    ======== ================ ================================= =====================
    kind     key              content                           no truth
    ======== ================ ================================= =====================
    label    ``gt_<name>``    (H, W) uint8                      255
    depth    ``gt_depth_map`` (H, W) float32, metres            NaN (also where <= 0)
    value    ``gt_<name>``    (H, W) float32                    NaN
    normal   ``gt_normal_map`` (H, W, 3) float32, unit vectors  NaN in all three
    edge     ``gt_edge_map``  (H, W) uint8, 0 or 1              255
    ======== ================ ================================= =====================

    Normals have x to the right, y down and z to the viewer. Integer files hold
    round((n + 1) / 2 * 255) as red, green and blue (65535 with 16 bits), float files
    the vectors; vectors shorter than 0.5 are no truth, the others get length 1.

    Boxes are (N, 4) xyxy float32 in pixels of the image, edges at whole numbers, with
    ``gt_bboxes_labels`` (N,) int64 and ``gt_ignore_flags`` (N,) bool. Image labels
    are a class id or a multi-hot float32 vector, -1 = unknown, in ``gt_img_label``.

    Put it after ``LoadModalities``; in test pipelines after resizing and flipping,
    so that the truth has the size of the files, as ``LoadAnnotations`` does. Samples
    of an inferencer, which have no targets, pass.

    Required keys: ``targets`` and ``target_specs`` (from the data set), ``img``,
    ``ori_shape``. Added keys: those above, ``target_kinds``, ``task_valid``,
    ``seg_fields``.

    Args:
        seg_loader: Transform, or its config, that reads the main label map, run where
            the sample has one: for data sets that label only some samples. Defaults to
            a transform of its own in the pipeline.
        backend_args: mmengine file backend. Defaults to the local disk.
    """

    def __init__(
        self,
        seg_loader: dict | Callable | None = None,
        backend_args: dict[str, Any] | None = None,
    ) -> None:
        self.seg_loader: Callable | None = None
        if isinstance(seg_loader, Mapping):
            self.seg_loader = MMSEG_TRANSFORMS.build(seg_loader)
        else:
            self.seg_loader = seg_loader
        self.backend_args = backend_args

    def transform(self, results: dict) -> dict:
        """Read the targets of one sample.

        Raises:
            ValueError: If the data set has no targets, no image is loaded, a file
                cannot be decoded, or a target has another size than the image.
        """
        if 'targets' not in results:
            self._expect_inference(results)
            return results
        path = results.get('img_path')
        if 'img' not in results:
            raise ValueError(
                f'LoadTargets got a sample without an image ({path!r}). Put '
                "dict(type='mmseg_xmodal.LoadModalities') before it in the pipeline."
            )
        if self.seg_loader is not None and 'seg_map_path' in results:
            results = self.seg_loader(results)
        results.setdefault('target_kinds', {})
        specs: Mapping[str, TargetSpec] = results['target_specs']
        sources = results['targets']
        for name, spec in specs.items():
            if sources.get(name) is not None:
                self._load(results, spec, sources[name])
        results['task_valid'] = {n: sources.get(n) is not None for n in specs}
        mark_geometry(results)
        return results

    def _expect_inference(self, results: Mapping[str, Any]) -> None:
        if 'sample_idx' in results:
            raise ValueError(
                f'LoadTargets got the sample {results.get("img_path")!r} of a data set '
                "without targets. Use type='mmseg_xmodal.MultiTaskDataset' with "
                'targets=dict(...), or take LoadTargets out of the pipeline.'
            )

    def _load(self, results: dict, spec: TargetSpec, source: Any) -> None:
        if spec.kind == 'boxes':
            size, image = source['size'], results.get('ori_shape')
            _expect_size(size, image, f'targets[{spec.name!r}]: {spec.ann_file}')
            results['gt_bboxes'] = np.array(source['bboxes'], np.float32)
            results['gt_bboxes_labels'] = np.array(source['labels'], np.int64)
            results['gt_ignore_flags'] = np.array(source['ignore'], bool)
            return
        if spec.kind == 'image_labels':
            results[spec.key] = np.array(source)
            return
        raster = read_target(source, spec, self.backend_args)
        _expect_size(raster.shape[:2], results.get('ori_shape'), source)
        results[spec.key] = raster
        results['target_kinds'][spec.key] = spec.kind
        if spec.key not in results.setdefault('seg_fields', []):
            results['seg_fields'].append(spec.key)

    def __repr__(self) -> str:
        return f'{type(self).__name__}(seg_loader={self.seg_loader})'


def _expect_size(got: Any, image: Any, where: str) -> None:
    if image is not None and tuple(got) != tuple(image[:2]):
        raise ValueError(
            f'{where} is for (height, width) = {tuple(got)}, but the image has '
            f'{tuple(image[:2])}. Write the targets for the size of the image.'
        )


def read_target(
    path: str, spec: TargetSpec, backend_args: dict[str, Any] | None = None
) -> np.ndarray:
    """Read one dense target as :class:`LoadTargets` says.

    Args:
        path: The file.
        spec: What it holds.
        backend_args: mmengine file backend.

    Raises:
        ValueError: If it cannot be decoded, or its shape, type or ids do not fit.
        FileNotFoundError: If there is no such file.
    """
    stored, bgr = _stored(path, spec, backend_args)
    if stored.dtype.kind not in 'biuf' or stored.ndim not in (2, 3) or not stored.size:
        raise ValueError(
            f'targets[{spec.name!r}]: {path!r} holds {stored.dtype} of the shape '
            f'{stored.shape}, expected numbers of the shape (height, width) or '
            '(height, width, channels). Write the file so.'
        )
    if spec.kind == 'normal':
        return _normals(stored, bgr, path, spec)
    stored = _one_channel(stored, bgr, path, spec)
    invalid = _is(stored, spec.invalid)
    if spec.kind == 'label':
        return _labels(stored, invalid, path, spec)
    if spec.kind == 'edge':
        with np.errstate(invalid='ignore'):
            edges = (stored > spec.threshold).astype(np.uint8)
        edges[invalid | ~np.isfinite(stored)] = IGNORE
        return edges
    with np.errstate(over='ignore', invalid='ignore'):
        values = (stored.astype(np.float64) * spec.scale + spec.offset).astype(
            np.float32
        )
        invalid |= ~np.isfinite(values)
        if spec.kind == 'depth':
            invalid |= values <= 0
    values[invalid] = np.nan
    return values


def _stored(
    path: str, spec: TargetSpec, backend_args: dict[str, Any] | None
) -> tuple[np.ndarray, bool]:
    if spec.kind == 'label' and os.path.splitext(path)[1].lower() in IMAGES:
        # Pillow gives the ids of palette and 1 bit images, OpenCV their colours.
        data = fileio.get(path, backend_args=backend_args)
        try:
            return np.asarray(Image.open(io.BytesIO(data))), False
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            raise ValueError(
                f'targets[{spec.name!r}]: cannot decode {path!r}: {error}. Write the '
                'file again, or leave its stem out of ann_file.'
            ) from error
    try:
        return read_raster(path, spec.name, spec.npz_key, backend_args)
    except ValueError as error:
        hint = f' (key of targets: targets[{spec.name!r}]["npz_key"])'
        raise ValueError(f'{error}{hint if path.endswith(".npz") else ""}') from error


def _one_channel(
    stored: np.ndarray, bgr: bool, path: str, spec: TargetSpec
) -> np.ndarray:
    if stored.ndim == 2 or stored.shape[2] == 1:
        return stored.reshape(stored.shape[:2])
    count = stored.shape[2]
    if spec.channel is None or not 0 <= spec.channel < count:
        raise ValueError(
            f'targets[{spec.name!r}]: {path!r} has {count} channels, expected one, or '
            f"targets[{spec.name!r}]['channel'] (is {spec.channel}) to say which of "
            'them, counted from 0.'
        )
    turned = bgr and count in (3, 4) and spec.channel < 3
    return stored[..., 2 - spec.channel if turned else spec.channel]


def _is(stored: np.ndarray, value: float | None) -> np.ndarray:
    if value is None:
        return np.zeros(stored.shape, bool)
    return np.isnan(stored) if np.isnan(value) else np.asarray(stored == value)


def _labels(
    stored: np.ndarray, invalid: np.ndarray, path: str, spec: TargetSpec
) -> np.ndarray:
    if stored.dtype.kind == 'f':
        invalid = invalid | np.isnan(stored)
    ids = np.where(invalid, IGNORE, stored)
    fits = (ids >= 0) & (ids <= IGNORE) & (ids == np.round(ids))
    if not fits.all():
        raise ValueError(
            f'targets[{spec.name!r}]: {path!r} holds the values '
            f'{np.unique(ids[~fits])[:5].tolist()}, expected class ids from 0 to 254, '
            f'or {IGNORE} for ignored. Correct the file, or set targets[{spec.name!r}]'
            '[\'invalid\'] to the stored value that means "no class".'
        )
    labels = ids.astype(np.uint8)
    if spec.reduce_zero_label:
        zero = labels == 0
        labels[(labels != IGNORE) & ~zero] -= 1
        labels[zero] = IGNORE
    return labels


def _normals(stored: np.ndarray, bgr: bool, path: str, spec: TargetSpec) -> np.ndarray:
    if stored.ndim != 3 or stored.shape[2] != 3:
        raise ValueError(
            f'targets[{spec.name!r}]: {path!r} has the shape {stored.shape}, expected '
            '(height, width, 3): x, y and z of unit vectors. Write the file so.'
        )
    stored = stored[..., ::-1] if bgr else stored
    invalid = _is(stored, spec.invalid).all(-1)
    normals = stored.astype(np.float32)
    if stored.dtype.kind != 'f':
        normals = normals * np.float32(2 / np.iinfo(stored.dtype).max) - 1
    normals = normals * np.asarray(spec.signs, np.float32)
    length = np.linalg.norm(normals, axis=-1)
    with np.errstate(invalid='ignore'):
        normals = normals / length[..., None]
        invalid |= ~(length >= _SHORTEST_NORMAL) | ~np.isfinite(length)
    normals[invalid] = np.nan
    return normals
