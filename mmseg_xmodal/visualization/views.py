"""From the loader's stack back to one picture per modality."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import cv2
import numpy as np
from torch import Tensor

from mmseg_xmodal.datasets.transforms.stack import read_values, valid_mask
from mmseg_xmodal.structures import Modality, ModalityLayout


@dataclasses.dataclass(frozen=True)
class ModalityView:
    """One modality of one sample, as a panel shows it.

    Args:
        values: Values in the modality's unit; RGB in [0, 255] where ``colour``.
        valid: True where the value is a measurement.
        colour: Whether ``values`` is an RGB image.
        unit: Name of the unit, None where there is none.
        withheld: The model did not get this modality although the file has it.

    Shape:
        - values: (H, W, C).
        - valid: (H, W), bool.
    """

    values: np.ndarray
    valid: np.ndarray
    colour: bool
    unit: str | None = None
    withheld: bool = False

    def resized(self, size: tuple[int, int]) -> ModalityView:
        """Return the view at another size; invalid pixels do not bleed into valid ones.

        Args:
            size: Height and width in pixels.
        """
        if self.valid.shape == tuple(size):
            return self
        weight = _resize(self.valid.astype(np.float32), size)
        valid = weight > 0.5
        divisor = np.where(valid, weight, 1)
        masked = self.values.astype(np.float32) * self.valid[..., None]
        channels = [_resize(masked[..., c], size) for c in range(masked.shape[2])]
        values = np.stack([np.where(valid, c / divisor, 0) for c in channels], axis=2)
        return dataclasses.replace(self, values=values, valid=valid)

    def flipped(self, direction: str) -> ModalityView:
        """Return the view mirrored ``'horizontal'``, ``'vertical'`` or ``'diagonal'``.

        Raises:
            ValueError: If the direction is none of the three.
        """
        axes = {'horizontal': (1,), 'vertical': (0,), 'diagonal': (0, 1)}
        if direction not in axes:
            raise ValueError(
                f'flip_direction is {direction!r}, expected one of {list(axes)}: '
                'change RandomFlip in the pipeline.'
            )
        axis = axes[direction]
        return dataclasses.replace(
            self, values=np.flip(self.values, axis), valid=np.flip(self.valid, axis)
        )


def view_from_image(image: np.ndarray) -> ModalityView:
    """View of a plain RGB image.

    Args:
        image: RGB image in [0, 255].

    Shape:
        - image: (H, W, 3).

    Raises:
        ValueError: If the image has another shape.
    """
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f'The image has the shape {image.shape}, expected (H, W, 3) in RGB. Give '
            'several modalities as a dict of ModalityView (views_from_stack).'
        )
    return ModalityView(image, np.ones(image.shape[:2], bool), colour=True)


def views_from_stack(
    stack: Tensor | np.ndarray,
    layout: ModalityLayout,
    kept: Collection[str] | None = None,
    threshold: float = 0.5,
) -> dict[str, ModalityView]:
    """Split the loader's stack into one view per modality.

    Args:
        stack: What the pipeline hands to the preprocessor, before padding.
        layout: The modalities in it.
        kept: Names that the model gets; None means all of them.
        threshold: A pixel counts as valid where its validity exceeds this, in (0, 1).

    Shape:
        - stack: (C, H, W), C = ``layout.stack_channels``.

    Raises:
        ValueError: If C differs.
    """
    array = stack.cpu().numpy() if isinstance(stack, Tensor) else np.asarray(stack)
    if array.ndim != 3 or array.shape[0] != layout.stack_channels:
        raise ValueError(
            f'The stack has the shape {tuple(array.shape)}, but {layout} makes '
            f'({layout.stack_channels}, H, W). Give the loader and the preprocessor '
            'the same `modalities` dict, and wrap transforms of one image in '
            'mmseg_xmodal.OnModalities.'
        )
    hwc = array.transpose(1, 2, 0)
    withheld = set() if kept is None else set(layout.names) - set(kept)
    return {
        m.name: _view(hwc, layout, m, m.name in withheld, threshold) for m in layout
    }


def views_from_inputs(
    stack: Tensor | np.ndarray,
    layout: ModalityLayout | None,
    kept: Collection[str] | None = None,
    threshold: float = 0.5,
) -> dict[str, ModalityView]:
    """One view per modality of what a pipeline gives, or of an ordinary BGR image.

    Args:
        stack: What the pipeline hands to the preprocessor.
        layout: The modalities in it; None for the three channels of plain mmseg.
        kept: See :func:`views_from_stack`.
        threshold: See :func:`views_from_stack`.

    Shape:
        - stack: (C, H, W).

    Raises:
        ValueError: If the channels do not fit the layout, or there is none and they
            are not three.
    """
    if layout is not None:
        return views_from_stack(stack, layout, kept, threshold)
    array = stack.cpu().numpy() if isinstance(stack, Tensor) else np.asarray(stack)
    if array.ndim != 3 or array.shape[0] != 3:
        raise ValueError(
            f'The input has {array.shape[0]} channels, shape {tuple(array.shape)}, and '
            'no layout names them, expected (3, H, W) in BGR. Several modalities need '
            "type='mmseg_xmodal.MultiModalSegDataset' in the data set, and in the "
            "model data_preprocessor=dict(type='mmseg_xmodal.ModalityPreprocessor', "
            'modalities=modalities).'
        )
    return {'image': view_from_image(array.transpose(1, 2, 0)[..., ::-1])}


def _view(
    stack: np.ndarray,
    layout: ModalityLayout,
    modality: Modality,
    withheld: bool,
    threshold: float,
) -> ModalityView:
    values = read_values(stack, layout, modality.name)
    valid = valid_mask(stack, layout, modality.name) > threshold
    values = np.where(valid[..., None], values, 0)
    colour = modality.order is not None
    if colour:
        values = values[..., ::-1]  # colour is BGR in the stack
    return ModalityView(values, valid, colour, modality.unit, withheld)


def _resize(channel: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Shrink by area, which keeps thin structures, and enlarge bilinearly."""
    shrinks = size[0] < channel.shape[0]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(channel, (size[1], size[0]), interpolation=interpolation)
