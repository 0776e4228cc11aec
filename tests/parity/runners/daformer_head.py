"""The decode head of DAFormer on given features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmseg_xmodal.models.converters.daformer import daformer_head_config, daformer_key
from mmseg_xmodal.registry import MODELS

from ..fill import checksum, fill_state, make_input
from ..fixture import Fixture


def filled(fixture: Fixture) -> dict[str, Tensor]:
    """Official weights, proved by the checksum."""
    state = fill_state(fixture.meta['state_dict'])
    assert checksum(state) == fixture.meta['fill_checksum']
    return state


def build_head(state: dict[str, Tensor], prefix: str) -> nn.Module:
    """Our head with the official weights under a prefix, through the converter."""
    head = MODELS.build(daformer_head_config(state, prefix))
    ours = {daformer_key(key): value for key, value in state.items()}
    head.load_state_dict(
        {k.removeprefix(prefix): v for k, v in ours.items() if k.startswith(prefix)},
        strict=True,
    )
    return head.eval()


def run_daformer_head(fixture: Fixture) -> dict[str, Tensor]:
    """Compute all outputs, the training pass last: it moves running statistics."""
    head = build_head(filled(fixture), 'decode_head.')
    check_settings(head, fixture)
    feats = [make_input(i['name'], i['shape']) for i in fixture.meta['inputs']]
    outputs = {}
    with torch.no_grad():
        outputs['logits_eval'] = head(feats)
        for i, (layer, feat) in enumerate(zip(head.embed_layers, feats, strict=True)):
            outputs[f'embed{i + 1}'] = layer(feat)[:, :8, :16]
        outputs['fused_first32'] = head.fuse(feats)[:, :32]
        head.train()
        head.dropout.eval()
        outputs['logits_train_bn'] = head(feats)
    norm = head.fuse_layer.bottleneck.bn
    outputs['running_mean_after_train'] = norm.running_mean
    outputs['running_var_after_train'] = norm.running_var
    return outputs


def check_settings(head: nn.Module, fixture: Fixture) -> None:
    """What weights and outputs do not show."""
    settings = fixture.meta['settings']
    assert head.align_corners == settings['align_corners']
    branches = head.fuse_layer.aspp_modules
    found = [
        m.dilation for b in branches for m in b.modules() if hasattr(m, 'kernel_size')
    ]
    assert all((d, d) in found for d in settings['dilations'])
    norms = [m for m in head.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-5, 0.1)}
    assert head.dropout.p == 0.1
