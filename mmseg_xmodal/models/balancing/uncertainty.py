"""Uncertainty weighting.

Paper: Kendall, Gal, Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses for
Scene Geometry and Semantics", CVPR 2018, https://arxiv.org/abs/1705.07115. Checked
against LibMTL (https://github.com/median-research-group/LibMTL, MIT). Clean room,
nothing copied.

Difference from LibMTL: it uses the regression form for every task; here a task says
which form it takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmseg_xmodal.registry import MODELS

from .base import LossBalancer, per_task

_FACTORS = dict(regression=0.5, classification=1.0)


@MODELS.register_module()
class UncertaintyWeighting(LossBalancer):
    """``exp(-s_t) f_t L_t + s_t / 2`` with a learnable log variance ``s_t`` per task.

    ``f`` is 1/2 for regression, 1 for classification. At its optimum this minimises the
    sum of the log losses; a negative total is normal. The log variances should not
    decay: mmengine's constructor needs
    ``paramwise_cfg=dict(custom_keys={'balancer': dict(decay_mult=0.0)})``, ours does it
    by itself.

    Args:
        tasks: Names of all tasks; the segmentor fills them in.
        kinds: ``'regression'`` or ``'classification'``, for all tasks or by task; tasks
            that are not named are regression.
        init: Log variance at the start, for all tasks or by task (then 0 for others).

    Raises:
        ValueError: If a kind or a task is unknown.
    """

    factors: Tensor

    def __init__(
        self,
        tasks: Sequence[str],
        kinds: Mapping[str, str] | str = 'regression',
        init: Mapping[str, float] | float = 0.0,
    ) -> None:
        super().__init__(tasks)
        names = per_task(self, self.tasks, kinds, 'regression')
        unknown = sorted(set(names) - set(_FACTORS))
        if unknown:
            raise ValueError(
                f'UncertaintyWeighting has kinds={kinds}, expected '
                f'{" or ".join(map(repr, _FACTORS))}. Change them in balancer.'
            )
        start = [float(value) for value in per_task(self, self.tasks, init, 0.0)]
        self.log_var = nn.Parameter(torch.tensor(start))
        factors = torch.tensor([_FACTORS[name] for name in names])
        self.register_buffer('factors', factors, persistent=False)

    def weigh(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See :meth:`LossBalancer.forward`."""
        # Half precision would round the scalars, whichever dtype autocast is in.
        weights = self.factors * torch.exp(-self.log_var.float())
        terms = {}
        self.last_weights = {}
        for i, task in enumerate(self.tasks):
            if task in losses:
                self.last_weights[task] = weights[i].detach()
                terms[task] = weights[i] * losses[task] + self.log_var[i] / 2
        return {task: terms[task] for task in losses}
