"""What adaptation terms have in common.

A term turns one training step of ``DomainAdaptiveSegmentor`` into further losses. It
reads the step, an :class:`AdaptationStep`, which computes what several terms need (the
teacher's prediction, the student's features of the source) once.
"""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from mmengine.model import BaseModule
from torch import Tensor, nn

from ..layers.pseudo_labels import PseudoLabelRule
from .step import AdaptationStep, DomainBatch, Losses, full_size_metas

__all__ = [
    'AdaptationStep',
    'AdaptationTerm',
    'DomainBatch',
    'Losses',
    'full_size_metas',
]


class AdaptationTerm(BaseModule, metaclass=ABCMeta):
    """One term of an adaptation.

    Args:
        weight: Factor of its losses, 0 or more.
        name: What its losses begin with in the log. Defaults to that of the class;
            needed where a class stands twice.

    Attributes:
        NEEDS: Parts of the segmentor that must be there: ``'anchor'``.
        USES_TEACHER: Whether the teacher must move.
        GRAPHS: Graphs of the step that its losses go back through: ``'source'``, that
            of ``source_calls``; ``'target'``, that of ``target_logits``. With
            ``backward='sequential'`` terms of one graph go backward together, those of
            ``'source'`` with the source loss.
        USES_SOURCE_LOGITS: Whether it reads ``source_logits``.

    Raises:
        ValueError: If ``weight`` is below 0 or ``name`` has a dot or 'loss' in it.
    """

    NAME: ClassVar[str] = 'term'
    NEEDS: ClassVar[Sequence[str]] = ()
    USES_TEACHER: ClassVar[bool] = False
    GRAPHS: ClassVar[Sequence[str]] = ()
    USES_SOURCE_LOGITS: ClassVar[bool] = False

    def __init__(self, weight: float = 1.0, name: str | None = None) -> None:
        super().__init__()
        self.weight = weight
        self.name = self.NAME if name is None else name
        if weight < 0:
            raise ValueError(
                f'{type(self).__name__} has weight={weight}, expected 0 or more.'
            )
        # mmengine adds up every value with 'loss' in its key.
        if not self.name or '.' in self.name or 'loss' in self.name:
            raise ValueError(
                f'{type(self).__name__} has name={self.name!r}, expected a word '
                "without '.' and without 'loss'."
            )

    def attach(self, student: Any) -> None:
        """Build what depends on the student; the segmentor calls it once."""

    def opponents(self) -> list[nn.Module]:
        """Modules that have an optimiser of their own, ``'discriminator'``."""
        return []

    def opponent_losses(self, step: AdaptationStep) -> Losses:
        """Losses of the opponents; the graphs of the step went backward by then."""
        return {}

    def prepare(self, step: AdaptationStep) -> None:
        """Change the step before the source loss is computed."""

    @abstractmethod
    def forward(self, step: AdaptationStep) -> Losses:
        """Losses of this step, without ``weight``; keys with 'loss' are added up."""

    def weighted(self, step: AdaptationStep) -> Losses:
        """Losses of this step, those that are added up times ``weight``."""
        return {
            f'{self.name}.{key}': _scale(value, self.weight) if 'loss' in key else value
            for key, value in self(step).items()
        }

    def given(self, step: AdaptationStep, draw: str) -> Any:
        """A draw that the caller gave, or None."""
        return step.draws.get(f'{self.name}.{draw}')

    @staticmethod
    def own_rule(cfg: Mapping[str, Any] | None) -> PseudoLabelRule | None:
        """The rule of a config; None = that of the segmentor."""
        return None if cfg is None else PseudoLabelRule(**cfg)


def _scale(value: Any, weight: float) -> Any:
    if isinstance(value, Tensor):
        return value * weight
    return [v * weight for v in value]
