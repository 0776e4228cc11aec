"""What a modality is and which channels of a stacked tensor belong to it.

A config states its modalities once and hands the same dict to the loader, the
preprocessor and the backbone. :class:`ModalityLayout` is the one place that turns the
dict into channel positions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

_DTYPES = ('uint8', 'uint16', 'int16', 'float32')
_ORDERS = (None, 'rgb', 'bgr')


@dataclasses.dataclass(frozen=True)
class Modality:
    """One named, pixel-aligned raster.

    Args:
        name: Key under which configs, files and streams refer to it.
        channels: Number of value channels.
        mean: Mean per channel, in the modality's unit and in the channel order that
            the network sees. One number stands for all channels. Defaults to 0.
        std: Standard deviation, as ``mean``. Defaults to 1.
        order: ``'rgb'`` or ``'bgr'`` for a colour modality: the channel order that the
            network sees. In memory colour is always BGR, which stock photometric
            transforms expect. None keeps the order of the file.
        dtype: Storage type in the file: ``'uint8'``, ``'uint16'``, ``'int16'`` or
            ``'float32'``. Defaults to uint8 for colour and float32 otherwise.
        scale: value in the unit = stored * scale + offset.
        offset: See ``scale``.
        unit: Name of the unit, for panels and messages (``'m'``, ``'K'``, ...).
        invalid: Stored value that means "no measurement", before scale and offset.
        may_be_missing: A sample may lack this modality as a whole.
        fill: Value in the unit that replaces invalid places. Defaults to the mean,
            which is 0 after normalisation.
        bands: Which channels of the file these are, counted from 0 in the order of the
            file (red, green, blue, alpha): ``[3]`` for thermal in the alpha channel,
            ``[0, 0, 0]`` to repeat a grey image. Defaults to all.

    Raises:
        ValueError: If a field is outside the values listed above.
    """

    name: str
    channels: int
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    order: str | None = None
    dtype: str | None = None
    scale: float = 1.0
    offset: float = 0.0
    unit: str | None = None
    invalid: float | None = None
    may_be_missing: bool = False
    fill: float | None = None
    bands: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.channels, int) or self.channels < 1:
            self._refuse('channels', self.channels, 'a positive integer')
        if self.order not in _ORDERS:
            self._refuse('order', self.order, f'one of {_ORDERS}')
        if self.order is not None and self.channels != 3:
            self._refuse('order', self.order, 'None unless channels=3')
        if self.dtype is None:
            object.__setattr__(self, 'dtype', 'uint8' if self.order else 'float32')
        if self.dtype not in _DTYPES:
            self._refuse('dtype', self.dtype, f'one of {_DTYPES}')
        for field in ('mean', 'std'):
            object.__setattr__(self, field, self._per_channel(field))
        if min(self.std) <= 0:
            self._refuse('std', self.std, 'positive numbers')
        if self.bands is not None:
            object.__setattr__(self, 'bands', tuple(self.bands))
            if len(self.bands) != self.channels or min(self.bands) < 0:
                expected = f'{self.channels} positions from 0 (channels)'
                self._refuse('bands', self.bands, expected)

    def _refuse(self, field: str, got: Any, expected: str) -> None:
        raise ValueError(
            f'modalities[{self.name!r}][{field!r}] is {got!r}, expected {expected}. '
            'Change it in the `modalities` dict of the config.'
        )

    def _per_channel(self, field: str) -> tuple[float, ...]:
        value = getattr(self, field)
        if isinstance(value, int | float):
            value = (value,)
        if len(value) not in (1, self.channels):
            self._refuse(field, value, f'1 or {self.channels} numbers (channels)')
        values = tuple(float(v) for v in value)
        return values * self.channels if len(values) == 1 else values

    @property
    def in_memory_uint8(self) -> bool:
        """Whether the values are uint8 after loading."""
        return self.dtype == 'uint8' and self.scale == 1 and self.offset == 0

    @property
    def has_validity(self) -> bool:
        """Whether the loader adds a validity channel.

        Plain uint8 images have no value that could mean "nothing here", so they bring
        one only when they declare ``invalid`` or may be missing.
        """
        return (
            self.invalid is not None or self.may_be_missing or not self.in_memory_uint8
        )


def _parse(
    modalities: Mapping[str, Mapping[str, Any]] | Sequence[Mapping[str, Any]],
) -> list[Modality]:
    """Describe each modality, in the order of the channels."""
    if isinstance(modalities, Mapping):
        parsed = [_modality(name, fields) for name, fields in modalities.items()]
        return sorted(parsed, key=lambda m: (m.name != 'rgb', m.order is None, m.name))
    parsed = []
    for i, entry in enumerate(modalities):
        fields = dict(entry)
        name = fields.pop('name', None)
        if name is None or any(m.name == name for m in parsed):
            raise ValueError(
                f"modalities[{i}]['name'] is {name!r}, expected a name that no other "
                'entry of the list has. Change it in `modalities` of the config.'
            )
        parsed.append(_modality(name, fields))
    return parsed


def _modality(name: str, fields: Mapping[str, Any]) -> Modality:
    known = {f.name for f in dataclasses.fields(Modality)} - {'name'}
    unknown = set(fields) - known
    if unknown or 'channels' not in fields:
        raise TypeError(
            f'modalities[{name!r}] has the fields {sorted(fields)}; channels is '
            f'required and the known ones are {sorted(known)}. Unknown here: '
            f'{sorted(unknown)}.'
        )
    return Modality(name=name, **fields)


class ModalityLayout:
    """Channel positions of all modalities in the two stacked tensors.

    The *loader's stack* (H, W, C) holds the values of all modalities in order, then
    one validity channel for each modality with ``has_validity``. The *model's input*
    (N, C, H, W) holds the values in order, then, where the preprocessor was asked for
    it, one validity channel for every modality.

    The order does not depend on the order of the dict, because mmengine sorts the keys
    of every config that it writes: ``rgb`` comes first, then other colour modalities,
    then the rest, each by name. A list keeps its own order.

    Args:
        modalities: Name to the arguments of :class:`Modality` (without ``name``), or a
            list of such arguments with ``name``.

    Raises:
        ValueError: If there is no modality, two share a name or one is described
            wrongly.
        TypeError: If a description has an unknown field.

    Example:
        >>> layout = ModalityLayout(dict(
        ...     rgb=dict(channels=3, order='rgb'), depth=dict(channels=1)))
        >>> layout.value_slice('depth'), layout.stack_channels
        (slice(3, 4, None), 5)
    """

    def __init__(
        self, modalities: Mapping[str, Mapping[str, Any]] | Sequence[Mapping[str, Any]]
    ) -> None:
        if not modalities:
            raise ValueError(
                'modalities is empty, expected at least one entry such as '
                "dict(rgb=dict(channels=3, order='rgb'))."
            )
        self.modalities: dict[str, Modality] = {m.name: m for m in _parse(modalities)}
        self.names = tuple(self.modalities)
        self._slices: dict[str, slice] = {}
        start = 0
        for name, modality in self.modalities.items():
            self._slices[name] = slice(start, start + modality.channels)
            start += modality.channels
        self.num_values = start
        with_validity = [n for n, m in self.modalities.items() if m.has_validity]
        self._stack_validity = {n: start + i for i, n in enumerate(with_validity)}
        self.stack_channels = start + len(with_validity)

    @classmethod
    def build(
        cls,
        modalities: ModalityLayout
        | Mapping[str, Mapping[str, Any]]
        | Sequence[Mapping[str, Any]],
    ) -> ModalityLayout:
        """Return a layout as it is, or make one from a dict or a list."""
        return modalities if isinstance(modalities, cls) else cls(modalities)  # type: ignore[arg-type]

    def __getitem__(self, name: str) -> Modality:
        return self.modalities[self.check(name)]

    def __iter__(self) -> Iterator[Modality]:
        return iter(self.modalities.values())

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.modalities

    def __repr__(self) -> str:
        parts = ', '.join(f'{m.name}={m.channels}' for m in self)
        return f'ModalityLayout({parts})'

    def check(self, name: str) -> str:
        """Return ``name``.

        Raises:
            ValueError: If there is no such modality.
        """
        if name not in self.modalities:
            raise ValueError(
                f'Modality {name!r} is not one of {list(self.names)}. Add it to the '
                '`modalities` dict of the config or change the name.'
            )
        return name

    def value_slice(self, name: str) -> slice:
        """Channels of the values, the same in the stack and in the model's input."""
        return self._slices[self.check(name)]

    def stack_validity_index(self, name: str) -> int | None:
        """Channel of the validity in the loader's stack, None where there is none."""
        return self._stack_validity.get(self.check(name))

    @property
    def stack_dtype(self) -> type:
        """uint8 when every modality is uint8 in memory, else float32."""
        plain = all(m.in_memory_uint8 for m in self)
        return np.uint8 if plain else np.float32

    @property
    def validity_max(self) -> int:
        """Value of "valid" in the stack: 255 in a uint8 stack, 1 in a float one."""
        return 255 if self.stack_dtype is np.uint8 else 1

    def input_channels(self, validity: bool) -> int:
        """Channels of the model's input."""
        return self.num_values + (len(self) if validity else 0)

    def input_validity_index(self, name: str) -> int:
        """Channel of the validity in a model's input that has validity."""
        return self.num_values + self.names.index(self.check(name))

    def split(self, x: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
        """Split the model's input by modality.

        Args:
            x: The preprocessor's output.

        Returns:
            Values by name, and validity by name or None.

        Shape:
            - x: (N, C, H, W), C = ``input_channels(validity)``.
            - values: (N, channels, H, W) each.
            - validity: (N, 1, H, W) each, 1 where real, 0 elsewhere.

        Raises:
            ValueError: If C is neither.
        """
        plain, full = self.input_channels(False), self.input_channels(True)
        if x.shape[1] not in (plain, full):
            raise ValueError(
                f'The model got {x.shape[1]} channels, but its modalities {self} make '
                f'{plain} (or {full} with validity). Give data_preprocessor='
                "dict(type='mmseg_xmodal.ModalityPreprocessor', modalities=modalities) "
                'and the backbone the same `modalities` dict.'
            )
        values = {name: x[:, self._slices[name]] for name in self.names}
        if x.shape[1] == plain:
            return values, None
        first = self.num_values
        return values, {
            name: x[:, first + i : first + i + 1] for i, name in enumerate(self.names)
        }
