"""MTI-Net: tasks exchange features at every scale, and from coarse to fine.

Paper: MTI-Net: Multi-Scale Task Interaction Networks for Multi-Task Learning, 2020,
https://arxiv.org/abs/2001.06902. Official code:
https://github.com/SimonVandenhende/Multi-Task-Learning-PyTorch (CC BY-NC 4.0). Clean
room: written from the paper's description, that code was not opened, nothing copied.
Its weights do not load here.

What differs, and why:

* Any number of levels and any sizes; a level's features are resized to the next
  level's size instead of by 2.
* The mask of the propagation competes between the tasks' features of the same channel,
  as the paper describes it. The official code groups neighbouring channels of the
  concatenation instead, most of which belong to one task.
* With one task there is nothing to exchange: no mask (it would be 1 everywhere) and no
  distillation. The features still propagate.
* All messages that a task sends at a scale are one convolution: the same numbers.
* The last unit, which aggregates a task's scales, is the task's head: give it a head
  that reads all levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from mmcv.cnn import ConvModule
from mmengine.model import ModuleDict, ModuleList
from mmseg.models.utils import BasicBlock
from torch import Tensor, nn

from mmseg_xmodal.registry import MODELS

from ..fusion.mix_se import ChannelGate
from ..layers.task_maps import resize_to
from .base import Exchanged, TaskInteraction


def _residual(in_channels: int, channels: int, norm_cfg: dict) -> BasicBlock:
    """Residual block whose identity is projected where the channels differ."""
    project = None
    if in_channels != channels:
        project = ConvModule(in_channels, channels, 1, norm_cfg=norm_cfg, act_cfg=None)
    return BasicBlock(in_channels, channels, downsample=project, norm_cfg=norm_cfg)


class InitialPrediction(nn.Module):
    """First features and first prediction of one task at one scale.

    Args:
        in_channels: Channels of the input.
        channels: Channels C of the features.
        out_channels: Channels of the prediction.
        norm_cfg: Norm layers.
    """

    def __init__(
        self, in_channels: int, channels: int, out_channels: int, norm_cfg: dict
    ) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            _residual(in_channels, channels, norm_cfg),
            _residual(channels, channels, norm_cfg),
        )
        self.predictor = nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, in_channels, h, w) to (B, C, h, w) and (B, out_channels, h, w)."""
        feat = self.blocks(x)
        return feat, self.predictor(feat)


class FeaturePropagation(nn.Module):
    """What a scale hands to the next finer one: f_t + SE_t(shared).

    ``shared`` is reduced from the features of all tasks, each multiplied by its share
    of a softmax across the tasks, channel by channel and place by place.

    Args:
        tasks: Names of the T tasks.
        channels: Channels C per task.
        norm_cfg: Norm layers.
        reduction: Divides the hidden width of the squeeze-and-excitation gates.
    """

    def __init__(
        self, tasks: Sequence[str], channels: int, norm_cfg: dict, reduction: int
    ) -> None:
        super().__init__()
        width = len(tasks) * channels
        # A softmax over one task is 1, and would leave its scores without a gradient.
        self.scores = self._bottleneck(width, norm_cfg) if len(tasks) > 1 else None
        self.reduce = ConvModule(width, channels, 1, norm_cfg=norm_cfg)
        self.gates = ModuleDict({t: ChannelGate(channels, reduction) for t in tasks})

    @staticmethod
    def _bottleneck(width: int, norm_cfg: dict) -> nn.Sequential:
        narrow = max(width // 4, 1)
        return nn.Sequential(
            ConvModule(width, narrow, 1, norm_cfg=norm_cfg),
            ConvModule(narrow, narrow, 3, padding=1, norm_cfg=norm_cfg),
            # No ReLU at the end: scores below zero are scores too.
            ConvModule(narrow, width, 1, norm_cfg=norm_cfg, act_cfg=None),
        )

    def mask(self, features: Tensor) -> Tensor:
        """Share of each task; they sum to 1 over the tasks.

        Shape:
            - features: (B, T * C, h, w), task by task
            - output: (B, T, C, h, w)
        """
        assert self.scores is not None
        scores = features + self.scores(features)
        return scores.unflatten(1, (len(self.gates), -1)).softmax(1)

    def forward(self, feats: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """(B, C, h, w) to (B, C, h, w), for each task."""
        features = torch.cat([feats[task] for task in self.gates], 1)
        if self.scores is not None:
            features = features * self.mask(features).flatten(1, 2)
        shared = self.reduce(features)
        pooled = shared.mean((2, 3)).unsqueeze(1)  # one token
        return {
            task: feats[task] + gate(pooled)[:, 0, :, None, None] * shared
            for task, gate in self.gates.items()
        }


class SpatialAttentionDistillation(nn.Module):
    """out_t = f_t + sum over the other tasks a of sigmoid(G_at f_a) * (V_at f_a).

    G and V are 3x3 convolutions, one pair per ordered pair of tasks.

    Args:
        tasks: Names of the T tasks, two or more.
        channels: Channels C per task.
    """

    def __init__(self, tasks: Sequence[str], channels: int) -> None:
        super().__init__()
        # Of one source: the gates for all targets, then the values for all targets.
        width = 2 * (len(tasks) - 1) * channels
        self.sources = ModuleDict(
            {task: nn.Conv2d(channels, width, 3, padding=1) for task in tasks}
        )

    def forward(self, feats: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """(B, C, h, w) to (B, C, h, w), for each task."""
        out = dict(feats)
        for source, conv in self.sources.items():
            gates, values = conv(feats[source]).chunk(2, 1)
            targets = [task for task in self.sources if task != source]
            messages = (gates.sigmoid() * values).chunk(len(targets), 1)
            for target, message in zip(targets, messages, strict=True):
                out[target] = out[target] + message
        return out


@MODELS.register_module()
class MultiScaleDistillation(TaskInteraction):
    """Multi-scale distillation of MTI-Net.

    From the coarsest level to the finest: two residual blocks and a 1x1 predictor per
    task, on the level and what the task got from the coarser one. Then, at each level,
    every task adds what the others send it. A task's pyramid has all levels of the
    shared one, its first predictions one map per level; heads read it with
    ``in_channels=channels`` (those of the shared pyramid by default).

    Batch norm, the default, cannot train on one image whose coarsest map is one pixel;
    ``norm_cfg=dict(type='GN', num_groups=1)`` can.

    Args:
        in_channels: Channels of each level of the shared pyramid, the largest first.
        tasks: Name of each dense task to the channels of its raw prediction; the
            segmentor fills it in.
        channels: Channels per task, one number or one per level; None = those of the
            level, as published.
        norm_cfg: Norm layers; None = BN.
        reduction: Divides the hidden width of the squeeze-and-excitation gates.
        init_cfg: As in mmengine.

    Shape:
        - input: (B, in_channels[i], h_i, w_i)
        - output: per task (B, channels[i], h_i, w_i), and (B, tasks[name], h_i, w_i)

    Raises:
        ValueError: If ``channels`` has another length than ``in_channels``, or an
            entry below 1.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        tasks: Mapping[str, int],
        channels: int | Sequence[int] | None = None,
        norm_cfg: dict | None = None,
        reduction: int = 16,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(in_channels, tasks, init_cfg)
        norm_cfg = norm_cfg or dict(type='BN')
        self.channels = _widths(channels, self.in_channels)
        self.initial = ModuleList()
        self.propagate = ModuleList()  # from level i + 1 to level i
        self.distil = ModuleList()
        names = list(self.tasks)
        for i, width in enumerate(self.channels):
            coarser = sum(self.channels[i + 1 : i + 2])  # 0 at the coarsest level
            self.initial.append(
                ModuleDict(
                    {
                        name: InitialPrediction(
                            self.in_channels[i] + coarser, width, out, norm_cfg
                        )
                        for name, out in self.tasks.items()
                    }
                )
            )
            if i:
                self.propagate.append(
                    FeaturePropagation(names, width, norm_cfg, reduction)
                )
            if len(names) > 1:
                self.distil.append(SpatialAttentionDistillation(names, width))

    @property
    def out_channels(self) -> list[int]:
        """See :class:`TaskInteraction`."""
        return list(self.channels)

    def forward(self, feats: Sequence[Tensor]) -> Exchanged:
        """See :meth:`TaskInteraction.forward`."""
        self.check(feats)
        levels: list[dict[str, Tensor]] = []
        first: dict[str, list[Tensor]] = {task: [] for task in self.tasks}
        passed: dict[str, Tensor] = {}
        for i in reversed(range(len(feats))):
            found = {}
            size = (feats[i].shape[2], feats[i].shape[3])
            for task, module in self.initial[i].items():
                x = feats[i]
                if passed:
                    x = torch.cat([x, resize_to(passed[task], size)], 1)
                found[task], prediction = module(x)
                first[task].insert(0, prediction)
            if i:
                passed = self.propagate[i - 1](found)
            levels.insert(0, self.distil[i](found) if len(self.distil) else found)
        return {task: tuple(lv[task] for lv in levels) for task in self.tasks}, first


def _widths(
    channels: int | Sequence[int] | None, in_channels: Sequence[int]
) -> tuple[int, ...]:
    """Channels per task of every level.

    Raises:
        ValueError: If their number is another one, or one is below 1.
    """
    if channels is None:
        return tuple(in_channels)
    if isinstance(channels, int):
        channels = [channels] * len(in_channels)
    if len(channels) != len(in_channels) or min(channels) < 1:
        raise ValueError(
            f'MultiScaleDistillation: channels={list(channels)}, expected None, one '
            f'number or {len(in_channels)}, one for each of in_channels='
            f'{list(in_channels)}, 1 or more each. Change `channels` of the '
            'interaction.'
        )
    return tuple(channels)
