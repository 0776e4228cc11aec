"""One modality as read from its file, and its way into the stack."""

from __future__ import annotations

import dataclasses
import functools

import cv2
import numpy as np

from mmseg_xmodal.structures import Modality

from .stack import to_dtype


@dataclasses.dataclass
class Raster:
    """One modality as read from its file.

    ``valid`` is None where every pixel is valid. ``bgr`` is the order of the file.
    """

    stored: np.ndarray
    path: str
    bgr: bool
    valid: np.ndarray | None = None
    nonfinite: int = 0

    @property
    def size(self) -> tuple[int, int]:
        return self.stored.shape[0], self.stored.shape[1]


def over_channels(mask: np.ndarray, combine: np.ufunc) -> np.ndarray:
    """Combine the few channels one by one: numpy reduces a short last axis slowly."""
    return functools.reduce(combine, np.moveaxis(mask, -1, 0))


# How a grey image and one with alpha are read as colour, by their channels.
_COLOUR_BANDS = {1: [0, 0, 0], 4: [0, 1, 2]}


def check_raster(stored: np.ndarray, modality: Modality, path: str) -> None:
    """Compare channels and type of a file with its modality.

    Raises:
        ValueError: If they differ.
    """
    name = modality.name
    if stored.dtype.kind not in 'biuf' or not stored.size or stored.ndim < 3:
        raise ValueError(
            f'{name}: the file {path!r} holds {stored.dtype} of the shape '
            f'{stored.shape}, expected numbers of the shape (height, width) or '
            '(height, width, channels). Write the file so.'
        )
    if modality.bands is not None and stored.ndim == 3:
        if stored.shape[-1] <= max(modality.bands):
            raise ValueError(
                f'{name}: the file {path!r} has {stored.shape[-1]} channels, but the '
                f'layout takes bands={modality.bands}, counted from 0. Correct '
                f"modalities[{name!r}]['bands'], or take it out to read all channels."
            )
    elif stored.ndim != 3 or stored.shape[-1] != modality.channels:
        hint = f"Set modalities[{name!r}]['channels']={stored.shape[-1]}"
        if modality.order is not None and stored.shape[-1] in _COLOUR_BANDS:
            bands = _COLOUR_BANDS[stored.shape[-1]]
            hint = f"Set modalities[{name!r}]['bands']={bands}"
        elif modality.order is not None:
            hint += ' and order=None'
        if stored.ndim == 3 and stored.shape[0] == modality.channels:
            hint = 'It looks like (C, H, W): save array.transpose(1, 2, 0)'
        raise ValueError(
            f'{name}: the file {path!r} has the shape {stored.shape} (height, width, '
            f'channels), but the layout says channels={modality.channels}. {hint}, or '
            'write the file with the channels of the layout.'
        )
    declared = np.dtype(modality.dtype)
    if declared.kind != 'f' and not np.can_cast(stored.dtype, declared):
        raise ValueError(
            f'{name}: the file {path!r} stores {stored.dtype}, but the layout says '
            f'dtype={modality.dtype!r}, which cannot hold it. Set '
            f"modalities[{name!r}]['dtype']='{_fitting(stored.dtype)}'."
        )


def pick_bands(
    stored: np.ndarray, bgr: bool, modality: Modality
) -> tuple[np.ndarray, bool]:
    """Take the modality's bands out of what a file holds.

    Args:
        stored: The whole file.
        bgr: Whether OpenCV has turned the first three of its channels around.
        modality: Its modality.

    Returns:
        The bands, and whether they are in BGR order.

    Shape:
        - stored: (H, W, C)
        - returns: (H, W, channels)
    """
    if modality.bands is None:
        return stored, bgr
    turned = bgr and stored.shape[-1] in (3, 4)
    places = (2, 1, 0, 3) if turned else range(stored.shape[-1])
    return stored[..., [places[band] for band in modality.bands]], False


def _fitting(dtype: np.dtype) -> str:
    return dtype.name if dtype.name in ('uint8', 'uint16', 'int16') else 'float32'


def _in_order(raster: Raster, modality: Modality) -> np.ndarray:
    """Colour as BGR; anything else in the order of the file.

    OpenCV decodes the first three of three or four channels as BGR, also of images
    that are no colours (encoded normals, bands of a tif).
    """
    stored = raster.stored
    if modality.channels < 3 or raster.bgr == (modality.order is not None):
        return stored
    if modality.channels == 3:
        return stored[..., ::-1]
    return stored[..., [2, 1, 0, 3]] if raster.bgr else stored


def write(
    raster: Raster,
    modality: Modality,
    values: np.ndarray,
    valid: np.ndarray | None,
    validity_max: int,
) -> None:
    """Write value times validity, and the validity, into views of the stack.

    Args:
        raster: What the file holds, of the size of the stack.
        modality: Its modality.
        values: The modality's channels of the stack, in units, BGR for colour.
        valid: Its validity channel, None where it has none.
        validity_max: Value of "valid" there.

    Shape:
        - values: (H, W, channels), written in place
        - valid: (H, W), written in place
    """
    stored = _in_order(raster, modality)
    if modality.scale != 1 or modality.offset != 0:
        np.multiply(stored, np.float32(modality.scale), out=values, casting='unsafe')
        values += np.float32(modality.offset)
    else:
        np.copyto(values, stored, casting='unsafe')
    if raster.valid is not None:
        # Not a product: NaN times 0 is NaN.
        values[~raster.valid] = 0
    if valid is not None:
        valid[...] = 1 if raster.valid is None else raster.valid
        valid *= np.array(validity_max, valid.dtype)


def write_resized(
    raster: Raster,
    modality: Modality,
    values: np.ndarray,
    valid: np.ndarray | None,
    validity_max: int,
) -> None:
    """As ``write``, after a bilinear resize of value times validity and validity."""
    height, width = values.shape[:2]
    source = np.empty((*raster.size, modality.channels), np.float32)
    weight = None if valid is None else np.empty(raster.size, np.float32)
    write(raster, modality, source, weight, 1)
    resized = cv2.resize(source, (width, height), interpolation=cv2.INTER_LINEAR)
    values[...] = to_dtype(resized.reshape(values.shape), values.dtype)
    if valid is not None and weight is not None:
        weight = cv2.resize(weight, (width, height), interpolation=cv2.INTER_LINEAR)
        valid[...] = to_dtype(weight * validity_max, valid.dtype)
