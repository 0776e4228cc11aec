"""Small fixtures in the format of the official ones, with values from plain forms.

The values are ours: what is tested with them is that a runner builds, converts strictly
and compares, not that a number is the official one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.reference_forms.mit import Block, PatchEmbed, tokens_to_map

from .fill import checksum, fill_state
from .fixture import Fixture

MIC = 'https://github.com/lhoyer/MIC'
LIBMTL = 'https://github.com/median-research-group/LibMTL'


def write(
    folder: Path,
    values: Mapping[str, Any],
    repository: str = MIC,
    in_words: bool = False,
    exact: Sequence[str] = (),
    **meta: Any,
) -> Fixture:
    """Write a fixture and read it again.

    Args:
        folder: Where to.
        values: What official code would have computed, by name.
        repository: Of that code.
        in_words: Whether tolerances are stated in words (in ``meta``) instead of
            beside each array.
        exact: What then has none.
        meta: Further entries of the JSON file.
    """
    arrays = {name: np.asarray(value) for name, value in values.items()}
    np.savez(folder / 'variant.npz', **arrays)
    beside: dict[str, dict] = {name: {} for name in arrays}
    for name, value in arrays.items():
        if in_words and name in exact:
            beside[name] = dict(compare='exact')
        elif not in_words and value.dtype.kind == 'f':
            beside[name] = dict(rtol=1e-4, atol=2e-5)
    meta = dict(repository=[repository], arrays=beside, **meta)
    path = folder / 'variant.json'
    path.write_text(json.dumps(meta))
    return Fixture('variant', json.loads(path.read_text()), path)


def filled(parts: Mapping[str, nn.Module]) -> dict[str, Any]:
    """Fill modules by the rule, in eval mode; what a fixture says about them.

    Args:
        parts: Prefix of the official keys to the module that has them.
    """
    shapes = {
        prefix + key: list(value.shape)
        for prefix, part in parts.items()
        for key, value in part.state_dict().items()
    }
    state = fill_state(shapes)
    for prefix, part in parts.items():
        own = {k.removeprefix(prefix): v for k, v in state.items() if prefix in k}
        part.load_state_dict(own, strict=True)
        part.eval()
    return dict(state_dict=shapes, fill_checksum=checksum(state))


class PublishedMiT(nn.Module):
    """MiT-B0 under official names."""

    def __init__(self) -> None:
        super().__init__()
        dims, heads, ratios = (32, 64, 160, 256), (1, 2, 5, 8), (8, 4, 2, 1)
        before = (3, *dims)
        for i, (dim, count, ratio) in enumerate(zip(dims, heads, ratios, strict=True)):
            size = (7, 4) if i == 0 else (3, 2)
            blocks = nn.ModuleList(Block(dim, count, ratio, 0.0) for _ in range(2))
            self.add_module(f'patch_embed{i + 1}', PatchEmbed(before[i], dim, *size))
            self.add_module(f'block{i + 1}', blocks)
            self.add_module(f'norm{i + 1}', nn.LayerNorm(dim, eps=1e-6))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for i in range(1, 5):
            tokens, h, w = getattr(self, f'patch_embed{i}')(x)
            for block in getattr(self, f'block{i}'):
                tokens = block(tokens, h, w)
            x = tokens_to_map(getattr(self, f'norm{i}')(tokens), h, w)
            maps.append(x)
        return maps


def fuse(
    context: Tensor, detail: Tensor, attention: Tensor, box: Sequence[int] | None = None
) -> dict[str, Tensor]:
    """HRDA's fusion of maps at stride 4, the context at half of the resolution.

    Args:
        context: Logits (B, C, H / 8, W / 8).
        detail: Logits of the crop at stride 4.
        attention: Logits of its share.
        box: y1, y2, x1, x2 of the crop; None = the detail is that of all.
    """
    share = attention.sigmoid()
    height, width = (2 * side for side in context.shape[2:])
    if box is None:
        limited, placed = share, detail
    else:
        limited = torch.zeros_like(share)
        y1, y2, x1, x2 = (edge // 8 for edge in box)
        limited[..., y1:y2, x1:x2] = share[..., y1:y2, x1:x2]
        placed = detail.new_zeros(*detail.shape[:2], height, width)
        y1, y2, x1, x2 = (edge // 4 for edge in box)
        placed[..., y1:y2, x1:x2] = detail

    def up(x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode='bilinear')

    rest = (1 - limited) * context
    fused = up(limited) * placed + up(rest)
    return dict(fused=fused, lr_scaled=rest, hr=detail, attention=share)
