"""Every part that the package registers: built, run, and named in the README."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mmseg_xmodal import registry
from tests.test_models.helpers import require
from tests.test_registered_tasks import CASES as TASK_CASES

ROOT = Path(__file__).resolve().parents[1]
MODALITIES = dict(rgb=dict(channels=3, order='rgb'), depth=dict(channels=1))
TINY = dict(embed_dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4))
SWIN = dict(embed_dim=8, depths=(2, 1, 1, 1), num_heads=(1, 2, 4, 4), window=3)
EVEN = TINY | dict(num_heads=(1, 2, 2, 4))  # DFormer divides half the channels
HEAD = dict(in_channels=[8, 16, 24, 32], in_index=[0, 1, 2, 3], channels=16)
HEAD.update(num_classes=3, dropout_ratio=0.0)
MIT = dict(type='mmseg_xmodal.MixTransformer', variant=TINY)

# Arguments of each model part. A new part without an entry here fails below.
BACKBONES = {
    'CMNeXt': dict(modalities=MODALITIES, variant=TINY),
    'CMX': dict(modalities=MODALITIES, variant=TINY),
    'CMXSwin': dict(modalities=MODALITIES, variant=SWIN),
    'DFormer': dict(modalities=MODALITIES, variant=EVEN),
    'DFormerv2': dict(modalities=MODALITIES, variant=TINY),
    'GeminiFusion': dict(modalities=MODALITIES, variant=TINY),
    'TokenFusion': dict(modalities=MODALITIES, variant=TINY, score_norm=False),
    'HFStream': dict(
        config=dict(
            model_type='convnext', hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1]
        ),
        in_channels=4,
    ),
    'MMSFormer': dict(modalities=MODALITIES, variant=TINY, extra_variant=TINY),
    'StitchFusion': dict(modalities=MODALITIES, variant=TINY),
    'MultiStreamBackbone': dict(
        modalities=MODALITIES,
        backbone=MIT,
        fusion=dict(type='mmseg_xmodal.ConcatFusion'),
    ),
    'TimmStream': dict(
        model='convnext_atto',
        model_args=dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32)),
        in_channels=4,
    ),
    'MixTransformer': dict(variant=TINY, in_channels=4),
}
FUSIONS = {
    'CMXFusion': dict(channels=8),
    'FeatureRectifyModule': dict(channels=8),
    'FeatureFusionModule': dict(channels=8),
    'MeanFusion': dict(channels=8),
    'PixelPairFusion': dict(channels=8),
    'ConcatFusion': dict(channels=8, num_streams=2),
    'SelfQueryHub': dict(channels=8, num_streams=2),
    'MixSEFusion': dict(channels=8),
}
HEADS = {
    'CMXHead': HEAD,
    'DAFormerHead': HEAD | dict(embed_dims=16),
    'CMNeXtHead': HEAD,
    'DeepLabV2Head': dict(
        in_channels=[8, 16, 24, 32],
        in_index=[0, 1, 2, 3],
        input_transform='resize_concat',
        num_classes=3,
    ),
    'FastSegformerHead': HEAD,
    'GeminiHead': HEAD,
    'HamHead': HEAD | dict(ham_channels=16, ham_kwargs=dict(MD_R=4)),
    'TokenFusionHead': HEAD,
}
NECK = dict(in_channels=[8, 16, 24, 32])
NECKS = {
    'AdaptiveGateNeck': NECK,
    'CrossModalAttentionNeck': NECK,
    'DeformableFusionNeck': NECK | dict(embed_dims=16),
    'PromptAttentionNeck': NECK | dict(num_tokens=3),
    'SelfAttentionNeck': NECK,
}
# Packages of the extra [encoders].
NEEDS = dict(TimmStream=['timm'], HFStream=['transformers'])
ELSEWHERE = {
    'ModalityPreprocessor',
    'MultiScaleDeformableAttention',
    'StackStreams',
    'XModalTTAModel',
    'OHEMCrossEntropyLoss',
    'DomainAdaptiveSegmentor',
    'MultiResolutionSegmentor',
    'ClassMixSelfTraining',
    'FeatureAnchor',
    'MaskedConsistency',
    'EntropyMinimization',
    'FourierDomainAdaptation',
    'OutputAdversarial',
    'PrototypeContrast',
    'CrossModalAgreement',
    'MultiDomainEncoderDecoder',
    'SegmentorEnsemble',
    'StoredPseudoLabels',
}  # tests of their own


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
    cases = {*BACKBONES, *FUSIONS, *NECKS, *HEADS, *ELSEWHERE, *TASK_CASES}
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
    require(*NEEDS.get(name, ()))
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


@pytest.mark.parametrize('exchange', [True, False])
@pytest.mark.parametrize('name', FUSIONS)
def test_fusion_behind_any_backbone(name, exchange):
    given = {k: v for k, v in FUSIONS[name].items() if k == 'norm_cfg'}
    fusion = dict(type=f'mmseg_xmodal.{name}', **given)
    module = build(
        'MultiStreamBackbone',
        dict(modalities=MODALITIES, backbone=MIT, fusion=fusion, exchange=exchange),
    )
    x = torch.randn(2, 4, 64, 64, requires_grad=True)
    outs = module(x)
    assert [tuple(out.shape[1:]) for out in outs] == [
        (8, 16, 16), (16, 8, 8), (24, 4, 4), (32, 2, 2)
    ]  # fmt: skip
    backward_reaches(module, list(outs), x)
    for stream in module.streams:
        assert all((p.grad != 0).any() for p in stream.stages[3].norm.parameters())


@pytest.mark.parametrize('name', NECKS)
def test_neck(name):
    module = build(name, NECKS[name])
    # Two streams and their validity, where the neck has streams.
    streams = getattr(module, 'num_streams', None)
    feats = [
        torch.randn(2, c * (streams or 1), s, s, requires_grad=True)
        for c, s in zip(NECK['in_channels'], (8, 4, 2, 1), strict=True)
    ]
    valid = [torch.ones(2, streams or 0, *f.shape[2:]) for f in feats]
    outs = module([torch.cat(pair, 1) for pair in zip(feats, valid, strict=True)])
    assert [tuple(o.shape[1:]) for o in outs] == [
        (c, s, s) for c, s in zip(NECK['in_channels'], (8, 4, 2, 1), strict=True)
    ]
    assert list(module.out_channels) == NECK['in_channels']
    backward_reaches(module, list(outs), feats[0])
    assert all((feat.grad != 0).any() for feat in feats)


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
    trained = {n: p for n, p in module.named_parameters() if p.requires_grad}
    assert [n for n, p in trained.items() if p.grad is None] == []
