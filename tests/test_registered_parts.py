"""Every part that the package registers: built, run, and named in the README."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mmseg_xmodal import registry

ROOT = Path(__file__).resolve().parents[1]
MODALITIES = dict(rgb=dict(channels=3, order='rgb'), depth=dict(channels=1))
TINY = dict(embed_dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4))
HEAD = dict(in_channels=[8, 16, 24, 32], in_index=[0, 1, 2, 3], channels=16)
HEAD.update(num_classes=3, dropout_ratio=0.0)
MIT = dict(type='mmseg_xmodal.MixTransformer', variant=TINY)

# Arguments of each model part. A new part without an entry here fails below.
BACKBONES = {
    'CMX': dict(modalities=MODALITIES, variant=TINY),
    'MultiStreamBackbone': dict(
        modalities=MODALITIES,
        backbone=MIT,
        fusion=dict(type='mmseg_xmodal.ConcatFusion'),
    ),
    'MixTransformer': dict(variant=TINY, in_channels=4),
}
FUSIONS = {
    'CMXFusion': dict(channels=8),
    'FeatureRectifyModule': dict(channels=8),
    'FeatureFusionModule': dict(channels=8),
    'MeanFusion': dict(channels=8),
    'ConcatFusion': dict(channels=8, num_streams=2),
}
HEADS = {
    'CMXHead': HEAD,
    'CMNeXtHead': HEAD,
    'FastSegformerHead': HEAD,
}
ELSEWHERE = {'ModalityPreprocessor', 'XModalTTAModel'}  # tests of their own


def registered(node: str) -> dict[str, type]:
    """What the package itself registers; tests register helpers of their own."""
    ours = getattr(registry, node)
    ours.import_from_location()
    return {
        name: part
        for name, part in ours.module_dict.items()
        if part.__module__.startswith('mmseg_xmodal.')
    }


def test_every_model_part_has_a_case():
    cases = {*BACKBONES, *FUSIONS, *HEADS, *ELSEWHERE}
    assert set(registered('MODELS')) == cases


@pytest.mark.parametrize('node', registry.__all__)
def test_every_part_is_named_in_the_readme(node):
    text = (ROOT / 'README.md').read_text()
    assert [name for name in registered(node) if f'`{name}`' not in text] == []


@pytest.mark.parametrize('node', registry.__all__)
def test_every_part_says_what_it_takes(node):
    unsaid = [
        name
        for name, part in registered(node).items()
        if len(inspect.signature(part).parameters) > 0
        and not any(word in (part.__doc__ or '') for word in ('Args:', 'Shape:'))
    ]
    assert unsaid == []


def backward_reaches(module: nn.Module, outputs: list[Tensor], inputs: Tensor) -> None:
    torch.manual_seed(1)
    sum((out * torch.randn_like(out)).sum() for out in outputs).backward()
    assert all((inputs.grad[:, c] != 0).any() for c in range(inputs.shape[1]))
    unreached = [n for n, p in module.named_parameters() if p.grad is None]
    assert unreached == []


def build(name: str, arguments: dict) -> nn.Module:
    torch.manual_seed(0)
    return registry.MODELS.build(dict(type=f'mmseg_xmodal.{name}', **arguments))


@pytest.mark.parametrize('name', BACKBONES)
def test_backbone(name):
    module = build(name, BACKBONES[name])
    x = torch.randn(2, 4, 64, 64, requires_grad=True)
    outs = module(x)
    assert [o.shape[2] for o in outs] == [16, 8, 4, 2]
    backward_reaches(module, list(outs), x)


@pytest.mark.parametrize('name', FUSIONS)
def test_fusion(name):
    module = build(name, FUSIONS[name])
    x = torch.randn(2, 16, 6, 5, requires_grad=True)
    streams, fused = module([x[:, :8], x[:, 8:]], None)
    assert fused.shape == streams[0].shape == (2, 8, 6, 5)
    backward_reaches(module, [*streams, fused], x)


@pytest.mark.parametrize('name', HEADS)
def test_head(name):
    module = build(name, HEADS[name])
    sizes = (16, 8, 4, 2)
    feats = [
        torch.randn(2, c, s, s, requires_grad=True)
        for c, s in zip(HEAD['in_channels'], sizes, strict=True)
    ]
    out = module(feats)
    assert out.shape == (2, 3, 16, 16)
    torch.manual_seed(1)
    (out * torch.randn_like(out)).sum().backward()
    assert all((feat.grad != 0).any() for feat in feats)
    assert [n for n, p in module.named_parameters() if p.grad is None] == []
