"""Fixtures that tests make of a published form, as official code would make them.

Their numbers prove nothing about official code: what they test is that the runners
build a variant, convert its weights strictly and compare.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from .fill import checksum, fill_state
from .fixture import Fixture, NoRunner

# Of the official fixtures.
RTOL, ATOL = 1e-4, 5e-5
SIZE = (40, 72)


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
