"""Files to arrays: one raster from png, jpg, tif, npy, npz or exr."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from typing import Any, Literal

import cv2
import numpy as np
from mmengine import fileio
from PIL.TiffImagePlugin import ImageFileDirectory_v2

IMAGES = ('.png', '.jpg', '.jpeg', '.bmp', '.webp')
TIFS = ('.tif', '.tiff')
ARRAYS = ('.npy', '.npz', '.exr')
SUFFIXES = (*IMAGES, *TIFS, *ARRAYS)

# Tags of the TIFF 6.0 specification.
_BITS, _PHOTOMETRIC, _SAMPLES, _PLANAR, _EXTRA, _FORMAT = 258, 262, 277, 284, 338, 339


def read_raster(
    path: str,
    name: str,
    key: str | None = None,
    backend_args: dict[str, Any] | None = None,
) -> tuple[np.ndarray, bool]:
    """Read one raster as it is stored.

    Args:
        path: The file.
        name: The modality, for errors, and as the default key in an npz archive.
        key: Array in an npz archive. Defaults to the only one, or to ``name``.
        backend_args: mmengine file backend. Defaults to the local disk.

    Returns:
        The array, and whether its colours are in BGR order (images decoded by OpenCV;
        arrays are taken to hold RGB).

    Shape:
        - returns: (H, W) or (H, W, C)

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be decoded, or its suffix is not known.
        ImportError: If it is an exr file and OpenEXR is not installed, or a tif whose
            layout OpenCV gets wrong and tifffile is not installed.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in SUFFIXES:
        raise ValueError(
            f'{name}: {path!r} has the suffix {suffix!r}, expected one of '
            f'{SUFFIXES}. Convert the files, for example to .npy.'
        )
    try:
        if suffix == '.npy' and not backend_args:
            return _read_npy(path), False
        if suffix == '.exr':
            return _read_exr(path, backend_args), False
        data = fileio.get(path, backend_args=backend_args)
        if suffix == '.npy':
            return _read_npy(io.BytesIO(data)), False
        if suffix == '.npz':
            return _read_npz(data, path, name, key), False
        if suffix in TIFS:
            return _read_tif(data, path, name)
        return _read_image(data), True
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f'{name}: {path!r} does not exist. Add the file, correct the path, or pass '
            'None for a modality with may_be_missing=True.'
        ) from error
    except _Undecodable as error:
        raise ValueError(
            f'{name}: cannot decode {path!r} as {suffix[1:]}: {error}. Write the file '
            'again, or leave its stem out of ann_file.'
        ) from error


class _Undecodable(Exception):
    """What is wrong with the content of a file."""


def _read_image(data: bytes) -> np.ndarray:
    if not data:
        raise _Undecodable('the file is empty (0 bytes)')
    # Scan data cannot hold an end marker, so a jpeg without one after its last scan
    # was cut off; older OpenCV decodes it half grey without a word.
    is_jpeg = data[:2] == b'\xff\xd8'
    if is_jpeg and data.rfind(b'\xff\xd9') < data.rfind(b'\xff\xda'):
        raise _Undecodable(f'it is cut off after {len(data)} bytes')
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise _Undecodable(
            f'OpenCV fails on its {len(data)} bytes ({error.err})'
        ) from error
    if image is None:
        raise _Undecodable(
            f'OpenCV reads no image from its {len(data)} bytes (damaged, cut off, or '
            'of a kind that OpenCV does not read)'
        )
    return image


def _read_tif(data: bytes, path: str, name: str) -> tuple[np.ndarray, bool]:
    """Read with OpenCV what it decodes exactly, else with tifffile."""
    try:
        is_big = data[2:4] in (b'\x2b\x00', b'\x00\x2b')
        tags = ImageFileDirectory_v2(data[: 16 if is_big else 8])
        file = io.BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        samples = tags.get(_SAMPLES, 1)
    except (SyntaxError, OSError, struct.error, ValueError, TypeError) as error:
        raise _Undecodable(
            f'no TIFF header that Pillow reads in {len(data)} bytes'
        ) from error
    if _PHOTOMETRIC not in tags:
        raise _Undecodable(f'no TIFF directory in {len(data)} bytes (damaged, cut off)')
    if _opencv_is_exact(tags):
        return _read_image(data), True
    try:
        import tifffile
    except ImportError as error:
        raise ImportError(
            f'{name}: {path!r} is a tif of {samples} samples of '
            f'{tags.get(_BITS, (1,))[0]} bits that OpenCV does not give as it is '
            'stored (planar, multi-band or alpha; white as 0, under 8 bits, float16). '
            'Install what reads it (pip install tifffile imagecodecs), or convert the '
            'files to .npy.'
        ) from error
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file_:
            array = file_.pages[0].asarray()
    except (ValueError, RuntimeError, OSError, IndexError, struct.error) as error:
        raise _Undecodable(f'tifffile says: {error}') from error
    # Planar files come as (C, H, W).
    planar = tags.get(_PLANAR, 1) == 2 and array.ndim == 3
    return array.transpose(1, 2, 0) if planar else array, False


def _opencv_is_exact(tags: ImageFileDirectory_v2) -> bool:
    """Whether OpenCV gives the stored numbers, as seen with OpenCV 5.0.

    It returns other numbers without a word for planar files, one band of several grey
    ones, 8 bit colours times an unassociated alpha, and grey ones with white as 0 or
    below 8 bits; above four bands, and for float16 or complex numbers, nothing.
    """
    samples = tags.get(_SAMPLES, 1)
    bits, formats = tags.get(_BITS, (1,)), tags.get(_FORMAT, (1,))
    if formats[0] > 3 or (formats[0] == 3 and bits[0] < 32):
        return False
    if samples == 1:
        # Grey from black to white, or a palette, which comes as colours.
        return bits[0] > 8 or (bits[0] == 8 and tags.get(_PHOTOMETRIC) in (1, 3))
    if samples not in (3, 4) or tags.get(_PLANAR, 1) != 1:
        return False
    if bits[0] == 8:
        # RGB or YCbCr (jpeg inside a tif); 2 is unassociated alpha.
        return tags.get(_PHOTOMETRIC) in (2, 6) and 2 not in tags.get(_EXTRA, ())
    return tags.get(_PHOTOMETRIC) == 2 or formats[0] == 3


def _read_npy(source: str | io.BytesIO) -> np.ndarray:
    # Files are mapped, so that the values are copied once only, into the stack, and a
    # wrong size in the header is found before anything is allocated.
    mode: Literal['r'] | None = 'r' if isinstance(source, str) else None
    try:
        return np.load(source, mmap_mode=mode, allow_pickle=False)
    except FileNotFoundError:
        raise
    except (ValueError, EOFError, OSError) as error:
        raise _Undecodable(f'NumPy says: {error}') from error


def _read_npz(data: bytes, path: str, name: str, key: str | None) -> np.ndarray:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            names = archive.files
            wanted = key or (names[0] if len(names) == 1 else name)
            if wanted in names:
                return archive[wanted]
    except (ValueError, EOFError, OSError, AttributeError, zipfile.BadZipFile) as error:
        raise _Undecodable(f'NumPy says: {error}') from error
    raise ValueError(
        f'{name}: {path!r} holds the arrays {names}, not {wanted!r}. Name the one to '
        f"read: dict(type='mmseg_xmodal.LoadModalities', npz_keys=dict({name}="
        f"'{names[0] if names else '...'}'), ...)."
    )


def _read_exr(path: str, backend_args: dict[str, Any] | None) -> np.ndarray:
    try:
        import OpenEXR
    except ImportError as error:
        raise ImportError(
            f'Reading {path!r} needs OpenEXR, which is not installed: '
            "pip install 'mmseg_xmodal[exr]' (opencv-python 5 has no EXR)."
        ) from error
    if not fileio.exists(path, backend_args=backend_args):
        raise FileNotFoundError(path)
    try:
        with (
            fileio.get_local_path(path, backend_args=backend_args) as local,
            OpenEXR.File(local) as file,
        ):
            channels = {name: c.pixels for name, c in file.channels().items()}
    except (RuntimeError, ValueError, OSError, TypeError) as error:
        raise _Undecodable(f'OpenEXR says: {error}') from error
    # Grouped channels ('RGB') come as (H, W, C), single ones ('Z', 'Y') as (H, W).
    layers = [c[..., None] if c.ndim == 2 else c for c in channels.values()]
    return layers[0] if len(layers) == 1 else np.concatenate(layers, axis=-1)
