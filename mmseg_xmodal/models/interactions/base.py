"""What all interactions of a multi-task model have in common.

An interaction stands between the neck and the heads of a
:class:`MultiTaskEncoderDecoder`. It makes first predictions of every dense task, lets
the tasks exchange what they know, and hands each task a pyramid of its own.
"""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Mapping, Sequence

from mmengine.model import BaseModule
from torch import Tensor

# Per task its pyramid, and its first predictions.
Exchanged = tuple[dict[str, tuple[Tensor, ...]], dict[str, list[Tensor]]]


class TaskInteraction(BaseModule, metaclass=ABCMeta):
    """Make a pyramid for each dense task out of the shared one.

    Its parameters are shared ones: gradient gates stand behind it. Tasks without a map
    (boxes, image labels) read the shared pyramid.

    Args:
        in_channels: Channels of each level of the shared pyramid, the largest first.
        tasks: Name of each dense task to the channels of its raw prediction; the
            segmentor fills it in. Taken in alphabetical order, so that a checkpoint
            fits a config that names the same tasks in another order.
        init_cfg: As in mmengine.

    Raises:
        ValueError: If there is no level or no task, a level or a task has no channel,
            or the name of a task contains a dot.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        tasks: Mapping[str, int],
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        where = type(self).__name__
        if not in_channels or min(in_channels) < 1:
            raise ValueError(
                f'{where}: in_channels={list(in_channels)}, expected the channels of '
                'one level or more. Change in_channels of the interaction.'
            )
        bad = {
            name: channels
            for name, channels in tasks.items()
            if not name or '.' in name or channels < 1
        }
        if not tasks or bad:
            raise ValueError(
                f'{where}: tasks={dict(tasks)}, expected one dense task or more, each '
                'with a name without dots and one channel or more. Change task_heads, '
                'or take the interaction out of the model.'
            )
        self.in_channels = tuple(in_channels)
        self.tasks = dict(sorted(tasks.items()))

    @property
    @abstractmethod
    def out_channels(self) -> list[int]:
        """Channels of each level of a task's pyramid, the largest first; all alike."""

    @abstractmethod
    def forward(self, feats: Sequence[Tensor]) -> Exchanged:
        """Exchange.

        Returns:
            Name of each task to its pyramid, and to its first predictions (raw, the
            largest first), which the segmentor supervises by the head's ``loss_of``.

        Shape:
            - feats: (B, in_channels[i], h_i, w_i), the largest first
            - pyramid: (B, out_channels[i], h_i, w_i)
            - first predictions: (B, tasks[name], h, w)

        Raises:
            ValueError: If the pyramid is not the one of ``in_channels``.
        """

    def check(self, feats: Sequence[Tensor]) -> None:
        """Refuse another pyramid than the one the interaction was built for.

        Raises:
            ValueError: If levels, channels or the order of the sizes do not fit.
        """
        shapes = [tuple(feat.shape) for feat in feats]
        where = f'{type(self).__name__} got maps of the shapes {shapes}, expected'
        if [shape[1:2] for shape in shapes] != [(c,) for c in self.in_channels]:
            raise ValueError(
                f'{where} {len(self.in_channels)} levels of {list(self.in_channels)} '
                'channels. Set in_channels of the interaction to the channels of the '
                'neck, or of the backbone where there is none.'
            )
        sizes = [shape[2:] for shape in shapes]
        pairs = zip(sizes[:-1], sizes[1:], strict=True)
        falls = all(a[0] >= b[0] and a[1] >= b[1] for a, b in pairs)
        if not falls or 0 in sizes[-1]:
            raise ValueError(
                f'{where} (B, C, h, w) with the largest map first and no empty one. '
                'Change the neck, or enlarge the images.'
            )
