"""One extractor, a head for each domain."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.optim import OptimWrapper
from mmseg.models.utils import resize
from mmseg.registry import MODELS as MMSEG_MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmseg_xmodal.models import one_domain_state_dict
from mmseg_xmodal.models.layers import rank_presence
from mmseg_xmodal.models.layers.domain_norm import DomainNorm, give_domain_norms
from mmseg_xmodal.models.layers.photometric import Photometric
from mmseg_xmodal.models.segmentors import multi_domain_route, multi_domain_state
from mmseg_xmodal.registry import MODELS

from .adaptation_toys import CLASSES, SIZE, batch, blobs, head, sample, student_cfg
from .adaptation_toys import wrapper as adapting

FEWER = 3
HEADS = dict(day=head(8, 1, 1.0), night=dict(head(8, 1, 1.0), num_classes=FEWER))
AUXILIARY = dict(day=head(6, 0, 0.4))


def multi_cfg(**kwargs: Any) -> dict:
    plain = student_cfg()
    kept = ('data_preprocessor', 'backbone', 'train_cfg', 'test_cfg')
    return dict(
        type='mmseg_xmodal.MultiDomainEncoderDecoder',
        decode_heads=copy.deepcopy(HEADS),
        auxiliary_heads=copy.deepcopy(AUXILIARY),
        **{key: plain[key] for key in kept},
    ) | dict(kwargs)


def build(cfg: dict | None = None, **kwargs: Any) -> Any:
    return MMSEG_MODELS.build(multi_cfg(**kwargs) if cfg is None else cfg).train()


def labelled(domain: str | None, seed: int = 0, **meta: Any) -> SegDataSample:
    label = blobs(torch.Generator().manual_seed(seed))
    if domain == 'night':
        label = torch.where(label == FEWER, torch.full_like(label, 255), label)
    return sample(domain, label, **meta)


def data(*domains: str) -> tuple[Tensor, list[SegDataSample]]:
    g = torch.Generator().manual_seed(1)
    inputs = torch.randn(len(domains), 3, *SIZE, generator=g)
    return inputs, [labelled(d, i) for i, d in enumerate(domains)]


def plain_of(model: Any, domain: str) -> Any:
    """The ordinary segmentor that has a domain's weights."""
    cfg = student_cfg()
    cfg['decode_head'] = copy.deepcopy(HEADS[domain])
    cfg['auxiliary_head'] = copy.deepcopy(AUXILIARY.get(domain))
    plain = MMSEG_MODELS.build(cfg).train()
    plain.load_state_dict(one_domain_state_dict(model.state_dict(), domain))
    return plain


def total(losses: dict) -> Tensor:
    return sum(v for k, v in losses.items() if 'loss' in k)


# Training


def test_each_domain_learns_as_an_ordinary_segmentor() -> None:
    """With norms of its own: losses, gradients and statistics are those of two nets."""
    model = build(domain_norm=True)
    plains = {d: plain_of(model, d) for d in HEADS}
    inputs, samples = data('night', 'day', 'day', 'night', 'day')
    losses = model.loss(inputs, samples)
    assert set(losses) == {
        'day.decode.loss_ce',
        'day.decode.acc_seg',
        'day.aux.loss_ce',
        'day.aux.acc_seg',
        'night.decode.loss_ce',
        'night.decode.acc_seg',
    }
    total(losses).backward()
    for domain, plain in plains.items():
        own = [i for i, s in enumerate(samples) if s.domain == domain]
        expected = plain.loss(inputs[own], [samples[i] for i in own])
        for name, value in expected.items():
            torch.testing.assert_close(losses[f'{domain}.{name}'], value)
        total(expected).backward()
        after = one_domain_state_dict(model.state_dict(), domain)
        for name, value in plain.state_dict().items():
            torch.testing.assert_close(after[name], value, msg=name)
        mine = dict(model.decode_heads[domain].named_parameters())
        for name, parameter in plain.decode_head.named_parameters():
            torch.testing.assert_close(mine[name].grad, parameter.grad)
    shared = model.backbone.first[0].weight.grad
    both = sum(p.backbone.first[0].weight.grad for p in plains.values())
    torch.testing.assert_close(shared, both, rtol=1e-4, atol=1e-6)


def test_without_norms_of_its_own_a_batch_runs_once() -> None:
    model = build()
    calls: list[int] = []
    model.backbone.register_forward_hook(
        lambda _, args, out: calls.append(len(args[0]))
    )
    inputs, samples = data('day', 'night', 'day')
    losses = model.loss(inputs, samples)
    feats = model.extract_feat(inputs)
    for domain, own in dict(day=[0, 2], night=[1]).items():
        picked = [x[own] for x in feats]
        expected = model.decode_heads[domain].loss(
            picked, [samples[i] for i in own], {}
        )
        torch.testing.assert_close(
            losses[f'{domain}.decode.loss_ce'], expected['loss_ce']
        )
    assert calls == [3, 3]


def test_gradients_reach_every_head_and_modality() -> None:
    modalities = dict(rgb=dict(channels=3, order='rgb'), depth=dict(channels=1))
    small = dict(embed_dims=(8, 16, 24, 32), depths=(1,) * 4, num_heads=(1, 2, 3, 4))
    stream = dict(type='mmseg_xmodal.MixTransformer', variant=small)
    model = build(
        backbone=dict(
            type='mmseg_xmodal.MultiStreamBackbone',
            modalities=modalities,
            backbone=stream,
            fusion=dict(type='mmseg_xmodal.ConcatFusion'),
        ),
        auxiliary_heads=dict(day=[head(8, 0, 0.4), head(24, 2, 0.4)]),
        decode_heads=dict(
            day=head(16, 1, 1.0),
            night=dict(
                type='mmseg.SegformerHead',
                in_channels=[8, 16, 24, 32],
                in_index=[0, 1, 2, 3],
                channels=8,
                num_classes=FEWER,
                norm_cfg=dict(type='BN'),
            ),
        ),
    )
    inputs = torch.randn(2, 4, *SIZE).requires_grad_()
    total(model.loss(inputs, data('night', 'day')[1])).backward()
    for image in inputs.grad:
        assert image[:3].abs().sum() > 0
        assert image[3].abs().sum() > 0
    for part in (*model.decode_heads.values(), *model.auxiliary_heads['day']):
        grads = [p.grad for p in part.parameters()]
        assert grads
        assert all(g is not None for g in grads)
        assert any(g.abs().sum() > 0 for g in grads)


@pytest.mark.parametrize('norm', [False, True])
def test_absent_domain_gives_a_connected_zero(norm: bool) -> None:
    model = build(domain_norm=norm)
    losses = model.loss(*data('night', 'night'))
    assert losses['day.loss_absent'] == 0
    total(losses).backward()
    assert all(p.grad is not None for p in model.parameters())
    for module in model._own_modules()['day']:
        assert all(p.grad.abs().sum() == 0 for p in module.parameters())
    # Its auxiliary head may be the only reader of a map.
    model.zero_grad()
    model.loss(*data('night', 'night'))['day.loss_absent'].backward()
    used = set(model._own_modules()['day'][0].parameters())
    used |= set(model.auxiliary_heads['day'].parameters())
    used |= {p for n, p in model.backbone.named_parameters() if '.0.' in n}
    assert all(p.grad is not None for p in used)
    assert all(p.grad is None for p in model.decode_heads['night'].parameters())


def test_weights_of_domains() -> None:
    model = build(domain_weights=dict(night=0.25))
    twin = build()
    twin.load_state_dict(model.state_dict())
    batch_ = data('day', 'night')
    ours, plain = model.loss(*batch_), twin.loss(*batch_)
    for name in plain:
        factor = 0.25 if name == 'night.decode.loss_ce' else 1
        torch.testing.assert_close(ours[name], plain[name] * factor)


def test_domain_of_a_sample() -> None:
    router = multi_domain_route.DomainRouter(
        ['day', 'night'], dict(camvid='day', source='day', target='night')
    )
    for meta, expected in (
        (dict(domain='night', source='camvid', img_path='x'), 'night'),
        (dict(source='camvid', img_path='x'), 'day'),
        (dict(source='night', img_path='x'), 'night'),
        (dict(domain='target', source='camvid'), 'night'),
        (dict(img_shape=(2, 2)), 'default'),
    ):
        assert router.domain_of(meta, 'default') == expected
    for meta in (dict(domain='dusk', img_path='x'), dict(img_path='x')):
        with pytest.raises(
            ValueError, match=r"'x' is unknown.*\['day', 'night'\].*\['camvid'"
        ):
            router.domain_of(meta, 'default')


def test_labels_must_fit_the_head() -> None:
    model = build()
    inputs, samples = data('day', 'night')
    samples[1].gt_sem_seg.data[0, 0, 0] = FEWER
    with pytest.raises(ValueError, match=r"class 3.*'night' has num_classes=3"):
        model.loss(inputs, samples)
    with pytest.raises(ValueError, match=r"'x.png' of the domain 'day' has no gt_sem"):
        model.loss(inputs[:1], [sample('day', None)])


def test_ranks_must_agree_where_norms_wait_for_all(monkeypatch) -> None:
    monkeypatch.setattr(rank_presence, 'get_world_size', lambda: 2)
    other = torch.zeros(1)  # the other rank has no night

    def all_reduce(x: Tensor, op: str) -> None:
        assert op == 'max'
        x.copy_(torch.maximum(x, torch.cat([other, -other])))

    monkeypatch.setattr(rank_presence, 'all_reduce', all_reduce)
    modules = dict(day=[nn.BatchNorm2d(2)], night=[nn.Sequential(nn.SyncBatchNorm(2))])

    def check(own: dict, places: dict) -> None:
        rank_presence.check_presence(own, places, torch.device('cpu'), 'Samples of')

    check(modules, dict(day=[0]))
    check(dict(day=modules['day']), dict(day=[0]))
    both = dict(day=[0], night=[1])
    with pytest.raises(ValueError, match=r"Samples of \['night'\].*MultiSourceSampler"):
        check(modules, both)
    modules['night'][0].eval()  # as FreezeNormStats: it waits for nobody
    check(modules, both)


# Norms


def test_norms_of_domains() -> None:
    model = build(domain_norm=True, predict_domain='night')
    norms = [m for m in model.backbone.modules() if isinstance(m, DomainNorm)]
    assert len(norms) == 2
    assert not any(
        isinstance(m, _BatchNorm)
        for m in (*model.backbone.first, model.backbone.second)
    )
    before = copy.deepcopy(norms[0].domain_norms)
    model.loss(*data('day', 'day'))
    assert not torch.equal(
        before['day'].running_mean, norms[0].domain_norms['day'].running_mean
    )
    assert torch.equal(
        before['night'].running_mean, norms[0].domain_norms['night'].running_mean
    )
    # Whoever calls the backbone alone gets the predicting domain's.
    assert norms[0].active == 'night'
    model.eval()
    inputs, _ = data('day')
    expected = plain_of(model, 'night').eval().extract_feat(inputs)
    for got in (model.extract_feat(inputs), copy.deepcopy(model.backbone)(inputs)):
        torch.testing.assert_close(got[1], expected[1])


def test_networks_without_batch_norms_or_with_repeated_passes() -> None:
    with pytest.raises(ValueError, match='Conv2d has no batch norm'):
        give_domain_norms([nn.Conv2d(3, 3, 1)], ['day'])
    net = nn.Sequential(nn.BatchNorm2d(3))
    net.with_cp = True
    with pytest.raises(ValueError, match=r'checkpointing \(Sequential.with_cp\)'):
        give_domain_norms([net], ['day'])
    shared = nn.BatchNorm2d(3)
    net = nn.Sequential(shared, nn.Sequential(shared))
    give_domain_norms([net], ['day', 'night'])
    assert isinstance(net[0], DomainNorm)
    assert net[0] is net[1][0]


# Prediction


def test_one_head_predicts_whatever_the_sample() -> None:
    inputs, samples = data('day', 'night')
    for domain, classes in dict(day=CLASSES, night=FEWER).items():
        model = build(predict_domain=domain).eval()
        assert model.decode_head is model.decode_heads[domain]
        assert model.num_classes == model.out_channels == classes
        assert model.align_corners is False
        assert model.with_auxiliary_head == (domain == 'day')
        with torch.no_grad():
            done = model.predict(inputs, samples)
            expected = plain_of(model, domain).eval().predict(inputs)
            raw = model(inputs, mode='tensor')
        for got, want in zip(done, expected, strict=True):
            torch.testing.assert_close(got.seg_logits.data, want.seg_logits.data)
        assert raw.shape[1] == classes


@pytest.mark.parametrize('norm', [False, True])
@pytest.mark.parametrize('mode', ['whole', 'slide'])
def test_each_sample_by_its_own_head(norm: bool, mode: str) -> None:
    test_cfg = ConfigDict(mode=mode, crop_size=(24, 24), stride=(8, 24))
    model = build(predict_domain='sample', domain_norm=norm, test_cfg=test_cfg)
    total(model.loss(*data('day', 'night', 'night', 'day'))).backward()  # statistics
    model.eval()
    inputs, samples = data('night', 'day', 'night')
    with torch.no_grad():
        done = model.predict(inputs, samples)
        for i, (got, classes) in enumerate(zip(done, (3, 4, 3), strict=True)):
            assert got is samples[i]
            plain = plain_of(model, got.domain).eval()
            plain.test_cfg = test_cfg
            (want,) = plain.predict(inputs[i : i + 1])
            assert got.seg_logits.data.shape == (classes, *SIZE)
            torch.testing.assert_close(got.seg_logits.data, want.seg_logits.data)
        metas = [s.metainfo for s in samples]
        logits = model.encode_decode(inputs[:1], metas[:1])
        assert logits.shape[1] == model(inputs[:1], samples[:1]).shape[1] == FEWER
        with pytest.raises(ValueError, match=r"\['day', 'night'\], expected one"):
            model.encode_decode(inputs, metas)
        # Without samples: the first domain.
        assert model.predict(inputs)[0].seg_logits.shape == SIZE
        with pytest.raises(ValueError, match='predict_domain may name a head'):
            model.predict(inputs[:1], [sample(None, None)])


def test_views_are_averaged() -> None:
    model = build(predict_domain='sample').eval()
    tta = MODELS.build(dict(type='mmseg_xmodal.XModalTTAModel', module=model))
    image = torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8)
    views = [
        labelled('night', flip=f, flip_direction='horizontal') for f in (False, True)
    ]
    views_of = dict(
        inputs=[[image], [image.flip(-1)]], data_samples=[[v] for v in views]
    )
    with torch.no_grad():
        (merged,) = tta.test_step(views_of)
        inputs = model.data_preprocessor(dict(inputs=[image], data_samples=views[:1]))
        p = [
            resize(
                model.decode_heads['night'](model.extract_feat(x)),
                SIZE,
                mode='bilinear',
            ).softmax(1)
            for x in (inputs['inputs'], inputs['inputs'].flip(-1))
        ]
    expected = ((p[0] + p[1].flip(-1)) / 2)[0].log()
    torch.testing.assert_close(merged.seg_logits.data, expected, rtol=1e-4, atol=1e-5)


# Checkpoints


def test_keys_stand_once() -> None:
    keys = {k.split('.')[0] for k in build().state_dict()}
    assert keys == {'backbone', 'decode_heads', 'auxiliary_heads'}
    names = [n for n, _ in build().named_modules()]
    assert not [
        n for n in names if n.split('.')[0] in ('decode_head', 'auxiliary_head')
    ]


@pytest.mark.parametrize('norm', [False, True])
def test_plain_checkpoint_goes_into_all_heads(monkeypatch, norm: bool) -> None:
    said: list[str] = []
    monkeypatch.setattr(
        multi_domain_state, 'print_log', lambda text, **kw: said.append(text)
    )
    torch.manual_seed(9)
    plain = MMSEG_MODELS.build(student_cfg())
    plain.backbone.first[1].weight.data.normal_()
    model = build(domain_norm=norm)
    own = copy.deepcopy(model.decode_heads['night'].conv_seg)
    model.load_state_dict(plain.state_dict())
    for name, value in one_domain_state_dict(model.state_dict(), 'day').items():
        assert torch.equal(value, plain.state_dict()[name])
    night = one_domain_state_dict(model.state_dict(), 'night')
    for name, value in night.items():
        if 'conv_seg' not in name:
            assert torch.equal(value, plain.state_dict()[name])
    assert torch.equal(night['decode_head.conv_seg.weight'], own.weight)
    assert len(said) == 1
    assert '2 tensors' in said[0]
    assert "'decode_heads.night.conv_seg.weight'" in said[0]
    state = plain.state_dict()
    state['decode_head.what'] = torch.zeros(1)
    del state['backbone.first.0.bias']
    with pytest.raises(RuntimeError, match=r'first.0.bias(.|\n)*decode_head.what'):
        model.load_state_dict(state)
    with pytest.raises(ValueError, match=r"domain='dusk'.*\['day', 'night'\]"):
        one_domain_state_dict(dict(state_dict=model.state_dict()), 'dusk')


# As a student


def student(**kwargs: Any) -> dict:
    return multi_cfg(domains=dict(source='night'), **kwargs)


@pytest.mark.parametrize('norm', [False, True])
def test_as_a_student(norm: bool) -> None:
    """Truth trains the source's head, pseudo-labels the predicting one."""
    terms = [
        dict(type='mmseg_xmodal.MaskedConsistency', block=16, augment=None),
        dict(type='mmseg_xmodal.EntropyMinimization'),
    ]
    model = adapting(
        terms,
        student=student(predict_domain='day', domain_norm=norm),
        pseudo_labels=dict(threshold=0.3),
    )
    assert model.out_channels == CLASSES
    both = batch()
    for one in both['data_samples'][:2]:
        label = one.gt_sem_seg.data
        label[label == FEWER] = 255
    heads = model.student.decode_heads
    seen: dict[str, list] = dict(day=[], night=[])
    for domain, part in heads.items():
        part.conv_seg.register_forward_hook(
            lambda _, args, out, d=domain: seen[d].append(len(out))
        )
    losses = model(**model.data_preprocessor(both, True), mode='loss')
    assert seen == dict(day=[2, 2], night=[2])
    assert losses['source.day.loss_absent'] == 0
    assert losses['masked.night.loss_absent'] == 0
    assert 'source.night.decode.loss_ce' in losses
    assert 'masked.day.decode.loss_ce' in losses
    total_, _ = model.parse_losses(losses)
    total_.backward()
    assert all(p.grad is not None for p in model.student.parameters())


def test_mixed_images_go_to_the_predicting_head() -> None:
    model = adapting(
        [dict(type='mmseg_xmodal.ClassMixSelfTraining')],
        student=multi_cfg(domains=dict(source='day')),
        pseudo_labels=dict(threshold=0.3),
    )
    model.next_draws = {
        'mix.classes': [[1], [2]],
        'mix.augment': [Photometric()] * 2,
    }
    wrap = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    before = copy.deepcopy(model.student.decode_heads)
    logged = model.train_step(batch(), wrap)
    assert logged['mix.day.decode.loss_ce'] > 0
    after = model.student.decode_heads
    assert not torch.equal(before['day'].conv_seg.weight, after['day'].conv_seg.weight)
    assert torch.equal(before['night'].conv_seg.weight, after['night'].conv_seg.weight)


def test_plain_checkpoint_goes_into_the_students_heads() -> None:
    plain = MMSEG_MODELS.build(student_cfg())
    model = adapting([], student=multi_cfg(domain_norm=True))
    model.load_state_dict(plain.state_dict())
    for network in (model.student, model.teacher):
        state = one_domain_state_dict(network.state_dict(), 'day')
        assert state.keys() == plain.state_dict().keys()
        assert all(torch.equal(v, plain.state_dict()[k]) for k, v in state.items())


# Bad configs


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(decode_heads={}), 'decode_heads={}, expected the config of a head'),
        (dict(decode_heads=dict(day={})), r"decode_heads\['day'\] is {}"),
        (dict(decode_heads={'a.b': HEADS['day']}), "'a.b' cannot be one"),
        (dict(decode_heads={'loss': HEADS['day']}), "'loss' cannot be one"),
        (dict(decode_head=HEADS['day']), r"has \['decode_head'\], which is for one"),
        (dict(auxiliary_heads=dict(dusk={})), r"\['dusk'\].*\['day', 'night'\]"),
        (dict(domain_weights=dict(dusk=1)), r"domain_weights has \['dusk'\]"),
        (dict(domain_weights=dict(day=-1)), "domain_weights has {'day': -1}"),
        (dict(predict_domain='dusk'), r"'dusk', expected one of \['day', 'night'\]"),
        (dict(domains=dict(a='dusk')), r"leads to \['dusk'\].*\['day', 'night'\]"),
    ],
)
def test_bad_configs(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**kwargs)


def test_autocast() -> None:
    model = build(domain_norm=True)
    with torch.autocast('cpu', torch.bfloat16):
        value, _ = model.parse_losses(model.loss(*data('day', 'day')))
    value.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
