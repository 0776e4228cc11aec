"""Count the teacher's pseudo-labels while a model trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import all_reduce
from torch import Tensor

from mmseg_xmodal.models.adaptation.base import AdaptationStep
from mmseg_xmodal.models.layers.pseudo_labels import PseudoLabelRule


@dataclasses.dataclass
class Census:
    """Pixels of one or more steps, of all processes.

    Args:
        pseudo: Of each class in the pseudo-labels that may teach.
        source: Of each class in the truth of the source.
        sure: Pseudo-labels whose confidence reaches the threshold; NaN without one.

    Shape:
        - pseudo, source: (C,) float64, on the CPU
    """

    pseudo: Tensor
    source: Tensor
    sure: float

    def __add__(self, other: Census) -> Census:
        return Census(
            self.pseudo + other.pseudo,
            self.source + other.source,
            self.sure + other.sure,
        )

    @property
    def shares(self) -> Tensor:
        """Of each class in the pseudo-labels, in [0, 1]; 0 where nothing may teach."""
        return self.pseudo / self.pseudo.sum().clamp(min=1)

    @property
    def source_shares(self) -> Tensor:
        """Of each class in the truth of the source, in [0, 1]."""
        return self.source / self.source.sum().clamp(min=1)

    @property
    def sure_share(self) -> float:
        """Share of the pseudo-labels that is sure, in [0, 1]; NaN where unknown."""
        total = float(self.pseudo.sum())
        return self.sure / total if total else float('nan')


@torch.no_grad()
def take_census(step: AdaptationStep, rule: PseudoLabelRule) -> Census:
    """Count the labels of a step, over all processes.

    Margins and padding, which do not teach, are left out. Pixels below the threshold
    count.

    Args:
        step: Has the teacher's logits already, or makes them.
        rule: Says where the margins are, and what is sure.
    """
    label, weight = step.pseudo_labels(
        dataclasses.replace(rule, threshold=None, unsure='share')
    )
    classes = max(step.teacher_logits.shape[1], 2)  # one channel says two classes
    if weight is not None:  # margins and padding
        label = label[weight > 0]
    pseudo = torch.bincount(label.flatten(), minlength=classes)
    truth = step.source.labels().flatten()
    truth = truth[(truth >= 0) & (truth < classes)].long()
    source = torch.bincount(truth, minlength=classes)
    sure = pseudo.new_tensor(float('nan'), dtype=torch.float64)
    if rule.threshold is not None:
        kept = step.pseudo_labels(dataclasses.replace(rule, unsure='ignore')).label
        sure = (kept != 255).sum().double()
    counts = torch.cat([pseudo.double(), source.double(), sure[None]])
    all_reduce(counts)
    counts = counts.cpu()
    return Census(counts[:classes], counts[classes:-1], float(counts[-1]))


class PseudoLabelWatch:
    """Takes a census of the steps that it is asked for.

    Reads the step from the first term that uses the teacher, whose prediction is at
    hand then: the model computes nothing twice.

    Args:
        model: With ``terms``.
        user: Name of the hook, for the error.

    Raises:
        ValueError: If no term uses the teacher.
    """

    def __init__(self, model: Any, user: str) -> None:
        terms = [t for t in getattr(model, 'terms', ()) if t.USES_TEACHER]
        if not terms:
            raise ValueError(
                f'{user}: the model {type(model).__name__} has no term that makes '
                "pseudo-labels. Use type='mmseg_xmodal.DomainAdaptiveSegmentor' with "
                "terms=[dict(type='mmseg_xmodal.ClassMixSelfTraining')], or take the "
                'hook out of custom_hooks.'
            )
        self.wanted = False
        self._census: Census | None = None
        self._handle = terms[0].register_forward_hook(self._read)

    def _read(self, term: Any, args: Sequence[Any], _: Any) -> None:
        if self.wanted:
            step = args[0]
            rule = getattr(term, 'rule', None) or step.pseudo_rule
            self._census = take_census(step, rule)

    def take(self) -> Census:
        """The census of the step that was asked for."""
        census, self._census, self.wanted = self._census, None, False
        if census is None:
            raise RuntimeError(
                'The step called no term of the adaptation, so nothing was counted. '
                'Hooks on pseudo-labels need the train_step of '
                'DomainAdaptiveSegmentor.'
            )
        return census

    def remove(self) -> None:
        """Leave the model as it was."""
        self._handle.remove()


def class_names(runner: Any, count: int) -> list[str]:
    """Names of the classes of the training data, or numbers where they do not fit."""
    meta = getattr(runner.train_dataloader.dataset, 'metainfo', None) or {}
    names = list(meta.get('classes') or ())
    return names if len(names) == count else [f'class {i}' for i in range(count)]
