"""One list of classes for data sets that have lists of their own.

The 16 and 13 classes that SYNTHIA shares with Cityscapes are those of the evaluations
since AdaptSegNet (https://arxiv.org/abs/1802.10349) and ADVENT
(https://arxiv.org/abs/1811.12833). Clean room, nothing copied.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from mmseg.utils import cityscapes_classes, cityscapes_palette

from .palette import class_colours

IGNORE = 255
# Classes of Cityscapes that SYNTHIA has no pixel of, and those that 13 leave out too.
_NOT_IN_SYNTHIA = ('terrain', 'truck', 'train')
_NOT_IN_13 = ('wall', 'fence', 'pole')


@dataclasses.dataclass(frozen=True)
class DomainOntology:
    """The classes that several data sets share, and what becomes of their own.

    A data set with ``ontology=...`` gives labels and class names of the shared list, so
    losses learn them, and stock ``IoUMetric`` averages over them; ``num_classes`` of
    the head is written in the config. Metrics of ours take it where a network has more
    classes than the list.

    Args:
        classes: Names of the shared classes; the id is the place.
        palette: Colour of each, 0 to 255. Defaults to that of Cityscapes for its
            classes, else one is made.
        map: Name of a data set's class to the shared one that it becomes, None =
            ignored. A class that is not named keeps its name, which must be a shared
            one. Names that a data set lacks do no harm: one map serves several.

    Raises:
        ValueError: If names are missing or stand twice, a colour is missing, or a
            target is no shared class.

    Example:
        >>> DomainOntology.build('synthia16').num_classes
        16
        >>> two = DomainOntology(['human', 'road'], map=dict(person='human', sky=None))
        >>> two.reduce_labels(np.array([0, 1, 2, 255]), ['sky', 'person', 'road'])
        array([255,   0,   1, 255], dtype=uint8)
    """

    classes: Sequence[str]
    palette: Sequence[Sequence[int]] | None = None
    map: Mapping[str, str | None] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        classes = tuple(self.classes)
        object.__setattr__(self, 'classes', classes)
        object.__setattr__(self, 'map', MappingProxyType(dict(self.map)))
        if not classes or len(set(classes)) < len(classes) or len(classes) > IGNORE:
            raise ValueError(
                f'DomainOntology has classes={list(classes)}, expected 1 to {IGNORE} '
                'names, all different. Correct classes.'
            )
        unknown = {k: v for k, v in self.map.items() if v not in (None, *classes)}
        if unknown:
            raise ValueError(
                f'DomainOntology maps {unknown}, which are none of its classes '
                f'{list(classes)}. Correct map, or add them to classes; None = ignored.'
            )
        palette = _palette(classes) if self.palette is None else self.palette
        colours = tuple(tuple(int(part) for part in colour) for colour in palette)
        object.__setattr__(self, 'palette', colours)
        if len(colours) != len(classes):
            raise ValueError(
                f'DomainOntology has {len(colours)} colours for {len(classes)} '
                'classes, expected one each. Correct palette, or leave it out.'
            )

    def __reduce__(self) -> Any:
        return type(self), (self.classes, self.palette, dict(self.map))

    def __hash__(self) -> int:
        return hash((self.classes, self.palette, tuple(sorted(self.map))))

    @classmethod
    def build(cls, cfg: DomainOntology | str | Mapping[str, Any]) -> DomainOntology:
        """Return an ontology as it is, or make one from its name or its arguments.

        Raises:
            ValueError: If the name or an argument is unknown.
        """
        if isinstance(cfg, cls):
            return cfg
        if isinstance(cfg, str):
            if cfg not in _PRESETS:
                raise ValueError(
                    f'ontology={cfg!r}, expected one of {sorted(_PRESETS)}, or '
                    'dict(classes=[...], map={...}).'
                )
            return _PRESETS[cfg]
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(cfg, Mapping) or set(cfg) - known or 'classes' not in cfg:
            raise ValueError(
                f'ontology={cfg!r}, expected a name of {sorted(_PRESETS)} or a dict '
                f'with classes, and any of {sorted(known)}.'
            )
        return cls(**cfg)

    @property
    def num_classes(self) -> int:
        """Number of shared classes: what the head needs."""
        return len(self.classes)

    @property
    def metainfo(self) -> dict[str, Any]:
        """Names and colours, as data sets of mmseg state them."""
        assert self.palette is not None  # set before
        return dict(classes=self.classes, palette=[list(c) for c in self.palette])

    def label_map(self, names: Sequence[str]) -> dict[int, int]:
        """Id of each of a data set's classes to the shared one, 255 = ignored.

        Args:
            names: The classes of the data set, by id.

        Raises:
            ValueError: If a class has no place in the ontology.
        """
        targets = [self.map.get(name, name) for name in names]
        pairs = zip(names, targets, strict=True)
        lost = [name for name, t in pairs if t is not None and t not in self.classes]
        if lost:
            raise ValueError(
                f'The ontology does not say what becomes of {lost}; its classes are '
                f'{list(self.classes)}. Add them to `map` (None = ignored).'
            )
        places = {name: place for place, name in enumerate(self.classes)}
        return {i: IGNORE if t is None else places[t] for i, t in enumerate(targets)}

    def lookup(self, names: Sequence[str]) -> np.ndarray:
        """New id of each old one; whatever is no class is ignored.

        Args:
            names: See :meth:`label_map`.

        Shape:
            - output: (256,) uint8
        """
        table = np.full(256, IGNORE, np.uint8)
        for old, new in self.label_map(names).items():
            table[old] = new
        return table

    def reduce_labels(
        self, labels: np.ndarray, names: Sequence[str] | None = None
    ) -> np.ndarray:
        """Labels of a data set in the ids of the shared classes.

        Args:
            labels: Ids from 0 to 255.
            names: The classes of the data set, by id. Defaults to the 19 of Cityscapes.

        Shape:
            - labels, output: any; the output is uint8

        Raises:
            ValueError: If an id lies outside of 0 to 255, or see :meth:`label_map`.
        """
        labels = np.asarray(labels)
        if labels.size and not (labels.min() >= 0 and labels.max() <= IGNORE):
            raise ValueError(
                f'reduce_labels got ids from {labels.min()} to {labels.max()}, '
                f'expected 0 to {IGNORE}.'
            )
        return self.lookup(cityscapes_classes() if names is None else names)[labels]


def _palette(classes: Sequence[str]) -> list[list[int]]:
    """Colours of Cityscapes where the names are its own, else far apart."""
    own = dict(zip(cityscapes_classes(), cityscapes_palette(), strict=True))
    if set(classes) <= set(own):
        return [own[name] for name in classes]
    return class_colours(len(classes) + 1)[1:]


def _without(*names: str) -> DomainOntology:
    """Cityscapes without some of its classes."""
    kept = [name for name in cityscapes_classes() if name not in names]
    return DomainOntology(kept, map=dict.fromkeys(names))


_PRESETS = dict(
    cityscapes19=_without(),
    synthia16=_without(*_NOT_IN_SYNTHIA),
    synthia13=_without(*_NOT_IN_SYNTHIA, *_NOT_IN_13),
)
