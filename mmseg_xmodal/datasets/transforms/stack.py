"""Reading and writing one modality in the loader's stack.

The stack is ``results['img']``: the values of all modalities, each multiplied by its
validity, then the validity channels (see :class:`ModalityLayout`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from mmseg_xmodal.structures import ModalityLayout

# What configs call `modalities`.
ModalitiesCfg: TypeAlias = (
    ModalityLayout | Mapping[str, Mapping[str, Any]] | Sequence[Mapping[str, Any]]
)
# Stock transforms that take three channels and drop or refuse the others.
THREE_CHANNEL_TRANSFORMS = ('PhotoMetricDistortion', 'CLAHE', 'RGB2Gray', 'Albu')


def layout_of(
    results: Mapping[str, Any], own: ModalityLayout | None, who: object
) -> ModalityLayout:
    """Return the layout of a sample.

    Args:
        results: The sample; ``LoadModalities`` has put ``modality_layout`` into it.
        own: Layout that the transform was built with, used where the sample has none.
        who: The transform, named in the error.

    Raises:
        ValueError: If neither has a layout.
    """
    layout = results.get('modality_layout', own)
    if layout is None:
        name = type(who).__name__
        raise ValueError(
            f"{name} got a sample without 'modality_layout' (keys: {sorted(results)}). "
            "Put dict(type='mmseg_xmodal.LoadModalities', modalities=modalities) "
            f'before it in the pipeline, or give {name} modalities=modalities.'
        )
    return layout


def check_stack(img: np.ndarray, layout: ModalityLayout, where: str) -> np.ndarray:
    """Return the stack as (H, W, C) after comparing it with the layout.

    OpenCV drops the channel axis of one-channel images; it is put back.

    Args:
        img: The stack.
        layout: What it should hold.
        where: Transform and file, for the error.

    Raises:
        ValueError: If the number of channels or the type is another one.
    """
    if img.ndim == 2:
        img = img[..., None]
    expect_stack(img.shape[-1], img.dtype.name, layout, where)
    return img


def expect_stack(channels: int, dtype: str, layout: ModalityLayout, where: str) -> None:
    """Refuse a stack that an earlier transform has changed.

    Args:
        channels: Number of channels that arrived.
        dtype: Their type, such as ``'uint8'``.
        layout: What the stack should hold.
        where: Who found it, and the file, for the error.

    Raises:
        ValueError: If the number of channels differs from the layout, or values in a
            unit have become uint8.
    """
    wanted = np.dtype(layout.stack_dtype).name
    if channels == layout.stack_channels and (dtype == wanted or dtype != 'uint8'):
        return
    colour = [m.name for m in layout if m.order is not None] or list(layout.names[:1])
    random_image = (channels, dtype) == (3, 'float32')
    flops = (
        " mmseg's get_flops.py gives every model 3 channels: use "
        'tools/benchmark/speed.py, which counts them too.'
    )
    raise ValueError(
        f'{where} got a stack of {channels} {dtype} channels, but {layout} makes '
        f'{layout.stack_channels} {wanted} channels (values, then validity). A '
        'transform between LoadModalities and here changed the whole stack; stock ones '
        f'that do are {", ".join(THREE_CHANNEL_TRANSFORMS)}. Wrap it: '
        f"dict(type='mmseg_xmodal.OnModalities', names={colour}, "
        "transforms=[dict(type='PhotoMetricDistortion')]). If none is there, the "
        '`modalities` dicts of the loader and of this part differ: give both the same.'
        + (flops if random_image else '')
    )


def valid_mask(img: np.ndarray, layout: ModalityLayout, name: str) -> np.ndarray:
    """Weight of the modality in each pixel: 1 real, 0 not, between at borders.

    Shape:
        - img: (H, W, C)
        - returns: (H, W) float32
    """
    index = layout.stack_validity_index(name)
    if index is None:
        return np.ones(img.shape[:2], np.float32)
    return img[..., index].astype(np.float32) / np.float32(layout.validity_max)


def read_values(img: np.ndarray, layout: ModalityLayout, name: str) -> np.ndarray:
    """Values of one modality in its unit, 0 where nothing is valid.

    Shape:
        - img: (H, W, C)
        - returns: (H, W, channels); of the stack's type where the modality has no
          validity channel, else float32
    """
    values = img[..., layout.value_slice(name)]
    if layout.stack_validity_index(name) is None:
        return values
    weight = valid_mask(img, layout, name)[..., None]
    values = values.astype(np.float32)
    return np.divide(values, weight, out=np.zeros_like(values), where=weight > 0)


def write_values(
    img: np.ndarray, layout: ModalityLayout, name: str, values: np.ndarray
) -> None:
    """Put values in the unit back into the stack, times the validity found there.

    Shape:
        - img: (H, W, C), changed in place
        - values: (H, W, channels)
    """
    if layout.stack_validity_index(name) is not None:
        values = values * valid_mask(img, layout, name)[..., None]
    img[..., layout.value_slice(name)] = to_dtype(values, img.dtype)


def to_dtype(values: np.ndarray, dtype: Any) -> np.ndarray:
    """Cast, to an integer type by rounding and clipping."""
    dtype = np.dtype(dtype)
    if values.dtype == dtype:
        return values
    if dtype.kind in 'ui':
        info = np.iinfo(dtype)
        values = np.clip(np.rint(values), info.min, info.max)
    return values.astype(dtype)


def blank(img: np.ndarray, layout: ModalityLayout, name: str, where: Any) -> None:
    """Make a modality invalid in a region, in place.

    A modality without a validity channel takes its fill value instead, which is 0
    after normalisation unless the layout says otherwise.

    Args:
        img: The stack.
        layout: Its layout.
        name: The modality.
        where: Index of the region over (H, W): slices or a boolean mask.

    Shape:
        - img: (H, W, C)
    """
    values = img[..., layout.value_slice(name)]
    index = layout.stack_validity_index(name)
    if index is None:
        values[where] = to_dtype(fill_in_memory(layout, name), img.dtype)
        return
    values[where] = 0
    img[..., index][where] = 0


def fill_in_memory(layout: ModalityLayout, name: str) -> np.ndarray:
    """Fill value per channel in the unit, in the channel order of the stack."""
    modality = layout[name]
    if modality.fill is not None:
        return np.full(modality.channels, modality.fill, np.float64)
    mean = np.asarray(modality.mean, np.float64)
    # Colour lies in memory as BGR, means are in the order of the network.
    return mean[::-1] if modality.order == 'rgb' else mean
