"""The decode head of DAFormer on given features."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmseg_xmodal.models.converters.daformer import daformer_head_config, daformer_key
from mmseg_xmodal.registry import MODELS

from ..fill import make_input
from ..fixture import Fixture, NoRunner

# Fusions of the official code that we do not have, by how their keys begin. Of the
# second the keys are a guess: a plain convolution before the dilated ones.
OTHERS = {
    'isa': r'fuse_layer\.(\w+\.)*isa\b',
    'sepaspp_bottleneck': r'fuse_layer\.\d+\.aspp_modules\.',
    'image pooling': r'fuse_layer\.image_pool\.',
}
# Of those that we have.
KNOWN = {
    'embed_layers': r'embed_layers\.\d+\.proj\.',
    'fuse_layer': r'fuse_layer\.(conv|bn|aspp_modules|bottleneck)\.',
}


def head_config(
    fixture: Fixture, state: Mapping[str, Tensor], prefix: str
) -> dict[str, Any]:
    """Config of the head under a prefix, with what weights do not tell.

    A ``ValueError`` of the converter is no missing runner: it goes through.

    Raises:
        NoRunner: If we have no such fusion or embedding.
    """
    settings = fixture.meta.get('settings') or {}
    shapes = {k.removeprefix(prefix): v.shape for k, v in state.items()}
    check_parts(fixture, shapes)
    kernel = shapes.get('fuse_layer.conv.weight')
    if kernel is not None and kernel[2:] != (1, 1):
        raise NoRunner(f'{fixture.name}: no runner for a fusion of {tuple(kernel[2:])}')
    cfg = daformer_head_config(state, prefix, settings.get('dilations'))
    return cfg | dict(align_corners=settings.get('align_corners', False))


def check_parts(fixture: Fixture, keys: Iterable[str]) -> None:
    """Name a fusion or an embedding that we do not have.

    Args:
        fixture: Where they are from.
        keys: Of a head, without what stands before all of them.

    Raises:
        NoRunner: If the keys, or the settings, are of one.
    """
    keys = list(keys)
    stated = str((fixture.meta.get('settings') or {}).get('fusion', ''))
    for name, pattern in OTHERS.items():
        if stated == name or any(re.match(pattern, key) for key in keys):
            raise NoRunner(f'{fixture.name}: no runner for DAFormer fusion {name!r}')
    for part, known in KNOWN.items():
        own = [key for key in keys if key.startswith(f'{part}.')]
        other = [key for key in own if not re.match(known, key)]
        if other or not own:
            raise NoRunner(
                f'{fixture.name}: no runner for this head: under {part} it has '
                f'{(other or own)[:5]}, ours have {known!r}'
            )


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
    head = build_head(fixture, fixture.official_weights(), 'decode_head.')
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
