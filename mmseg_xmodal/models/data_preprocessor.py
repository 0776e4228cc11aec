"""From the loader's stack to the model's input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor
from torch.nn import functional as F

from mmseg_xmodal.datasets.transforms.stack import ModalitiesCfg, expect_stack
from mmseg_xmodal.registry import MODELS
from mmseg_xmodal.structures import ModalityLayout

__all__ = ['ModalityPreprocessor']


@MODELS.register_module()
class ModalityPreprocessor(BaseDataPreprocessor):
    """Normalise each modality, mark what is real, pad, and make one batch.

    It does not see the backbone: one of mmseg's needs
    ``in_channels=layout.input_channels(validity)``; those of this package take the same
    ``modalities`` dict and check the channels.

    Values arrive multiplied by their validity, and stock geometry has mixed both with
    the same weights. Dividing gives normalised interpolation: no invalid value reaches
    a valid pixel. A pixel counts as valid where its validity exceeds
    ``validity_threshold``; elsewhere it takes the modality's fill value.

    Args:
        modalities: The config's ``modalities``.
        validity: Whether the batch ends with one validity channel per modality: 1 where
            the value is real; 0 where it is missing, invalid or padding. A modality
            without a validity channel in the stack is real up to the padding.
        validity_threshold: In (0, 1).
        size: Height and width to pad to in training.
        size_divisor: Number that divides the padded height and width in training.
            Give ``size`` or this, or neither to pad to the largest of the batch.
        pad_val: Padding of the values, after normalisation (0 is the mean).
        seg_pad_val: Padding of the label maps, and of all other truth in whole numbers;
            truth in floating point (depth, normals) is padded with NaN, "unknown".
        test_cfg: ``dict(size=...)`` or ``dict(size_divisor=...)``: padding in testing.
        batch_augments: Callables ``(inputs, data_samples) -> (inputs, data_samples)``,
            or their configs, applied in training one after the other.
        non_blocking: As in mmengine.

    Shape:
        - data['inputs']: N x (``layout.stack_channels``, H, W), a list or a tensor
        - returned inputs: (N, ``layout.input_channels(validity)``, H', W') float32

    Raises:
        ValueError: If both ``size`` and ``size_divisor`` are given, or
            ``validity_threshold`` lies outside (0, 1).
    """

    mean: Tensor
    std: Tensor
    fill: Tensor
    source: Tensor

    def __init__(
        self,
        modalities: ModalitiesCfg,
        validity: bool = False,
        validity_threshold: float = 0.5,
        size: tuple[int, int] | None = None,
        size_divisor: int | None = None,
        pad_val: float = 0,
        seg_pad_val: float = 255,
        test_cfg: Mapping[str, Any] | None = None,
        batch_augments: Sequence[dict | Callable] | dict | None = None,
        non_blocking: bool = False,
    ) -> None:
        super().__init__(non_blocking=non_blocking)
        self.layout = ModalityLayout.build(modalities)
        self.validity = validity
        if not 0 < validity_threshold < 1:
            raise ValueError(
                f'validity_threshold is {validity_threshold}, expected a number in '
                '(0, 1). Change it in data_preprocessor.'
            )
        self.validity_threshold = validity_threshold
        _check_padding('data_preprocessor', size, size_divisor)
        self.size, self.size_divisor = size, size_divisor
        self.test_cfg = dict(test_cfg or {})
        unknown = set(self.test_cfg) - {'size', 'size_divisor'}
        if unknown:
            raise ValueError(
                f'data_preprocessor.test_cfg has the keys {sorted(unknown)}, expected '
                "'size' or 'size_divisor'."
            )
        _check_padding('data_preprocessor.test_cfg', **self.test_cfg)
        self.pad_val, self.seg_pad_val = pad_val, seg_pad_val
        self.batch_augments = _build_augments(batch_augments)
        self._kept: frozenset[str] | None = None
        self._register_numbers()

    def _register_numbers(self) -> None:
        """Buffers outside the state dict: they belong to the config."""
        means: list[float] = []
        stds: list[float] = []
        fills: list[float] = []
        source: list[int] = []
        for m in self.layout:
            channels = list(range(*self.layout.value_slice(m.name).indices(1 << 30)))
            # Colour lies in the stack as BGR.
            source += channels[::-1] if m.order == 'rgb' else channels
            means += m.mean
            stds += m.std
            filled = m.mean if m.fill is None else (m.fill,) * m.channels
            fills += [
                (f - a) / b for f, a, b in zip(filled, m.mean, m.std, strict=True)
            ]
        for name, numbers in (('mean', means), ('std', stds), ('fill', fills)):
            value = torch.tensor(numbers, dtype=torch.float32).view(-1, 1, 1)
            self.register_buffer(name, value, persistent=False)
        self.register_buffer('source', torch.tensor(source), persistent=False)

    @property
    def kept_modalities(self) -> set[str] | None:
        """Modalities that the model gets in evaluation, None for all.

        The others are masked as if they were missing as a whole.

        Raises:
            ValueError: If an empty set or an unknown modality is set.
        """
        return None if self._kept is None else set(self._kept)

    @kept_modalities.setter
    def kept_modalities(self, names: Iterable[str] | None) -> None:
        if names is None:
            self._kept = None
            return
        self._kept = frozenset(self.layout.check(name) for name in names)
        if not self._kept:
            raise ValueError(
                'kept_modalities is empty, expected at least one of '
                f'{list(self.layout.names)}, or None for all.'
            )

    def forward(self, data: dict, training: bool = False) -> dict[str, Any]:
        """Make the model's input.

        Args:
            data: ``inputs`` and ``data_samples`` (a list, or None).
            training: Whether to pad by ``size`` / ``size_divisor`` and apply
                ``batch_augments``; else ``test_cfg`` and ``kept_modalities`` hold.

        Returns:
            ``inputs`` and ``data_samples``. In training all samples, also those
            without labels, get ``img_shape``, ``pad_shape`` and ``padding_size`` as
            mmseg's ``stack_batch`` sets them, and their truth is padded. In evaluation
            truth and ``img_shape`` stay as they are, and ``pad_shape`` and
            ``img_padding_size`` are set where ``test_cfg`` is given or something was
            padded.

        Raises:
            ValueError: If the stack does not fit the layout, or a label map does not
                fit its image.
        """
        data = self.cast_data(data)
        stacks, samples = list(data['inputs']), data.get('data_samples')
        for i, stack in enumerate(stacks):
            path = None if samples is None else samples[i].get('img_path')
            where = f'ModalityPreprocessor ({path!r})'
            dtype = str(stack.dtype).removeprefix('torch.')
            expect_stack(stack.shape[0], dtype, self.layout, where)
        inputs = self._batch(stacks, training)
        if samples is not None:
            for stack, sample in zip(stacks, samples, strict=True):
                self._pad_sample(sample, stack.shape[-2:], inputs.shape[-2:], training)
        if training:
            for augment in self.batch_augments:
                inputs, samples = augment(inputs, samples)
        return dict(inputs=inputs, data_samples=samples)

    def _batch(self, stacks: Sequence[Tensor], training: bool) -> Tensor:
        """Allocate the batch once and write every sample into its corner."""
        height, width = self._padded_size(stacks, training)
        channels = self.layout.input_channels(self.validity)
        batch = self.mean.new_empty(len(stacks), channels, height, width)
        count = self.layout.num_values
        for out, stack in zip(batch, stacks, strict=True):
            h, w = stack.shape[-2:]
            for edge in (out[:, h:], out[:, :h, w:]):
                edge[:count] = self.pad_val
                edge[count:] = 0
            self._write(out[:, :h, :w], stack, training)
        return batch

    def _padded_size(self, stacks: Sequence[Tensor], training: bool) -> tuple[int, int]:
        size, divisor = self.size, self.size_divisor
        if not training:
            size, divisor = self.test_cfg.get('size'), self.test_cfg.get('size_divisor')
        height, width = (max(s.shape[d] for s in stacks) for d in (-2, -1))
        if size is not None:
            height, width = max(height, size[0]), max(width, size[1])
        elif divisor is not None:
            height, width = (-(-n // divisor) * divisor for n in (height, width))
        return height, width

    def _write(self, out: Tensor, stack: Tensor, training: bool) -> None:
        """Write one sample.

        Shape:
            - out: (``input_channels``, H, W), written in place
            - stack: (``stack_channels``, H, W)
        """
        values = out[: self.layout.num_values]
        values.copy_(stack[self.source])
        weights: dict[str, Tensor] = {}
        for m in self.layout:
            index = self.layout.stack_validity_index(m.name)
            if index is not None:
                weight = stack[index].float() / self.layout.validity_max
                # Below the threshold the fill value follows, whatever stands here.
                own = values[self.layout.value_slice(m.name)]
                own.div_(weight.clamp(min=self.validity_threshold))
                if m.in_memory_uint8:
                    # Rounded values over a rounded weight can pass 255 by a little.
                    own.clamp_(max=255)
                weights[m.name] = weight
        values.sub_(self.mean).div_(self.std)
        for i, m in enumerate(self.layout):
            kept = training or self._kept is None or m.name in self._kept
            own = values[self.layout.value_slice(m.name)]
            fill = self.fill[self.layout.value_slice(m.name)]
            flag = out[self.layout.num_values + i] if self.validity else None
            if not kept:
                own.copy_(fill.expand_as(own))
            elif m.name in weights:
                valid = weights[m.name] > self.validity_threshold
                own.copy_(torch.where(valid, own, fill))
            if flag is not None:
                flag.copy_(valid) if kept and m.name in weights else flag.fill_(kept)

    def _pad_sample(
        self,
        sample: SegDataSample,
        size: Sequence[int],
        padded: Sequence[int],
        training: bool,
    ) -> None:
        """Pad maps of truth in training and say how much was padded."""
        height, width = padded[0] - size[0], padded[1] - size[1]
        padding = (0, width, 0, height)
        if not training:
            if self.test_cfg or height or width:
                shapes = dict(img_padding_size=padding, pad_shape=torch.Size(padded))
                sample.set_metainfo(shapes)
            return
        for key, field in sample.items():
            if isinstance(field, PixelData) and key.startswith('gt_'):
                if tuple(field.shape) != tuple(size):
                    raise ValueError(
                        f'{key} of {sample.get("img_path")!r} has (height, width) = '
                        f'{tuple(field.shape)}, its image {tuple(size)}. In the train '
                        'pipeline load the annotations before any Resize or RandomCrop.'
                    )
                real = field.data.is_floating_point()
                value = float('nan') if real else self.seg_pad_val
                data = F.pad(field.data, padding, value=value)
                # PixelData refuses a new size while the old one is there.
                del field.data
                field.data = data
        sample.set_metainfo(
            dict(
                img_shape=torch.Size(size),
                pad_shape=torch.Size(padded),
                padding_size=padding,
            )
        )


def _check_padding(
    where: str, size: Sequence[int] | None = None, size_divisor: int | None = None
) -> None:
    if size is not None and size_divisor is not None:
        raise ValueError(
            f'{where} has size={size} and size_divisor={size_divisor}, expected at '
            'most one of them. Remove one.'
        )


def _build_augments(
    augments: Sequence[dict | Callable] | dict | Callable | None,
) -> list[Callable]:
    if augments is None:
        return []
    if isinstance(augments, Mapping) or callable(augments):
        augments = [augments]
    return [MODELS.build(a) if isinstance(a, Mapping) else a for a in augments]
