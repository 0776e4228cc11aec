"""InvPT: attention among the places of all tasks, at growing resolution.

Paper: InvPT: Inverted Pyramid Multi-task Transformer for Dense Scene Understanding,
2022, https://arxiv.org/abs/2203.07997. Official code:
https://github.com/prismformore/Multi-Task-Transformer (MIT at its root, CC BY-NC 4.0 in
the headers of the decoder). Clean room: written from the paper's description, that code
was not opened, nothing copied. Its weights do not load here.

What differs, and why:

* A stage has the size of its level of the shared pyramid, so that odd sizes work, and
  there may be any number of stages (the paper has three).
* Keys are pooled to the same grid in every stage, whatever the sizes: with sizes that
  double this is pooling with strides 2, 4, 8.
* Two identities that change no number: scores are mixed over the heads before they are
  enlarged, and features projected before they are enlarged (both maps are linear, and
  the weights of the interpolation sum to 1). The biases of keys and of the mixing of
  scores are left out: a softmax over the keys does not see them.
* A skip is a 1x1 convolution and a norm: levels come at the size of the stage already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from mmcv.cnn import ConvModule
from mmengine.model import ModuleDict, ModuleList
from torch import Tensor, nn

from mmseg_xmodal.registry import MODELS

from ..layers.cross_task_attention import CrossTaskAttention, Scores
from ..layers.resize_linear import pointwise
from ..layers.swin import MLP
from ..layers.task_maps import by_task, resize_to
from ..layers.tokens import to_map, to_tokens
from .base import Exchanged, TaskInteraction


class PreliminaryDecoder(nn.Module):
    """First prediction of one task, and its tokens for the first stage.

    Args:
        in_channels: Channels of the coarsest level.
        channels: Channels C of the tokens.
        out_channels: Channels of the prediction.
        norm_cfg: Norm layers.
    """

    def __init__(
        self, in_channels: int, channels: int, out_channels: int, norm_cfg: dict
    ) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            ConvModule(in_channels, channels, 3, padding=1, norm_cfg=norm_cfg),
            ConvModule(channels, channels, 3, padding=1, norm_cfg=norm_cfg),
        )
        self.predictor = nn.Conv2d(channels, out_channels, 1)
        self.mix = nn.Conv2d(channels + out_channels, channels, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, in_channels, h, w) to (B, C, h, w) and (B, out_channels, h, w)."""
        feat = self.convs(x)
        prediction = self.predictor(feat)
        return self.mix(torch.cat([feat, prediction], 1)), prediction


class UpStage(nn.Module):
    """Enlarge, add the encoder's level, attend across tasks, MLP (pre-normed).

    Args:
        attention: Of the stage.
        in_dim: Channels of the stage before; None = this is the first one, which
            neither enlarges nor adds a level.
        dim: Channels C.
        level_channels: Channels of the encoder's level.
        mlp_ratio: Hidden channels of the MLP over C.
        norm_cfg: Norm layers of the convolutions.
    """

    def __init__(
        self,
        attention: CrossTaskAttention,
        in_dim: int | None,
        dim: int,
        level_channels: int,
        mlp_ratio: int,
        norm_cfg: dict,
    ) -> None:
        super().__init__()
        self.up = self.skip = None
        if in_dim is not None:
            self.up = ModuleDict(
                {
                    task: ConvModule(in_dim, dim, 3, padding=1, norm_cfg=norm_cfg)
                    for task in attention.local
                }
            )
            self.skip = ConvModule(
                level_channels, dim, 1, norm_cfg=norm_cfg, act_cfg=None
            )
        self.norm1 = nn.LayerNorm(dim)
        self.attention = attention
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, mlp_ratio * dim)

    def forward(
        self,
        x: Tensor,
        level: Tensor,
        key_grid: tuple[int, int],
        before: Scores | None,
    ) -> tuple[Tensor, Scores | None]:
        """Run the stage.

        Shape:
            - x: (T * B, in_dim, h', w')
            - level: (B, level_channels, h, w)
            - output: (T * B, C, h, w)
        """
        size = (level.shape[2], level.shape[3])
        if self.up is not None and self.skip is not None:
            x = by_task(self.up, resize_to(x, size))
            x = (x.unflatten(0, (-1, len(level))) + self.skip(level)).flatten(0, 1)
        tokens = to_tokens(x)
        normed = to_map(self.norm1(tokens), size)
        out, scores = self.attention(normed, key_grid, before)
        tokens = tokens + to_tokens(resize_to(out, size))
        tokens = tokens + self.mlp(self.norm2(tokens))
        return to_map(tokens, size), scores


@MODELS.register_module()
class InvertedPyramidAttention(TaskInteraction):
    """The decoder of InvPT.

    Preliminary decoders read the coarsest level. Then one stage per level, from coarse
    to fine, with attention among the tokens of all tasks; the scores of a stage go on
    to the next. A task's pyramid has **one** map, of ``channels`` channels at the size
    of the finest level used: heads read it with ``in_channels=channels, in_index=0``
    (``[channels]`` and ``[0]`` where they take lists). First predictions: one map, of
    the coarsest level.

    Stage s holds H * T^2 * Q_s * K scores per image, T tasks with
    Q_s = ceil(h_s / 2) * ceil(w_s / 2) queries and K = ceil(h / 2) * ceil(w / 2) keys
    each, (h, w) being the coarsest level: about H * T^2 * h_s * w_s * h * w / 16.
    Training keeps them about three times (scores, mixed scores, softmax). With
    ``message_passing=False`` they are not held: ``scaled_dot_product_attention``.

    Batch norm, the default, cannot train on one image whose coarsest map is one pixel;
    ``norm_cfg=dict(type='GN', num_groups=1)`` can.

    Args:
        in_channels: Channels of each level of the shared pyramid, the largest first.
        tasks: Name of each dense task to the channels of its raw prediction; the
            segmentor fills it in.
        channels: Channels of a task's map.
        stages: Number of stages: so many of the coarsest levels are read (the paper
            has 3); None = all levels.
        stage_channels: Channels of the first stage, halved by each further one, or
            those of every stage; None = those of the coarsest level.
        num_heads: Attention heads H; a divisor of the channels of every stage.
        mlp_ratio: Hidden channels of the MLPs over those of the stage.
        message_passing: Whether scores go on to the next stage.
        norm_cfg: Norm layers of the convolutions; None = BN.
        init_cfg: As in mmengine.

    Shape:
        - input: (B, in_channels[i], h_i, w_i)
        - output: per task (B, channels, h, w), and (B, tasks[name], h_last, w_last)

    Raises:
        ValueError: If ``stages`` is out of range, or the channels of the stages do not
            fit their number or ``num_heads``.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        tasks: Mapping[str, int],
        channels: int = 128,
        stages: int | None = None,
        stage_channels: int | Sequence[int] | None = None,
        num_heads: int = 2,
        mlp_ratio: int = 4,
        message_passing: bool = True,
        norm_cfg: dict | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(in_channels, tasks, init_cfg)
        norm_cfg = norm_cfg or dict(type='BN')
        count = len(in_channels) if stages is None else stages
        if not 1 <= count <= len(in_channels):
            raise ValueError(
                f'InvertedPyramidAttention: stages={count}, expected 1 to '
                f'{len(in_channels)}, the levels of in_channels={list(in_channels)}. '
                'Change `stages` of the interaction.'
            )
        first = in_channels[-1] if stage_channels is None else stage_channels
        dims = _widths(first, count, num_heads)
        names = list(self.tasks)
        self.channels = channels
        self.preliminary = ModuleDict(
            {
                name: PreliminaryDecoder(self.in_channels[-1], dims[0], out, norm_cfg)
                for name, out in self.tasks.items()
            }
        )
        self.stages = ModuleList(
            UpStage(
                CrossTaskAttention(
                    names,
                    dim,
                    num_heads,
                    receives=message_passing and i > 0,
                    sends=message_passing and i + 1 < count,
                ),
                dims[i - 1] if i else None,
                dim,
                self.in_channels[-1 - i],
                mlp_ratio,
                norm_cfg,
            )
            for i, dim in enumerate(dims)
        )
        # Their results are added up: one bias is enough.
        self.reduce = ModuleList(
            nn.Conv2d(dim, channels, 1, bias=i == 0) for i, dim in enumerate(dims)
        )
        self.last = ModuleDict(
            {
                name: ConvModule(channels, channels, 3, padding=1, norm_cfg=norm_cfg)
                for name in names
            }
        )

    @property
    def out_channels(self) -> list[int]:
        """See :class:`TaskInteraction`."""
        return [self.channels]

    def forward(self, feats: Sequence[Tensor]) -> Exchanged:
        """See :meth:`TaskInteraction.forward`."""
        self.check(feats)
        levels = list(reversed(feats))[: len(self.stages)]
        starts, first = [], {}
        for task, decoder in self.preliminary.items():
            start, prediction = decoder(levels[0])
            starts.append(start)
            first[task] = [prediction]
        x = torch.cat(starts)
        key_grid = (-(-x.shape[2] // 2), -(-x.shape[3] // 2))
        size = (levels[-1].shape[2], levels[-1].shape[3])
        scores: Scores | None = None
        total = x.new_zeros(())
        for level, stage, reduce in zip(levels, self.stages, self.reduce, strict=True):
            x, scores = stage(x, level, key_grid, scores)
            total = total + resize_to(pointwise(reduce, x), size)
        parts = by_task(self.last, total).chunk(len(self.tasks))
        return {t: (part,) for t, part in zip(self.tasks, parts, strict=True)}, first


def _widths(first: int | Sequence[int], count: int, heads: int) -> list[int]:
    """Channels of every stage.

    Raises:
        ValueError: If their number is another one, or a width is no multiple of
            ``heads``.
    """
    dims = [first // 2**i for i in range(count)] if isinstance(first, int) else [*first]
    if heads < 1 or len(dims) != count or any(d < 1 or d % heads for d in dims):
        raise ValueError(
            f'InvertedPyramidAttention: the stages have {dims} channels, expected '
            f'{count} multiples of num_heads={heads}. Give stage_channels (of the '
            'first stage, which are halved, or of every stage), or change stages or '
            'num_heads of the interaction.'
        )
    return dims
