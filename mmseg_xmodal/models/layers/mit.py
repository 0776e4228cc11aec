"""Mix Transformer (MiT), the encoder of SegFormer.

Paper: SegFormer, 2021, https://arxiv.org/abs/2105.15203. Official code:
https://github.com/NVlabs/SegFormer (NVIDIA Source Code License, non-commercial; so are
its ImageNet weights). Written from the paper, nothing is copied.

Differences, none of which changes a number: attention runs in
``scaled_dot_product_attention`` (no N x M matrix is kept), keys and values are reduced
by a matrix product on patches, tokens and maps are views of the same memory, and the
eps of each LayerNorm is a setting, because official code bases disagree about it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmseg_xmodal.registry import MODELS

from .drop_path import DropPath, linear_drop_path
from .gelu_linear import gelu_linear
from .initialisation import segformer_init
from .patch_conv import patch_conv
from .slices import inference_slices, is_plain
from .tokens import to_map, to_tokens
from .variants import look_up


@dataclasses.dataclass(frozen=True)
class MiTVariant:
    """Size of a MiT.

    Args:
        embed_dims: Channels of each stage.
        depths: Blocks of each stage.
        num_heads: Attention heads of each stage.
        sr_ratios: Reduction of keys and values, per side, of each stage.

    Raises:
        ValueError: If the lengths differ, or channels are no multiple of heads.
    """

    embed_dims: tuple[int, ...]
    depths: tuple[int, ...]
    num_heads: tuple[int, ...] = (1, 2, 5, 8)
    sr_ratios: tuple[int, ...] = (8, 4, 2, 1)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, tuple(getattr(self, field.name)))
        lengths = {f.name: len(getattr(self, f.name)) for f in dataclasses.fields(self)}
        if len(set(lengths.values())) > 1:
            raise ValueError(
                f'variant has the lengths {lengths}, expected equal ones (one entry '
                'per stage). Change `variant` of the backbone.'
            )
        for dim, heads in zip(self.embed_dims, self.num_heads, strict=True):
            if dim % heads:
                raise ValueError(
                    f'variant has embed_dims={self.embed_dims} and '
                    f'num_heads={self.num_heads}: {dim} is no multiple of {heads}. '
                    'Change `variant` of the backbone.'
                )


_WIDE = (64, 128, 320, 512)
MIT_VARIANTS: dict[str, MiTVariant] = {
    'mit_b0': MiTVariant((32, 64, 160, 256), (2, 2, 2, 2)),
    'mit_b1': MiTVariant(_WIDE, (2, 2, 2, 2)),
    'mit_b2': MiTVariant(_WIDE, (3, 4, 6, 3)),
    'mit_b3': MiTVariant(_WIDE, (3, 4, 18, 3)),
    'mit_b4': MiTVariant(_WIDE, (3, 8, 27, 3)),
    'mit_b5': MiTVariant(_WIDE, (3, 6, 40, 3)),
}


def mit_variant(variant: str | MiTVariant | Mapping[str, Any]) -> MiTVariant:
    """Look a size up.

    Args:
        variant: Name, fields of :class:`MiTVariant`, or one itself.

    Raises:
        ValueError: If the name is unknown, or the fields do not fit.
    """
    return look_up(variant, MiTVariant, MIT_VARIANTS, 'MiT')


@dataclasses.dataclass(frozen=True)
class NormEps:
    """Epsilon of each LayerNorm by place.

    The defaults are those of SegFormer and CMX. CMNeXt uses 1e-5 everywhere, mmseg and
    GeminiFusion 1e-6 everywhere.
    """

    patch: float = 1e-5
    reduction: float = 1e-5
    block: float = 1e-6
    stage: float = 1e-6


class PatchEmbed(nn.Module):
    """Overlapping strided convolution, then LayerNorm over the channels."""

    def __init__(
        self, in_channels: int, dim: int, kernel: int, stride: int, eps: float
    ) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, kernel, stride, kernel // 2)
        self.norm = nn.LayerNorm(dim, eps=eps)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return tokens (B, N, C) and the size of their map."""
        x = self.proj(x)
        return self.norm(to_tokens(x)), (x.shape[2], x.shape[3])


class ReducedAttention(nn.Module):
    """Self-attention whose keys and values come from a smaller map.

    Args:
        dim: Channels.
        heads: Attention heads; ``dim`` is a multiple.
        sr_ratio: Reduction per side; 1 = none.
        eps: Of the LayerNorm after the reduction.
    """

    def __init__(self, dim: int, heads: int, sr_ratio: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.sr_ratio = sr_ratio
        self.sr: nn.Module | None = None
        if sr_ratio > 1:
            self.sr = nn.Conv2d(dim, dim, sr_ratio, sr_ratio)
            self.norm = nn.LayerNorm(dim, eps=eps)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Attend from all tokens to the reduced ones; (B, N, C) to (B, N, C)."""
        q = self.q(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
        source = x
        if self.sr is not None:
            source = self.norm(patch_conv(self.sr, x, size))
        kv = self.kv(source).unflatten(2, (2, self.heads, -1))
        k, v = kv.permute(2, 0, 3, 1, 4)
        if self.heads == 1:
            # Attention weights sum to 1, so projecting the few values instead of the
            # many outputs is the same, bias included.
            return F.scaled_dot_product_attention(q, k, self.proj(v)).squeeze(1)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).flatten(2))


class MixFFN(nn.Module):
    """Linear, depth-wise 3x3 convolution, GELU, linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Mix each token with its eight neighbours; (B, N, C) to (B, N, C)."""
        if is_plain(self.fc1, self.dwconv, self.fc2):
            slices = inference_slices(x, self.fc1.out_features, x[..., 0].numel())
            if len(slices) > 1:
                return self._in_slices(x, size, slices)
        x = self.dwconv(to_map(self.fc1(x), size))
        return gelu_linear(to_tokens(x), self.fc2)

    def _in_slices(
        self, x: Tensor, size: tuple[int, int], slices: list[slice]
    ) -> Tensor:
        """The same: hidden channels meet only in the sum of ``fc2``."""
        tokens = x.flatten(0, 1)
        out = self.fc2.bias.expand(len(tokens), -1).clone()
        bias: Any = self.dwconv.bias
        for part in slices:
            weight = self.dwconv.weight[part]
            hidden = torch.addmm(
                self.fc1.bias[part], tokens, self.fc1.weight[part].t()
            ).view(*x.shape[:2], -1)
            hidden = F.conv2d(
                to_map(hidden, size), weight, bias[part], padding=1, groups=len(weight)
            )
            hidden = to_tokens(torch.ops.aten.gelu_(hidden)).flatten(0, 1)
            out.addmm_(hidden, self.fc2.weight[:, part].t())
        return out.view(x.shape)


class MiTBlock(nn.Module):
    """Attention and MixFFN, each pre-normed with a residual branch."""

    def __init__(
        self,
        dim: int,
        heads: int,
        sr_ratio: int,
        mlp_ratio: int,
        drop_path: float,
        eps: NormEps,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps.block)
        self.attn = ReducedAttention(dim, heads, sr_ratio, eps.reduction)
        self.norm2 = nn.LayerNorm(dim, eps=eps.block)
        self.mlp = MixFFN(dim, mlp_ratio * dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, N, C) to (B, N, C)."""
        x = x + self.drop_path(self.attn(self.norm1(x), size))
        return x + self.drop_path(self.mlp(self.norm2(x), size))


class MiTStage(nn.Module):
    """Patch embedding, blocks and the norm of one stage."""

    def __init__(
        self, patch_embed: PatchEmbed, blocks: Sequence[MiTBlock], norm: nn.LayerNorm
    ) -> None:
        super().__init__()
        self.patch_embed = patch_embed
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, C, ceil(H / stride), ceil(W / stride))."""
        x, size = self.patch_embed(x)
        for block in self.blocks:
            x = block(x, size)
        return to_map(self.norm(x), size)


@MODELS.register_module()
class MixTransformer(BaseModule):
    """MiT-B0 to B5, stage by stage.

    Args:
        variant: ``'mit_b0'`` to ``'mit_b5'``, or fields of :class:`MiTVariant`.
        in_channels: Channels of the input.
        drop_path_rate: Of the last block; grows linearly from 0.
        drop_path: One rate per block (list of lists); replaces ``drop_path_rate``.
        norm_eps: :class:`NormEps`, or a dict of its fields.
        mlp_ratio: Hidden channels of MixFFN per channel.
        init_cfg: As in mmengine; None = SegFormer's initialisation.

    Shape:
        - input: (B, in_channels, H, W)
        - output: four maps (B, embed_dims[i], H / 4 / 2**i, W / 4 / 2**i), rounded up

    Raises:
        ValueError: If the variant is unknown, or ``drop_path`` has another shape than
            the depths.
    """

    def __init__(
        self,
        variant: str | MiTVariant | Mapping[str, Any] = 'mit_b0',
        in_channels: int = 3,
        drop_path_rate: float = 0.1,
        drop_path: Sequence[Sequence[float]] | None = None,
        norm_eps: NormEps | dict | None = None,
        mlp_ratio: int = 4,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        size = mit_variant(variant)
        eps = norm_eps if isinstance(norm_eps, NormEps) else NormEps(**norm_eps or {})
        rates = drop_path or linear_drop_path(drop_path_rate, size.depths)
        if tuple(len(r) for r in rates) != tuple(size.depths):
            raise ValueError(
                f'drop_path has {[len(r) for r in rates]} rates per stage, expected '
                f'{list(size.depths)} (the depths of variant={variant!r}).'
            )
        self.embed_dims = tuple(size.embed_dims)
        self.stages = nn.ModuleList()
        for i, dim in enumerate(size.embed_dims):
            kernel, stride = (7, 4) if i == 0 else (3, 2)
            embed = PatchEmbed(in_channels, dim, kernel, stride, eps.patch)
            heads, ratio = size.num_heads[i], size.sr_ratios[i]
            blocks = [
                MiTBlock(dim, heads, ratio, mlp_ratio, rate, eps) for rate in rates[i]
            ]
            norm = nn.LayerNorm(dim, eps=eps.stage)
            self.stages.append(MiTStage(embed, blocks, norm))
            in_channels = dim

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the output maps."""
        return self.embed_dims

    def init_weights(self) -> None:
        """SegFormer's initialisation, or ``init_cfg`` where one is given."""
        if self.init_cfg:
            super().init_weights()
        else:
            segformer_init(self)

    def forward_stages(self, x: Tensor) -> Generator[Tensor, Tensor | None, None]:
        """Yield each stage's map; continue from the map that ``send()`` hands back.

        ``None`` (what a plain ``for`` loop sends) continues from the yielded map.
        """
        for stage in self.stages:
            x = stage(x)
            replacement = yield x
            x = x if replacement is None else replacement

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Run all stages without exchange."""
        return tuple(self.forward_stages(x))
