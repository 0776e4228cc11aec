"""Modalities that teach each other, against the formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.optim import OptimWrapper
from mmseg.registry import MODELS as MMSEG_MODELS
from torch import Tensor
from torch.nn import functional as F

from mmseg_xmodal.models import plain_state_dict
from mmseg_xmodal.models.adaptation import CrossModalAgreement
from mmseg_xmodal.models.adaptation.cross_modal_agreement import FUSED, agreement
from mmseg_xmodal.models.layers.stream_maps import STREAM_BACKBONES

from .adaptation_toys import CLASSES, blobs, sample, wrapper
from .helpers import FOUR, RGBD, TINY, without_gradient

SIZE = (32, 48)  # of the label maps that the toys draw
TERM = dict(type='mmseg_xmodal.CrossModalAgreement', head=dict(channels=8))
MIT = dict(type='mmseg_xmodal.MixTransformer', variant=TINY, drop_path_rate=0.0)
APART = dict(type='mmseg_xmodal.MultiStreamBackbone', backbone=MIT, exchange=False)
HOLE = (slice(8, 24), slice(0, 20))


def student(backbone: dict | None = None, modalities: dict = RGBD) -> dict:
    backbone = backbone or APART
    return dict(
        type='mmseg.EncoderDecoder',
        data_preprocessor=dict(
            type='mmseg_xmodal.ModalityPreprocessor',
            modalities=modalities,
            validity=True,
        ),
        backbone=dict(modalities=modalities) | backbone,
        decode_head=dict(
            type='mmseg_xmodal.FastSegformerHead',
            in_channels=TINY['embed_dims'],
            in_index=[0, 1, 2, 3],
            channels=8,
            dropout_ratio=0.0,
            num_classes=CLASSES,
            norm_cfg=dict(type='BN'),
        ),
        test_cfg=ConfigDict(mode='whole'),
    )


def batch(seed: int = 0, hole: tuple[slice, slice] = HOLE) -> dict[str, list]:
    """Two images of the source, two of the target; depth has a hole."""
    g = torch.Generator().manual_seed(seed)
    inputs, samples = [], []
    for i in range(4):
        image = 255 * torch.rand(5, *SIZE, generator=g)
        image[4] = 1
        image[3:, hole[0], hole[1]] = 0
        inputs.append(image)
        label = blobs(g)
        samples.append(sample('source', label) if i < 2 else sample('target', None))
    return dict(inputs=inputs, data_samples=samples)


def adapted(term: dict | None = None, **kwargs: Any) -> Any:
    own = kwargs.pop('student', None) or student()
    return wrapper([TERM | (term or {})], student=own, **kwargs)


def losses_of(model: Any, data: dict | None = None) -> dict:
    data = model.data_preprocessor(data or batch(), True)
    return model(**data, mode='loss')


def kl_by_hand(other: Tensor, mimic: Tensor, weight: Tensor) -> Tensor:
    """sum over classes of p ln(p / q), weighted mean over the places."""
    p, q = other.detach().softmax(1), mimic.softmax(1)
    places = (p * (p / q).log()).sum(1)
    return (places * weight).sum() / weight.sum()


def test_losses_follow_the_formula() -> None:
    model = adapted(dict(source=0.7, target=0.3, weight=2.0))
    term = model.terms[0]
    data = model.data_preprocessor(batch(), True)
    got = model(**data, mode='loss')
    # Cells of 4 x 4, all inside or all outside of the hole.
    weight = torch.ones(2, SIZE[0] // 4, SIZE[1] // 4)
    weight[:, 2:6, 0:5] = 0
    truth = torch.cat([s.gt_sem_seg.data for s in data['data_samples'][:2]])
    for domain, places, factor in (
        ('source', slice(0, 2), 0.7),
        ('target', slice(2, 4), 0.3),
    ):
        x = data['inputs'][places]
        streams = model.student.backbone.streams
        feats = dict(rgb=streams[0](x[:, :3]), depth=streams[1](x[:, 3:4]))
        main = {n: term.main[n](f) for n, f in feats.items()}
        for name, other in (('rgb', 'depth'), ('depth', 'rgb')):
            mimic = term.mimic[name][other](feats[name])
            expected = 2 * factor * kl_by_hand(main[other], mimic, weight)
            assert expected > 0
            torch.testing.assert_close(got[f'agree.{name}.loss_{domain}'], expected)
            if domain == 'source':
                full = F.interpolate(main[name], SIZE, mode='bilinear')
                loss = F.cross_entropy(full, truth, ignore_index=255, reduction='none')
                torch.testing.assert_close(
                    got[f'agree.{name}.loss_ce'], 2 * loss.mean()
                )
    names = {k for k in got if k.startswith('agree.') and 'loss' in k}
    assert len(names) == 6


@pytest.mark.parametrize('domain', ['source', 'target'])
def test_gradients_reach_the_encoder_that_mimics(domain: str) -> None:
    model = adapted()
    losses = losses_of(model)
    losses[f'agree.rgb.loss_{domain}'].backward(retain_graph=True)
    first, second = model.student.backbone.streams
    assert without_gradient(second) == [n for n, _ in second.named_parameters()]
    assert first.stages[0].patch_embed.proj.weight.grad.abs().sum() > 0
    losses[f'agree.depth.loss_{domain}'].backward()
    assert second.stages[0].patch_embed.proj.weight.grad.abs().sum() > 0
    # What is mimicked does not move towards the mimic, nor does the fused head.
    term = model.terms[0]
    assert without_gradient(term.main) == [n for n, _ in term.main.named_parameters()]
    assert without_gradient(model.student.decode_head)
    assert without_gradient(term.mimic) == []


def test_all_losses_train_everything_of_the_term() -> None:
    model = adapted(dict(fused=True))
    sum(v for k, v in losses_of(model).items() if 'loss' in k).backward()
    assert without_gradient(model.terms[0]) == []
    parts = [n for n in without_gradient(model.student) if not n.endswith('kv.bias')]
    assert parts == []


def test_a_missing_modality_teaches_nothing() -> None:
    everywhere = (slice(None), slice(None))
    model = adapted()
    losses = losses_of(model, batch(hole=everywhere))
    agreed = [losses[f'agree.{n}.loss_{d}'] for n in RGBD for d in ('source', 'target')]
    assert [v.item() for v in agreed] == [0, 0, 0, 0]
    assert torch.isfinite(losses['agree.depth.loss_ce'])
    sum(agreed).backward()
    assert all((p.grad == 0).all() for p in model.terms[0].mimic.parameters())


def test_equal_predictions_and_binary_heads_agree() -> None:
    """Zero for equal predictions; one channel is the second of two classes."""
    logits = torch.randn(2, 3, 4, 5)
    assert agreement(logits, logits).abs() < 1e-6
    weight = torch.zeros(2, 1, 4, 5)
    weight[:, :, :2] = 1
    other = logits.clone()
    other[:, :, 2:] = 9 * torch.randn(2, 3, 2, 5)
    assert agreement(logits, other, weight).abs() < 1e-6
    one, two = torch.randn(1, 1, 3, 3), torch.randn(1, 1, 3, 3)
    binary = [torch.cat([torch.zeros_like(x), x], 1) for x in (one, two)]
    torch.testing.assert_close(agreement(one, two), agreement(*binary))
    sure = torch.tensor([200.0, -200.0]).view(1, 2, 1, 1)
    assert torch.isfinite(agreement(-sure, sure))


def test_the_fused_prediction_is_a_third_party() -> None:
    model = adapted(dict(fused=True, source=1.0), student=student(cmx()))
    plain = adapted(student=student(cmx()))
    term = model.terms[0]
    assert set(term.mimic['rgb']) == {'depth', FUSED}
    assert term.USES_SOURCE_LOGITS
    assert not plain.terms[0].USES_SOURCE_LOGITS
    losses = losses_of(model)
    maps: dict[int, Tensor] = {}
    backbone = model.student.backbone
    for i, fusion in enumerate(backbone.fusions):
        fusion.register_forward_pre_hook(
            lambda m, args, i=i: maps.update({i: args[0][0]})
        )
    data = model.data_preprocessor(batch(), True)
    with torch.no_grad():
        fused = model.student.decode_head(backbone(data['inputs'][2:]))
        feats = [maps[i] for i in range(4)]
        everywhere = torch.ones(2, SIZE[0] // 4, SIZE[1] // 4)
        third = kl_by_hand(fused, term.mimic['rgb'][FUSED](feats), everywhere)
    term.mimic['rgb'].pop(FUSED)
    rest = losses_of(model)['agree.rgb.loss_target']
    torch.testing.assert_close(losses['agree.rgb.loss_target'] - rest, 0.1 * third)


def cmx() -> dict:
    return dict(type='mmseg_xmodal.CMX', variant=TINY, drop_path_rate=0.0)


def test_pseudo_labels_of_the_teacher() -> None:
    rule = dict(threshold=0.2, ignore_top=8)
    model = adapted(dict(pseudo=0.5), pseudo_labels=rule)
    assert model.terms[0].USES_TEACHER
    assert not adapted().terms[0].USES_TEACHER
    got = losses_of(model)
    x = model.data_preprocessor(batch(), True)['inputs'][2:]
    with torch.no_grad():
        logits = model.teacher.decode_head(model.teacher.backbone(x))
        full = F.interpolate(logits, SIZE, mode='bilinear')
        confidence, label = full.softmax(1).max(1)
        weight = torch.ones(2, *SIZE) * (confidence >= 0.2).float().mean()
        weight[:, :8] = 0
        stream = model.student.backbone.streams[1](x[:, 3:4])
        own = F.interpolate(model.terms[0].main['depth'](stream), SIZE, mode='bilinear')
        loss = (F.cross_entropy(own, label, reduction='none') * weight).mean()
    assert weight.max() > 0
    torch.testing.assert_close(got['agree.depth.pseudo_loss_ce'].detach(), 0.5 * loss)


def test_sequential_backward_has_the_same_gradients() -> None:
    """The streams' maps of the source are alive when the term needs them."""
    grads = []
    for backward in ('summed', 'sequential'):
        model = adapted(dict(fused=True), backward=backward)
        wrap = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.0))
        found: dict[str, Tensor] = {}
        wrap.optimizer.register_step_pre_hook(
            lambda *_, m=model, f=found: f.update(
                {n: p.grad.clone() for n, p in m.named_parameters() if p.requires_grad}
            )
        )
        model.train_step(batch(), wrap)
        grads.append(found)
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad)


def test_more_than_two_streams_and_checkpoints() -> None:
    streams = dict(rgb=['rgb'], infra=['nir', 'swir'], dem=['dem'])
    own = student(APART | dict(streams=streams), modalities=FOUR)
    model = adapted(student=own)
    term = model.terms[0]
    assert {n: set(m) for n, m in term.mimic.items()} == {
        'rgb': {'infra', 'dem'},
        'infra': {'rgb', 'dem'},
        'dem': {'rgb', 'infra'},
    }
    plain = plain_state_dict(model.state_dict())
    assert set(plain) == set(MMSEG_MODELS.build(own).state_dict())
    before = term.main['dem'].conv_seg.weight.clone()
    model.load_state_dict(plain)
    assert term.main['dem'].conv_seg.weight.equal(before)


@pytest.mark.parametrize('kind', STREAM_BACKBONES)
def test_backbones_that_the_errors_name(kind: str) -> None:
    own = dict(type=f'mmseg_xmodal.{kind}', variant=TINY)
    if kind == 'MultiStreamBackbone':
        own = APART | dict(exchange=True)
    if kind == 'MMSFormer':
        own['extra_variant'] = TINY
    losses = losses_of(adapted(student=student(own)))
    for name in RGBD:
        assert losses[f'agree.{name}.loss_target'] > 0


def test_a_step_that_broke_off_leaves_no_hook() -> None:
    model = adapted()
    data = batch()
    head = model.student.decode_head
    loss, head.loss = head.loss, None
    with pytest.raises(TypeError):
        losses_of(model, data)
    head.loss = loss
    losses_of(model, data)
    assert not any(f._forward_pre_hooks for f in model.student.backbone.fusions)


def test_what_the_backbone_lacks_is_named() -> None:
    message = 'CrossModalAgreement: .*AdaptToyBackbone .*no fusions.*mmseg_xmodal.CMX'
    with pytest.raises(ValueError, match=message):
        wrapper([CrossModalAgreement()])
    one = student(APART | dict(streams=dict(rgb=['rgb'])))
    with pytest.raises(ValueError, match=r"\['rgb'\].*a second modality is missing"):
        adapted(student=one)
    gemini = dict(type='mmseg_xmodal.GeminiFusion', variant=TINY)
    own = student(gemini)
    own['decode_head'].update(in_channels=[2 * c for c in TINY['embed_dims']])
    model = adapted(student=own)
    with pytest.raises(ValueError, match='of GeminiFusion got .0, 0, 0, 0. maps'):
        losses_of(model)
    with pytest.raises(ValueError, match='pseudo=-1'):
        CrossModalAgreement(pseudo=-1)
