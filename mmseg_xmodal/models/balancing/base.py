"""What loss balancers and gradient rules have in common.

A **loss balancer** sits in the model and weighs the losses of the tasks. A **gradient
rule** sits in the optimiser wrapper and weighs the gradients that the tasks send into
the shared parameters; it sees them only through their inner products. Both keep their
state in buffers or parameters, so in the checkpoint.
"""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.model import BaseModule
from torch import Tensor, nn


def check_tasks(owner: object, tasks: Sequence[str]) -> tuple[str, ...]:
    """Task names as a tuple.

    Args:
        owner: Whose tasks these are, for the message.
        tasks: Their names.

    Raises:
        ValueError: If there is none, or a name stands there twice.
    """
    names = () if isinstance(tasks, str) else tuple(tasks)
    if not names or len(set(names)) != len(names):
        raise ValueError(
            f'{type(owner).__name__} got tasks={tasks!r}, expected a list of different '
            'names: those of the tasks that the model trains.'
        )
    return names


def check_several(owner: object, tasks: Sequence[str]) -> tuple[str, ...]:
    """Task names of a gradient rule.

    Raises:
        ValueError: If they are fewer than two, or a name stands there twice.
    """
    names = check_tasks(owner, tasks)
    if len(names) < 2:
        raise ValueError(
            f'{type(owner).__name__} is a gradient rule with one task, {names[0]!r}, '
            'expected at least two: it weighs their gradients against each other. Add '
            "task_heads to the model, or set optim_wrapper.type='OptimWrapper'."
        )
    return names


def per_task(
    owner: object, tasks: Sequence[str], given: Mapping[str, Any] | Any, default: Any
) -> list[Any]:
    """One value per task from a dict by task name, or from one value for all.

    Raises:
        ValueError: If the dict names a task that does not exist.
    """
    if not isinstance(given, Mapping):
        return [given] * len(tasks)
    unknown = sorted(set(given) - set(tasks))
    if unknown:
        raise ValueError(
            f'{type(owner).__name__} has values for {unknown}, expected some of the '
            f'tasks {list(tasks)}. Correct them where it is configured.'
        )
    return [given.get(task, default) for task in tasks]


class Counter(nn.Module):
    """Number of calls, in a buffer.

    The number is kept on the host as well: reading a buffer of the GPU at every step
    would wait for the GPU.
    """

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer('count', torch.zeros((), dtype=torch.int64))
        self._host: int | None = 0

    def next(self) -> int:
        """Number of earlier calls."""
        if self._host is None:
            self._host = int(self.count)
        now, self._host = self._host, self._host + 1
        self.count += 1
        return now

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._host = None


class LossBalancer(BaseModule, metaclass=ABCMeta):
    """Weighs the losses of the tasks.

    In a run of several processes it must be called by every rank in every iteration,
    with no loss at all too where a rank has no labels: weights that follow from the
    losses follow from those of all ranks, so that every rank uses the same.

    Args:
        tasks: Names of all tasks; the segmentor fills them in.
        init_cfg: As in mmengine.

    Attributes:
        last_weights: Weights of the last call by task, detached; for the log.

    Raises:
        ValueError: If there is no task, or a name stands there twice.
    """

    last_weights: dict[str, Tensor]

    def __init__(self, tasks: Sequence[str], init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.tasks = check_tasks(self, tasks)
        self.last_weights = {}

    def forward(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weigh the losses of the labelled tasks.

        Args:
            losses: Loss by task; tasks without labels in the batch are left out.

        Returns:
            Terms to add up, of the same tasks in the same order.

        Shape:
            - every loss and term: ()

        Raises:
            ValueError: If a task is unknown.
        """
        unknown = sorted(set(losses) - set(self.tasks))
        if unknown:
            raise ValueError(
                f'{type(self).__name__} got losses of {unknown}, expected some of its '
                f'tasks {list(self.tasks)}. Name the same tasks in the model.'
            )
        return self.weigh(losses)

    @abstractmethod
    def weigh(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What :meth:`forward` returns; the names are checked."""

    def scale(self, losses: Mapping[str, Tensor], weights: Tensor) -> dict[str, Tensor]:
        """Losses times constant weights.

        Shape:
            - weights: (T,), in the order of ``tasks``
        """
        weights = weights.detach()
        self.last_weights = {
            task: weights[i] for i, task in enumerate(self.tasks) if task in losses
        }
        return {task: loss * self.last_weights[task] for task, loss in losses.items()}

    def over_ranks(
        self, losses: Mapping[str, Tensor], like: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean losses over the ranks that have them, and which tasks these are.

        Args:
            losses: Loss by task on this rank.
            like: Gives the device.

        Shape:
            - output: (T,) float32, detached, 0 where no rank has the task; (T,) bool
        """
        zero = torch.zeros((), device=like.device)
        sums = torch.stack([losses.get(t, zero).detach().float() for t in self.tasks])
        counts = torch.tensor([float(t in losses) for t in self.tasks])
        both = torch.stack([sums, counts.to(sums.device)])
        all_reduce(both, 'sum')
        return both[0] / both[1].clamp(min=1), both[1] > 0


class GradientRule(BaseModule, metaclass=ABCMeta):
    """Weighs the gradients of the tasks, given their inner products.

    The update is ``sum_t w_t g_t``. A rule computes in float64 on the CPU: it handles
    T x T numbers, which the optimiser wrapper brings there.

    Args:
        tasks: Names of all tasks. Defaults to those of the first update.

    Attributes:
        needs_gram: False where the weights do not depend on the gradients, which then
            need not be computed.

    Raises:
        ValueError: If ``tasks`` are fewer than two, or a name stands there twice.
    """

    needs_gram: bool = True

    def __init__(self, tasks: Sequence[str] = ()) -> None:
        super().__init__()
        self.tasks: tuple[str, ...] = ()
        self._expected = check_several(self, tasks) if tasks else ()

    def bind(self, tasks: Sequence[str]) -> None:
        """Fix the tasks, and make the state that a rule has for each.

        Args:
            tasks: Names of all tasks, in the order of the rows of a full Gram matrix.

        Raises:
            ValueError: If they are fewer than two, or not those that it has already.
        """
        names = check_several(self, tasks)
        expected = self.tasks or self._expected
        if expected and set(expected) != set(names):
            raise ValueError(
                f'{type(self).__name__} has the tasks {list(expected)}, but the model '
                f'has {list(names)}. A checkpoint goes on with the tasks that it was '
                'written with; else correct tasks of the rule in optim_wrapper.'
            )
        if not self.tasks:
            self.tasks = names
            self.init_state(len(names))

    def init_state(self, count: int) -> None:
        """Register buffers that have an entry per task."""

    def rows(self, tasks: Sequence[str] | None, count: int) -> Tensor:
        """Which entries of a state per task the rows of a Gram matrix are.

        Args:
            tasks: Names of the rows; None = all tasks.
            count: Number of rows.
        """
        if not self.tasks:
            self.bind(self._expected or tasks or [str(i) for i in range(count)])
        names = self.tasks if tasks is None else tasks
        return torch.tensor([self.tasks.index(name) for name in names])

    @abstractmethod
    def forward(
        self, gram: Tensor, losses: Tensor, tasks: Sequence[str] | None = None
    ) -> Tensor:
        """Weights of the gradients.

        Args:
            gram: Inner products of the gradients, finite.
            losses: Losses of the same tasks.
            tasks: Their names, where some tasks have no labels; None = all tasks.

        Shape:
            - gram: (T, T)
            - losses, output: (T,); the output is float64
        """


def unit_gram(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Norms of the gradients, and the cosines between them.

    A gradient of zero has the cosine 0 with all others and 1 with itself.

    Shape:
        - gram: (T, T)
        - output: (T,) and (T, T), float64
    """
    gram = gram.double()
    norms = gram.diagonal().clamp(min=0).sqrt()
    safe = torch.where(norms > 0, norms, torch.ones_like(norms))
    cosines = gram / safe.outer(safe)
    return norms, cosines.fill_diagonal_(1.0)
