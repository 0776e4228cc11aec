"""The segmentor around a student: batches, modes, checkpoints, prediction."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.dataset import BaseDataset
from mmengine.optim import OptimWrapper
from mmengine.runner import load_checkpoint, save_checkpoint
from mmseg.registry import MODELS as MMSEG_MODELS
from mmseg.structures import SegDataSample
from torch import nn

from mmseg_xmodal.datasets import MultiSourceDataset
from mmseg_xmodal.models import DomainAdaptiveSegmentor, plain_state_dict
from mmseg_xmodal.models.layers.photometric import Photometric
from mmseg_xmodal.models.segmentors import domain_adaptive_batch
from mmseg_xmodal.models.segmentors.domain_adaptive_batch import DomainSplitter
from mmseg_xmodal.registry import MODELS

from .adaptation_toys import CLASSES, SIZE, batch, blobs, sample, student_cfg, wrapper

MIX = dict(type='mmseg_xmodal.ClassMixSelfTraining')
ANCHOR = dict(type='mmseg_xmodal.FeatureAnchor', classes=[1])
MASKED = dict(type='mmseg_xmodal.MaskedConsistency', block=16)
PLAIN = [Photometric()] * 2
ENTROPY = dict(type='mmseg_xmodal.EntropyMinimization')


def step(model: Any, wrap: OptimWrapper, seed: int = 0) -> dict:
    return model.train_step(batch(seed), wrap)


def sgd(model: nn.Module, **kwargs: Any) -> OptimWrapper:
    return OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1), **kwargs)


def tagged(**meta: Any) -> SegDataSample:
    return SegDataSample(metainfo=dict(img_path='x.png', **meta))


def states_equal(a: nn.Module, b: nn.Module) -> bool:
    return all(
        torch.equal(x, y)
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


# Batches


@pytest.mark.parametrize(
    ('meta', 'domains', 'expected'),
    [
        (dict(domain='target', source='source'), None, 'target'),
        (dict(source='source', source_index=1), None, 'source'),
        (dict(source='target', source_index=0), None, 'target'),
        (dict(source='gta', source_index=0), None, 'source'),
        (dict(source='acdc', source_index=2), None, 'target'),
        (dict(source='synthia', source_index=1), dict(synthia='source'), 'source'),
    ],
)
def test_domain_of_a_sample(meta: dict, domains: dict | None, expected: str) -> None:
    assert DomainSplitter(domains).domain_of(tagged(**meta)) == expected


@pytest.mark.parametrize(
    ('meta', 'domains'),
    [
        ({}, None),
        (dict(domain='night', source='target'), None),
        (dict(source='source', source_index=0), dict(gta='source')),
    ],
)
def test_unknown_domains_are_refused(meta: dict, domains: dict | None) -> None:
    with pytest.raises(ValueError, match=r"'x.png' is unknown.*MultiSourceDataset"):
        DomainSplitter(domains).domain_of(tagged(**meta))


def test_wrong_domain_names() -> None:
    with pytest.raises(ValueError, match="'night'"):
        DomainSplitter(dict(acdc='night'))


def test_domains_may_alternate() -> None:
    inputs = torch.arange(4.0).view(4, 1, 1, 1)
    samples = [sample(d, None) for d in ('target', 'source') * 2]
    source, target = DomainSplitter()(inputs, samples)
    assert source.inputs.flatten().tolist() == [1, 3]
    assert target.inputs.flatten().tolist() == [0, 2]
    with pytest.raises(ValueError, match='none of the source domain.*Sampler'):
        DomainSplitter()(inputs[::2], samples[::2])


def test_truth_of_the_target_is_never_used(monkeypatch) -> None:
    said = []
    monkeypatch.setattr(
        domain_adaptive_batch, 'print_log', lambda text, **kw: said.append(text)
    )
    terms, kwargs = [MIX, MASKED, ENTROPY], dict(pseudo_labels=dict(threshold=0.4))
    outputs = []
    for labelled in (False, True):
        model = wrapper(terms, **kwargs)
        torch.manual_seed(3)
        for _ in range(2):
            data = batch()
            if labelled:
                for s in data['data_samples'][2:]:
                    s.gt_sem_seg = copy.deepcopy(data['data_samples'][0].gt_sem_seg)
            model.next_draws = {
                'mix.classes': [[1], [2]],
                'mix.augment': PLAIN,
                'masked.augment': PLAIN,
                'masked.uniform': torch.ones(2, 1, 2, 3),
            }
            losses = model(**model.data_preprocessor(data, True), mode='loss')
            # The caller's sample keeps its truth.
            assert all(
                ('gt_sem_seg' in s) == labelled for s in data['data_samples'][2:]
            )
        outputs.append({k: v.detach() for k, v in losses.items()})
    assert outputs[0].keys() == outputs[1].keys()
    assert all(torch.equal(outputs[0][k], outputs[1][k]) for k in outputs[0])
    assert len(said) == 1
    assert "['gt_sem_seg']" in said[0]


def test_different_classes_are_refused_with_both_lists() -> None:
    """By the data set, which is built before the first batch."""

    def data(*classes: str) -> BaseDataset:
        return BaseDataset(metainfo=dict(classes=classes), lazy_init=True)

    with pytest.raises(ValueError, match=r"\['a', 'b'\].*\['a', 'c'\]"):
        MultiSourceDataset([data('a', 'b'), data('a', 'c')], lazy_init=True)


# Modes, gradients


def test_networks_start_equal_and_only_the_student_learns() -> None:
    model = wrapper([MIX, ANCHOR, MASKED, ENTROPY], anchor='copy')
    model.init_weights()
    assert states_equal(model.student, model.teacher)
    assert states_equal(model.student.backbone, model.anchor)
    before = copy.deepcopy(model)
    step(model, sgd(model))
    names = dict(model.named_parameters())
    assert {n.split('.')[0] for n, p in names.items() if p.requires_grad} == {'student'}
    moved = [
        n
        for (n, p), q in zip(names.items(), before.parameters(), strict=True)
        if not torch.equal(p, q)
    ]
    learning = [n for n, p in names.items() if p.requires_grad]
    # A bias right before a batch norm has no gradient.
    assert set(learning) - set(moved) <= {n for n in learning if n.endswith('0.bias')}


def test_modes_of_the_teacher() -> None:
    cfg = student_cfg()
    cfg['decode_head']['dropout_ratio'] = 0.5
    model = wrapper([], student=cfg, anchor='copy')
    model.student.backbone.first[1].eval()
    for mode in (True, False):
        model.train(mode)
        model.student.backbone.first[1].eval()
        DomainAdaptiveSegmentor.train(model, mode)
        teacher = model.teacher
        assert not teacher.decode_head.dropout.training
        assert teacher.backbone.first[1].training is mode
        assert not any(m.training for m in model.anchor.modules())
    model = wrapper([], teacher_norm='running').train()
    assert not any(m.training for m in model.teacher.modules())


def test_a_config_of_an_anchor_keeps_its_own_start() -> None:
    anchor = dict(type='mmseg_xmodal.AdaptToyBackbone')
    model = wrapper([ANCHOR], anchor=anchor)
    assert not states_equal(model.anchor, model.student.backbone)
    assert not any(p.requires_grad for p in model.anchor.parameters())


def test_accumulation_and_autocast() -> None:
    """Two batches with accumulation give the mean gradient of both."""
    draws = {'mix.classes': [[1], [2]], 'mix.augment': PLAIN}
    grads = []
    for accumulate in (1, 2):
        model = wrapper([MIX, ANCHOR], anchor='copy')
        wrap = sgd(model, accumulative_counts=accumulate)
        kept = []
        wrap.optimizer.step = lambda *a, m=model, k=kept: k.append(
            [p.grad.clone() for p in m.student.parameters()]
        )
        for seed in (0, 1):
            model.next_draws = dict(draws)
            step(model, wrap, seed)
        grads.append(kept)
    assert [len(g) for g in grads] == [2, 1]
    for one, two, both in zip(*grads[0], grads[1][0], strict=True):
        torch.testing.assert_close((one + two) / 2, both, rtol=1e-4, atol=1e-6)
    model = wrapper([MIX, ANCHOR, MASKED, ENTROPY], anchor='copy')
    data = model.data_preprocessor(batch(), True)
    with torch.autocast('cpu', torch.bfloat16):
        total, _ = model.parse_losses(model(**data, mode='loss'))
    total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.student.parameters())


def test_losses_are_summed_with_their_weights() -> None:
    terms = [dict(MIX, weight=0.5), dict(MIX, name='second')]
    model = wrapper(terms)
    model.next_draws = {
        f'{name}.{key}': value
        for name in ('mix', 'second')
        for key, value in dict(classes=[[1], [2]], augment=PLAIN).items()
    }
    losses = model(**model.data_preprocessor(batch(), True), mode='loss')
    assert model.next_draws == {}
    first, second = (losses[f'{n}.decode.loss_ce'].item() for n in ('mix', 'second'))
    assert first == pytest.approx(second / 2, rel=1e-5)
    total, logged = model.parse_losses(losses)
    added = sum(v.item() for k, v in losses.items() if 'loss' in k)
    assert total.item() == pytest.approx(added, rel=1e-5)
    assert 'source.aux.acc_seg' in logged


# Bad configs


@pytest.mark.parametrize(
    ('kwargs', 'error', 'message'),
    [
        (dict(terms=[ANCHOR]), ValueError, r"needs the part 'anchor'.*anchor='copy'"),
        (dict(terms=[MIX, MIX]), ValueError, r"\['mix', 'mix'\].*name="),
        (dict(terms=[dict(MIX, name='source')]), ValueError, "none 'source'"),
        (dict(terms=[nn.Identity()]), TypeError, 'has a Identity'),
        (dict(anchor='imagenet'), ValueError, "anchor='imagenet'"),
        (dict(teacher_norm='mean'), ValueError, "teacher_norm='mean'"),
        (dict(predict_on='anchor'), ValueError, "predict_on='anchor'"),
        (dict(student=nn.Identity()), TypeError, 'student is a Identity'),
        (dict(pseudo_labels=dict(threshold=3)), ValueError, 'threshold=3'),
    ],
)
def test_bad_configs(kwargs: dict, error: type, message: str) -> None:
    cfg = dict(student=student_cfg(), terms=[]) | kwargs
    with pytest.raises(error, match=message):
        DomainAdaptiveSegmentor(**cfg)


def test_a_student_that_weighs_its_losses_is_refused() -> None:
    net = MMSEG_MODELS.build(student_cfg())

    class Weighing(type(net)):
        def parse_losses(self, losses: dict) -> Any:
            return super().parse_losses(losses)

    net.__class__ = Weighing
    with pytest.raises(TypeError, match='weighs its losses itself'):
        DomainAdaptiveSegmentor(net, [])


# Checkpoints


def test_keys_stand_once() -> None:
    model = wrapper([MIX], anchor='copy')
    keys = set(model.state_dict())
    assert {k.split('.')[0] for k in keys} == {'student', 'teacher', 'anchor'}
    plain = set(model.student.state_dict())
    assert len(keys) == 2 * len(plain) + len(model.anchor.state_dict())
    assert plain == set(MMSEG_MODELS.build(student_cfg()).state_dict())


@pytest.mark.parametrize('module', ['', 'module.'])
def test_plain_checkpoint_goes_into_student_and_teacher(
    tmp_path: Path, module: str
) -> None:
    torch.manual_seed(7)
    plain = MMSEG_MODELS.build(student_cfg())
    path = str(tmp_path / 'plain.pth')
    state = {module + k: v for k, v in plain.state_dict().items()}
    save_checkpoint(dict(state_dict=state), path)
    model = wrapper([ANCHOR], anchor='copy')
    anchor = copy.deepcopy(model.anchor)
    load_checkpoint(model, path, strict=True)
    assert states_equal(model.student, plain)
    assert states_equal(model.teacher, plain)
    assert states_equal(model.anchor, anchor)
    model.load_state_dict(plain.state_dict(), strict=True)
    state = plain.state_dict()
    del state['decode_head.conv_seg.bias']
    with pytest.raises(RuntimeError, match='decode_head.conv_seg.bias'):
        model.load_state_dict(state)


@pytest.mark.parametrize('whole', [True, False])
def test_init_cfg_loads_a_checkpoint_after_the_parts(
    tmp_path: Path, whole: bool
) -> None:
    """Of the whole, or a plain one, which leaves the anchor as initialised."""
    saved = wrapper([MIX, ANCHOR], seed=7, anchor='copy')
    saved.teacher.decode_head.conv_seg.bias.data.fill_(0.5)
    saved.anchor.first[0].bias.data.fill_(0.25)
    path = str(tmp_path / 'saved.pth')
    state = (saved if whole else saved.student).state_dict()
    save_checkpoint(dict(state_dict=state), path)
    cfg = dict(type='Pretrained', checkpoint=path)
    model = wrapper([MIX, ANCHOR], anchor='copy', init_cfg=cfg)
    first = copy.deepcopy(model.student.backbone)
    model.init_weights()
    assert states_equal(model.student, saved.student)
    assert states_equal(model.teacher, saved.teacher if whole else saved.student)
    assert states_equal(model.anchor, saved.anchor if whole else first)
    assert model.init_cfg == cfg


def test_init_cfg_of_layers_comes_before_that_of_the_parts() -> None:
    """Heads have one of their own, the toy's backbone has none."""
    constant = dict(type='Constant', layer='Conv2d', val=0.125, bias=0.5)
    model = wrapper([MIX, ANCHOR], anchor='copy', init_cfg=[constant])
    model.init_weights()
    for backbone in (model.student.backbone, model.teacher.backbone, model.anchor):
        assert (backbone.first[0].weight == 0.125).all()
        assert (backbone.first[0].bias == 0.5).all()
    assert states_equal(model.student, model.teacher)
    assert model.student.decode_head.conv_seg.weight.std() > 0


def test_trained_student_is_a_plain_checkpoint_again(tmp_path: Path) -> None:
    model = wrapper([MIX])
    step(model, sgd(model))
    path = str(tmp_path / 'adapted.pth')
    save_checkpoint(dict(meta={}, state_dict=model.state_dict()), path)
    other = wrapper([MIX], seed=5)
    load_checkpoint(other, path, strict=True)
    assert states_equal(other, model)
    for network in ('student', 'teacher'):
        plain = MMSEG_MODELS.build(student_cfg())
        plain.load_state_dict(plain_state_dict(torch.load(path), network), strict=True)
        assert states_equal(plain, getattr(model, network))
    with pytest.raises(ValueError, match=r"parts \['auxiliary_head', 'backbone'"):
        plain_state_dict(plain.state_dict())
    with pytest.raises(ValueError, match="network='anchor'"):
        plain_state_dict(model.state_dict(), 'anchor')


# Prediction


@pytest.mark.parametrize('network', ['student', 'teacher'])
def test_the_chosen_network_predicts(network: str) -> None:
    model = wrapper([], predict_on=network)
    for parameter in model.teacher.parameters():
        parameter.data.add_(0.3)
    model.eval()
    data = batch()
    expected = getattr(model, network)
    assert model.decode_head is expected.decode_head
    assert model.out_channels == model.num_classes == CLASSES
    assert model.align_corners is False
    assert model.test_cfg == dict(mode='whole')
    assert model.with_decode_head
    with torch.no_grad():
        got = model.test_step(data)
        inputs = model.data_preprocessor(batch(), False)['inputs']
        meta = [s.metainfo for s in data['data_samples']]
        logits = expected.encode_decode(inputs, meta)
    for one, own in zip(got, logits, strict=True):
        torch.testing.assert_close(one.seg_logits.data, own)
    assert model(inputs, mode='tensor').shape[1] == CLASSES
    assert len(model.extract_feat(inputs)) == 2
    assert model.encode_decode(inputs, meta).shape == logits.shape


def test_views_are_averaged_through_the_wrapper() -> None:
    model = wrapper([]).eval()
    tta = MODELS.build(dict(type='mmseg_xmodal.XModalTTAModel', module=model))
    image = torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8)
    views = [
        sample(None, blobs(torch.Generator()), flip=f, flip_direction='horizontal')
        for f in (False, True)
    ]
    data = dict(
        inputs=[[image], [image.flip(-1)]], data_samples=[[views[0]], [views[1]]]
    )
    with torch.no_grad():
        merged = tta.test_step(data)
    assert isinstance(merged[0], SegDataSample)
    assert merged[0].pred_sem_seg.shape == SIZE
