"""The decode head of DAFormer on given features."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmseg_xmodal.models.converters.daformer import daformer_head_config, daformer_key
from mmseg_xmodal.registry import MODELS

from ..fill import checksum, fill_state, make_input
from ..fixture import Fixture, NoRunner

# Fusions of the official code that we do not have, by how their keys begin. Of the
# second the keys are a guess: a plain convolution before the dilated ones.
OTHERS = {
    'isa': r'fuse_layer\.(\w+\.)*isa\b',
    'sepaspp_bottleneck': r'fuse_layer\.\d+\.aspp_modules\.',
    'image pooling': r'fuse_layer\.image_pool\.',
}


def filled(fixture: Fixture, small: bool = False) -> dict[str, Tensor]:
    """Official weights, proved by the checksum."""
    state = fill_state(fixture.meta['state_dict'], small)
    assert (
        checksum(state)
        == fixture.meta['fill_checksum_small' if small else 'fill_checksum']
    )
    return state


def head_config(
    fixture: Fixture, state: Mapping[str, Tensor], prefix: str
) -> dict[str, Any]:
    """Config of the head under a prefix, with what weights do not tell.

    Raises:
        NoRunner: If we have no such fusion or embedding.
    """
    settings = fixture.meta.get('settings') or {}
    check_fusion(fixture, [k.removeprefix(prefix) for k in state])
    try:
        cfg = daformer_head_config(state, prefix, settings.get('dilations'))
    except ValueError as error:
        raise NoRunner(f'{fixture.name}: no runner for this head: {error}') from error
    kernel = state.get(f'{prefix}fuse_layer.conv.weight')
    if kernel is not None and kernel.shape[2:] != (1, 1):
        raise NoRunner(
            f'{fixture.name}: no runner for a fusion of {tuple(kernel.shape[2:])}'
        )
    return cfg | dict(align_corners=settings.get('align_corners', False))


def check_fusion(fixture: Fixture, keys: Iterable[str]) -> None:
    """Name a fusion that we do not have.

    Raises:
        NoRunner: If the keys of a head, or the settings, are of one.
    """
    stated = str((fixture.meta.get('settings') or {}).get('fusion', ''))
    keys = list(keys)
    for name, pattern in OTHERS.items():
        if stated == name or any(re.match(pattern, key) for key in keys):
            raise NoRunner(f'{fixture.name}: no runner for DAFormer fusion {name!r}')


def build_head(fixture: Fixture, state: dict[str, Tensor], prefix: str) -> nn.Module:
    """Our head with the official weights under a prefix, through the converter.

    Raises:
        NoRunner: If we have no such head.
    """
    head = MODELS.build(head_config(fixture, state, prefix))
    ours = {daformer_key(key): value for key, value in state.items()}
    head.load_state_dict(
        {k.removeprefix(prefix): v for k, v in ours.items() if k.startswith(prefix)},
        strict=True,
    )
    return head.eval()


def run_daformer_head(fixture: Fixture) -> dict[str, Tensor]:
    """Compute all outputs, the training pass last: it moves running statistics.

    Raises:
        NoRunner: If we have no such head.
    """
    head = build_head(fixture, filled(fixture), 'decode_head.')
    check_settings(head, fixture)
    feats = [make_input(i['name'], i['shape']) for i in fixture.meta['inputs']]
    recorded = fixture.arrays()
    outputs = {}
    with torch.no_grad():
        outputs['logits_eval'] = head(feats)
        for i, (layer, feat) in enumerate(zip(head.embed_layers, feats, strict=True)):
            name = f'embed{i + 1}'
            if name in recorded:
                # The first tokens and channels are recorded.
                _, tokens, channels = recorded[name].shape
                outputs[name] = layer(feat)[:, :tokens, :channels]
        for name in recorded:
            if match := re.fullmatch(r'fused_first(\d+)', name):
                outputs[name] = head.fuse(feats)[:, : int(match[1])]
        head.train()
        head.dropout.eval()
        outputs['logits_train_bn'] = head(feats)
    norm = last_norm(head)
    outputs['running_mean_after_train'] = norm.running_mean
    outputs['running_var_after_train'] = norm.running_var
    return outputs


def last_norm(head: nn.Module) -> nn.Module:
    """BN of the bottleneck, or of the only convolution."""
    fusion: Any = head.fuse_layer
    return (fusion.bottleneck if hasattr(fusion, 'bottleneck') else fusion).bn


def check_settings(head: nn.Module, fixture: Fixture) -> None:
    """What weights and outputs do not show."""
    settings = fixture.meta.get('settings') or {}
    assert head.align_corners == settings.get('align_corners', False)
    branches = getattr(head.fuse_layer, 'aspp_modules', None)
    if branches is not None:
        # Of a separable branch the depth-wise convolution, which comes first.
        convolutions = (
            next(m for m in b.modules() if isinstance(m, nn.Conv2d)) for b in branches
        )
        found = [conv.dilation for conv in convolutions]
        assert found == [(d, d) for d in settings.get('dilations', (1, 6, 12, 18))]
    norms = [m for m in head.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-5, 0.1)}
    assert head.dropout.p == 0.1
