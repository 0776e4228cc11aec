"""Fixtures that tests make, in the format of the official ones.

Their numbers come from published forms and plain formulas, not from official code: what
is tested with them is that the runners build a variant, convert its weights strictly
and compare.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.reference_forms.mit import Block, PatchEmbed, tokens_to_map

from .fill import checksum, fill_state, make_uniform
from .fixture import Fixture, NoRunner
from .runners import run_and_compare

# Of the official fixtures.
RTOL, ATOL = 1e-4, 5e-5
SIZE = (40, 72)
MIC = 'https://github.com/lhoyer/MIC'
LIBMTL = 'https://github.com/median-research-group/LibMTL'


def compared(fixture: Fixture, inputs: str = '') -> list[str]:
    """Run and compare; the names of what has been compared.

    Args:
        fixture: With a runner for all of it.
        inputs: Pattern of the names of arrays that are given, which are left out.
    """
    names = run_and_compare(fixture)
    return sorted(name for name in names if not re.fullmatch(inputs, name))


def official_shapes(form: nn.Module) -> dict[str, list[int]]:
    """Official keys and shapes, with the constants of a Swin."""
    shapes = {key: list(value.shape) for key, value in form.state_dict().items()}
    for key in [key for key in shapes if key.endswith('relative_position_bias_table')]:
        side = (round(shapes[key][0] ** 0.5) + 1) // 2
        shapes[key.replace('bias_table', 'index')] = [side**2, side**2]
    return shapes


def norm_eps(form: nn.Module) -> dict[str, list[str]]:
    """Names of the norm layers by eps."""
    eps: dict[str, list[str]] = {}
    for name, module in form.named_modules():
        if isinstance(module, (nn.LayerNorm, nn.BatchNorm2d)):
            eps.setdefault(str(module.eps), []).append(name)
    return eps


def config_of(read: Callable[[Fixture], dict], fixture: Fixture) -> dict:
    """The config that the runner reads from a fixture.

    What has no runner is listed by ``test_parity`` as an expected failure; a test of a
    published form is listed as skipped then.
    """
    try:
        return read(fixture)
    except NoRunner as reason:
        pytest.skip(str(reason))


def make_meta(
    form: nn.Module,
    repository: str,
    constructor: Mapping[str, Any],
    streams: Sequence[str],
    case: str = 'c',
    small: bool = False,
) -> dict[str, Any]:
    """What the JSON file says, but for the checksum and the outputs.

    Args:
        form: Published form, whose names are the official ones.
        repository: As the fixture spells it.
        constructor: Settings; ``backbone`` is the variant.
        streams: Names of the inputs, three channels each, in the official order.
        case: Name of the only case.
        small: See :func:`fill_state`.
    """
    inputs = [
        dict(name=f'{case}.{stream}', stream=stream, shape=[1, 3, *SIZE])
        for stream in streams
    ]
    return dict(
        repository=repository,
        variant=constructor['backbone'],
        constructor=dict(constructor),
        state_dict=official_shapes(form),
        norm_eps=norm_eps(form),
        cases={case: dict(small=small, inputs=inputs)},
    )


def make_fixture(
    folder: Path,
    form: nn.Module,
    meta: dict[str, Any],
    compute: Callable[[nn.Module, list[Tensor]], Mapping[str, Tensor]] | None = None,
) -> Fixture:
    """Fill the form, compute its outputs and write both files.

    Args:
        folder: For the files.
        form: Published form.
        meta: See :func:`make_meta`.
        compute: From the form and the inputs to outputs by name without the case;
            None = the logits.
    """
    ((case, spec),) = meta['cases'].items()
    kind = 'fill_checksum_small' if spec['small'] else 'fill_checksum'
    meta[kind] = checksum(fill_state(meta['state_dict'], spec['small']))
    fixture = Fixture('made', meta, folder / 'made.json')
    missing, extra = form.load_state_dict(fixture.official_state(case), strict=False)
    # Weights that only train belong to no form.
    assert not missing
    assert all(key.startswith('aux_head.') for key in extra), extra
    inputs = list(fixture.inputs(case).values())
    compute = compute or (lambda net, xs: dict(logits=net(torch.cat(xs, 1))))
    with torch.no_grad():
        computed = compute(form.eval(), inputs)
    outputs = {f'{case}_{name}': value for name, value in computed.items()}
    np.savez(fixture.path.with_suffix('.npz'), **outputs)
    meta['outputs'] = {name: dict(rtol=RTOL, atol=ATOL) for name in outputs}
    fixture.path.write_text(json.dumps(meta))
    return Fixture('made', json.loads(fixture.path.read_text()), fixture.path)


def write_fixture(
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


def uda(
    folder: Path, arrays: dict[str, Any], exact: tuple = (), **sections: Any
) -> Fixture:
    """One of adaptation, with tolerances in words, as the official one states them."""
    return write_fixture(
        folder,
        arrays,
        in_words=True,
        exact=exact,
        tolerance={'masks': 'exact', 'others': 'rtol 1e-5, atol 1e-6'},
        sections=sections,
    )


def make_labels(name: str, shape: list[int], top: int = 5) -> Tensor:
    """Classes from 0 to top, which may stand for the ignored one."""
    return (make_uniform(name, shape) * (top + 1)).long()


def fill_parts(parts: Mapping[str, nn.Module]) -> dict[str, Any]:
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
        own = {
            k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)
        }
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
