"""Swin Transformer, the encoder with shifted windows.

Paper: Swin Transformer, 2021, https://arxiv.org/abs/2103.14030. Official code:
https://github.com/microsoft/Swin-Transformer (MIT). Written from the paper, nothing is
copied.

Differences, none of which changes a number: see :mod:`.windows` and
:mod:`.window_attention`; the MLP takes some tokens at a time where it can.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from .drop_path import DropPath, linear_drop_path
from .gelu_linear import gelu_linear
from .slices import inference_slices, is_plain
from .swin_sizes import SwinVariant, swin_variant
from .tokens import to_map, to_tokens
from .window_attention import WindowAttention
from .windows import Windows

Size = tuple[int, int]


class PatchEmbed(nn.Module):
    """Convolution over patches of 4 x 4 pixels, then LayerNorm over the channels."""

    def __init__(self, in_channels: int, dim: int, eps: float) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, 4, 4)
        self.norm = nn.LayerNorm(dim, eps=eps)

    def forward(self, x: Tensor) -> tuple[Tensor, Size]:
        """Return tokens (B, N, C) and the size of their map; pads up to whole patches.

        Shape:
            - x: (B, in_channels, H, W)
        """
        below, right = -x.shape[2] % 4, -x.shape[3] % 4
        if below or right:
            x = F.pad(x, (0, right, 0, below))
        x = self.proj(x)
        return self.norm(to_tokens(x)), (x.shape[2], x.shape[3])


class PatchMerging(nn.Module):
    """Four neighbours become one token of twice the channels."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim, eps=eps)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor, size: Size) -> tuple[Tensor, Size]:
        """(B, N, C) to (B, N / 4, 2C); odd sizes are padded with zeros."""
        x = x.unflatten(1, size)
        below, right = size[0] % 2, size[1] % 2
        if below or right:
            x = F.pad(x, (0, 0, 0, right, 0, below))
        # Published order of the four: down first, then right.
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 1, 3, 4, 2, 5)
        size = (x.shape[1], x.shape[2])
        return self.reduction(self.norm(x.flatten(3).flatten(1, 2))), size


class MLP(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) to (B, N, C)."""
        return gelu_linear(self.fc1(x), self.fc2)


class SwinBlock(nn.Module):
    """Window attention and MLP, each pre-normed with a residual branch.

    A fusion can be put between the halves: :meth:`attend` gives what the first
    residual is going to add, :meth:`feed_forward` does the second half.

    Args:
        dim: Channels C.
        heads: Attention heads.
        window: Tokens per side of a window.
        shifted: Whether the windows are shifted by half of their side.
        drop_path: Rate.
        eps: Of both LayerNorms.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        window: int,
        shifted: bool,
        drop_path: float = 0.0,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.shift = window // 2 if shifted else 0
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = WindowAttention(dim, heads, window)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = MLP(dim, 4 * dim)
        self.drop_path = DropPath(drop_path)

    def attend(self, x: Tensor, windows: Windows) -> Tensor:
        """Attention of the normed tokens, without drop path and residual.

        Args:
            x: Tokens.
            windows: Of their map and this block's ``shift``, see
                :meth:`SwinStage.windows`.

        Shape:
            - x: (B, N, C), output: as ``x``.
        """
        return self.attn(self.norm1(x), windows)

    def feed_forward(self, x: Tensor) -> Tensor:
        """Second half with drop path and residual; (B, N, C) to (B, N, C)."""
        if is_plain(self.mlp.fc1, self.mlp.fc2):
            rows, hidden = x[..., 0].numel(), self.mlp.fc1.out_features
            slices = inference_slices(x, rows, hidden)
            if len(slices) > 1:
                return self._in_slices(x, slices)
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _in_slices(self, x: Tensor, slices: list[slice]) -> Tensor:
        """The same for some tokens at a time, whose hidden channels fit a cache."""
        fc1, fc2 = self.mlp.fc1, self.mlp.fc2
        tokens = x.flatten(0, 1)
        out = tokens + fc2.bias
        for part in slices:
            hidden = fc1(self.norm2(tokens[part]))
            out[part].addmm_(torch.ops.aten.gelu_(hidden), fc2.weight.t())
        return out.view(x.shape)

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """(B, N, C) to (B, N, C)."""
        x = x + self.drop_path(self.attend(x, windows))
        return self.feed_forward(x)


class SwinStage(nn.Module):
    """Blocks that shift in turn, the norm of the output, and the way to the next stage.

    The norm is for the output alone: the next stage reads the plain tokens.

    Args:
        dim: Channels C.
        heads: Attention heads.
        window: Tokens per side of a window.
        drop_path: One rate per block.
        eps: Of every LayerNorm.
        last: Whether no stage follows.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        window: int,
        drop_path: Sequence[float],
        eps: float = 1e-5,
        last: bool = False,
    ) -> None:
        super().__init__()
        self.window = window
        self.blocks: Any = nn.ModuleList(
            SwinBlock(dim, heads, window, bool(i % 2), rate, eps)
            for i, rate in enumerate(drop_path)
        )
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.downsample = None if last else PatchMerging(dim, eps)

    def windows(self, size: Size, device: torch.device) -> dict[int, Windows]:
        """Windows of a map by the shift of a block; the blocks share them."""
        shifts = {block.shift for block in self.blocks}
        return {s: Windows.cut(size, self.window, s, device) for s in sorted(shifts)}

    def forward(self, x: Tensor, size: Size) -> Tensor:
        """Run the blocks; (B, N, C) to (B, N, C), not normed."""
        windows = self.windows(size, x.device)
        for block in self.blocks:
            x = block(x, windows[block.shift])
        return x

    def normed(self, x: Tensor) -> Tensor:
        """Norm a map, (B, C, H, W) to (B, C, H, W)."""
        return to_map(self.norm(to_tokens(x)), (x.shape[2], x.shape[3]))


class Swin(BaseModule):
    """Swin Transformer without the classifier.

    Args:
        variant: ``'swin_t'``, ``'swin_s'``, ``'swin_b'``, ``'swin_l'``,
            ``'swin_b_384'``, ``'swin_l_384'``, or fields of :class:`SwinVariant`.
        in_channels: Channels of the input.
        drop_path_rate: Of the last block; grows linearly from 0.
        norm_eps: Of every LayerNorm.
        init_cfg: As in mmengine; None = Swin's initialisation.

    Shape:
        - input: (B, in_channels, H, W)
        - output: one map (B, embed_dims[i], H / 4 / 2**i, W / 4 / 2**i) per stage,
          rounded up, normed

    Raises:
        ValueError: If the variant is unknown or does not fit.
    """

    def __init__(
        self,
        variant: str | SwinVariant | Mapping[str, Any] = 'swin_t',
        in_channels: int = 3,
        drop_path_rate: float = 0.2,
        norm_eps: float = 1e-5,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        size = swin_variant(variant)
        self.embed_dims = size.embed_dims
        self.patch_embed = PatchEmbed(in_channels, size.embed_dim, norm_eps)
        rates = linear_drop_path(drop_path_rate, size.depths)
        last = len(size.depths) - 1
        self.stages: Any = nn.ModuleList(
            SwinStage(dim, heads, size.window, rates[i], norm_eps, last=i == last)
            for i, (dim, heads) in enumerate(
                zip(size.embed_dims, size.num_heads, strict=True)
            )
        )

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the output maps."""
        return self.embed_dims

    def init_weights(self) -> None:
        """Swin's initialisation, or ``init_cfg`` where one is given.

        Linear layers and position biases: truncated normal, standard deviation 0.02.
        """
        if self.init_cfg:
            super().init_weights()
            return
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            elif isinstance(module, WindowAttention):
                nn.init.trunc_normal_(module.relative_position_bias_table, std=0.02)

    def forward_plain(self, x: Tensor) -> Generator[Tensor, Tensor | None, None]:
        """Yield each stage's map, not normed; continue from what ``send()`` brings.

        ``None`` (what a plain ``for`` loop sends) continues from the yielded map.
        """
        tokens, size = self.patch_embed(x)
        for stage in self.stages:
            level = to_map(stage(tokens, size), size)
            replacement = yield level
            tokens = to_tokens(level if replacement is None else replacement)
            if stage.downsample is not None:
                tokens, size = stage.downsample(tokens, size)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Run all stages; the maps are normed."""
        return tuple(
            stage.normed(level)
            for stage, level in zip(self.stages, self.forward_plain(x), strict=True)
        )
