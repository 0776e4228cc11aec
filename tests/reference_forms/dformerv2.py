"""DFormerv2 as published, written plainly: masks per block and head, explicit softmax.

Parameters carry the official names and shapes, so that official weights load as they
are; a parity fixture shows that the numbers are the official ones. The head is mmseg's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_xmodal.models.converters.dformerv2 import dformerv2_key
from mmseg_xmodal.models.layers.dformerv2_sizes import (
    DFormerv2Variant,
    dformerv2_variant,
)

from .ham_head import published_ham_head
from .mit import DropPath


class DWConv2d(nn.Module):
    """Depth-wise convolution of (B, H, W, C)."""

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel, 1, kernel // 2, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.dwconv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class Prior(nn.Module):
    """Rotary angles and the masks of one block."""

    def __init__(self, dim: int, heads: int, decay_range: float, full: bool) -> None:
        super().__init__()
        self.full = full
        self.weight = nn.Parameter(torch.ones(2, 1, 1, 1))
        angle = 1.0 / (10000 ** torch.linspace(0, 1, dim // heads // 2))
        angle = angle.unsqueeze(-1).repeat(1, 2).flatten()
        rates = decay_range * torch.arange(heads) / heads
        self.register_buffer('angle', angle, persistent=False)
        self.register_buffer(
            'decay', torch.log(1 - 2 ** (-2 - rates)), persistent=False
        )

    def mask(self, place: Tensor, depth: Tensor) -> Tensor:
        """``place`` (L, L), ``depth`` (..., L); (..., heads, L, L)."""
        apart = (depth[..., :, None] - depth[..., None, :]).abs()
        both = self.weight[0] * place + self.weight[1].squeeze() * apart
        return both.unsqueeze(-3) * self.decay[:, None, None]

    def forward(self, size, depth: Tensor):
        h, w = size
        depth = F.interpolate(depth, size, mode='bilinear', align_corners=False)[:, 0]
        index = torch.arange(h * w, device=depth.device).to(self.angle)
        phase = index[:, None] * self.angle[None, :]
        rotary = (phase.sin().reshape(h, w, -1), phase.cos().reshape(h, w, -1))
        rows, columns = index[:h], index[:w]
        if self.full:
            grid = torch.stack(torch.meshgrid(rows, columns, indexing='ij'), -1)
            grid = grid.reshape(h * w, 2)
            place = (grid[:, None, :] - grid[None, :, :]).abs().sum(-1)
            return rotary, self.mask(place, depth.flatten(1))
        of_rows = self.mask((columns[:, None] - columns[None]).abs(), depth)
        of_columns = self.mask((rows[:, None] - rows[None]).abs(), depth.mT)
        return rotary, (of_rows, of_columns)


def rotate_every_two(x: Tensor) -> Tensor:
    return torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)


def shift(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """``x`` (B, heads, H, W, d)."""
    sin, cos = rotary
    return x * cos + rotate_every_two(x) * sin


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.lepe = DWConv2d(dim, 5)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rotary, mask) -> Tensor:
        b, h, w, c = x.shape
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        lepe = self.lepe(v)
        k = k * (c // self.heads) ** -0.5
        q = q.view(b, h, w, self.heads, -1).permute(0, 3, 1, 2, 4)
        k = k.view(b, h, w, self.heads, -1).permute(0, 3, 1, 2, 4)
        q, k = shift(q, rotary), shift(k, rotary)
        if isinstance(mask, tuple):
            of_rows, of_columns = mask
            v = v.reshape(b, h, w, self.heads, -1).permute(0, 1, 3, 2, 4)
            scores = q.transpose(1, 2) @ k.transpose(1, 2).mT + of_rows
            v = scores.softmax(-1) @ v  # (B, H, heads, W, d)
            v = v.permute(0, 3, 2, 1, 4)
            q, k = q.permute(0, 3, 1, 2, 4), k.permute(0, 3, 1, 2, 4)
            scores = q @ k.mT + of_columns
            out = (scores.softmax(-1) @ v).permute(0, 3, 1, 2, 4)
        else:
            v = v.reshape(b, h * w, self.heads, -1).transpose(1, 2)
            scores = q.flatten(2, 3) @ k.flatten(2, 3).mT + mask
            out = (scores.softmax(-1) @ v).transpose(1, 2)
        return self.out_proj(out.reshape(b, h, w, c) + lepe)


class FFN(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.dwconv = DWConv2d(hidden, 3)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.fc1(x))
        return self.fc2(self.dwconv(x) + x)


class Block(nn.Module):
    """One block of stage ``i``."""

    def __init__(self, size: DFormerv2Variant, i: int, drop_path: float) -> None:
        super().__init__()
        dim, heads = size.embed_dims[i], size.num_heads[i]
        self.cnn_pos_encode = DWConv2d(dim, 3)
        self.layer_norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.Geo = Prior(dim, heads, size.ranges[i], size.full[i])
        self.Attention = Attention(dim, heads)
        self.layer_norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.ffn = FFN(dim, size.mlp_ratios[i] * dim)
        self.drop_path = DropPath(drop_path)
        self.scaled = size.layer_scale[i]
        if self.scaled:
            self.gamma_1 = nn.Parameter(torch.full((1, 1, 1, dim), 1e-6))
            self.gamma_2 = nn.Parameter(torch.full((1, 1, 1, dim), 1e-6))

    def forward(self, x: Tensor, depth: Tensor) -> Tensor:
        x = x + self.cnn_pos_encode(x)
        prior = self.Geo(x.shape[1:3], depth)
        y = self.Attention(self.layer_norm1(x), *prior)
        x = x + self.drop_path(self.gamma_1 * y if self.scaled else y)
        y = self.ffn(self.layer_norm2(x))
        return x + self.drop_path(self.gamma_2 * y if self.scaled else y)


class Downsample(nn.Module):
    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.reduction = nn.Conv2d(dim, out_dim, 3, 2, 1)
        self.norm = nn.BatchNorm2d(out_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.reduction(x.permute(0, 3, 1, 2)))
        return x.permute(0, 2, 3, 1)


class Stage(nn.Module):
    def __init__(self, size: DFormerv2Variant, i: int, drop_paths) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(size, i, rate) for rate in drop_paths)
        self.downsample = None
        if i < 3:
            self.downsample = Downsample(*size.embed_dims[i : i + 2])


class PatchEmbed(nn.Module):
    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        half = dim // 2
        self.proj = nn.Sequential(
            nn.Conv2d(width, half, 3, 2, 1),
            nn.BatchNorm2d(half),
            nn.GELU(),
            nn.Conv2d(half, half, 3, 1, 1),
            nn.BatchNorm2d(half),
            nn.GELU(),
            nn.Conv2d(half, dim, 3, 2, 1),
            nn.BatchNorm2d(dim),
            nn.GELU(),
            nn.Conv2d(dim, dim, 3, 1, 1),
            nn.BatchNorm2d(dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).permute(0, 2, 3, 1)


class Backbone(nn.Module):
    """Maps of four stages under official names."""

    def __init__(self, size: DFormerv2Variant, width: int, drop_paths) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(width, size.embed_dims[0])
        self.layers = nn.ModuleList(Stage(size, i, drop_paths[i]) for i in range(4))
        self.extra_norms = nn.ModuleList(nn.LayerNorm(d) for d in size.embed_dims[1:])

    def forward(self, x: Tensor, depth: Tensor) -> list[Tensor]:
        x = self.patch_embed(x)
        outs = []
        for i, stage in enumerate(self.layers):
            for block in stage.blocks:
                x = block(x, depth)
            out = self.extra_norms[i - 1](x) if i else x
            outs.append(out.permute(0, 3, 1, 2).contiguous())
            if stage.downsample is not None:
                x = stage.downsample(x)
        return outs


class PublishedDFormerv2(nn.Module):
    """The whole network, from the stacked input to the low-resolution logits.

    Args:
        variant: As in our ``DFormerv2``.
        head: Published form of the head.
        image: Slices of the stacked input that are the image.
        depth: Slice of the channel that is the prior.
        drop_paths: Rates by stage and block.
    """

    def __init__(
        self, variant, head: nn.Module, image=None, depth=None, drop_paths=None
    ) -> None:
        super().__init__()
        size = dformerv2_variant(variant)
        self.image, self.depth = image or [slice(0, 3)], depth or slice(3, 4)
        width = sum(s.stop - s.start for s in self.image)
        none = [[0.0] * count for count in size.depths]
        self.backbone = Backbone(size, width, drop_paths or none)
        self.decode_head = head

    def load_from(self, model: nn.Module) -> None:
        """Take the weights of a segmentor of ours, strictly."""
        ours, own = model.state_dict(), self.state_dict()
        names = {dformerv2_key(name): name for name in own}
        assert names.keys() == ours.keys(), sorted(names.keys() ^ ours.keys())[:10]
        state = {names[k]: v.view_as(own[names[k]]) for k, v in ours.items()}
        self.load_state_dict(state, strict=True)

    def forward(self, x: Tensor) -> Tensor:
        image = torch.cat([x[:, s] for s in self.image], 1)
        return self.decode_head(self.backbone(image, x[:, self.depth]))


def build_published_dformerv2(model: nn.Module) -> PublishedDFormerv2:
    """Build the published form with the settings and weights of a segmentor of ours.

    Args:
        model: ``EncoderDecoder`` with ``DFormerv2``, whose prior has one channel, and
            ``HamHead``. Validity, which the published form does not know, must be 1
            everywhere.
    """
    backbone = model.backbone
    layout, streams = backbone.input.layout, list(backbone.input.streams.values())
    (prior,) = streams[1]
    rates = [
        [block.drop_path.rate for block in stage] for stage in backbone.encoder.stages
    ]
    published = PublishedDFormerv2(
        backbone.variant,
        published_ham_head(model.decode_head),
        [layout.value_slice(name) for name in streams[0]],
        layout.value_slice(prior),
        rates,
    )
    published.load_from(model)
    reference = next(model.parameters())
    return published.to(reference.device).train(model.training)
