"""Contrast of pixels against class prototypes, against its formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.nn import functional as F

from mmseg_xmodal.models.adaptation import PrototypeContrast
from mmseg_xmodal.models.adaptation.base import full_size_metas
from mmseg_xmodal.models.layers import class_prototypes
from mmseg_xmodal.models.layers.class_prototypes import ClassPrototypes, sample_places
from mmseg_xmodal.models.layers.pseudo_labels import PseudoLabelRule

from .adaptation_toys import CLASSES, SIZE, batch, wrapper

TERM = dict(type='mmseg_xmodal.PrototypeContrast', in_channels=8, weight=1.0)
PLACES = (4, 6)  # of the toy backbone's last map
SURE = dict(threshold=0.3)


def keys(seed: int) -> Tensor:
    return torch.rand(2, *PLACES, generator=torch.Generator().manual_seed(seed))


def losses_of(model: Any, data: dict, **draws: Tensor) -> dict:
    model.next_draws = {f'contrast.{k}': v for k, v in draws.items()}
    return model(**model.data_preprocessor(data, True), mode='loss')


def middle(labels: Tensor, y: int, x: int) -> int:
    """The pixel in the middle of a cell of 8 x 8."""
    return int(labels[y * 8 + 4, x * 8 + 4])


def pixels(feats: Tensor, labels: Tensor, order: Tensor) -> list[tuple]:
    """(key, class, feature) of every place."""
    return [
        (float(order[b, y, x]), middle(labels[b], y, x), feats[b, :, y, x])
        for b in range(2)
        for y in range(PLACES[0])
        for x in range(PLACES[1])
    ]


def by_hand(
    found: list[tuple], prototypes: dict[int, Tensor], count: int, temperature: float
) -> Tensor:
    """Mean over the chosen pixels of -log(e^own / sum e^all)."""
    terms = []
    for c in prototypes:
        mine = sorted((k, i) for i, (k, label, _) in enumerate(found) if label == c)
        for _, i in mine[:count]:
            feat = found[i][2]
            cosines = {
                k: (feat @ p) / (feat.norm() * p.norm()) for k, p in prototypes.items()
            }
            total = sum(torch.exp(v / temperature) for v in cosines.values())
            terms.append(-torch.log(torch.exp(cosines[c] / temperature) / total))
    return torch.stack(terms).mean()


def class_means(found: list[tuple]) -> dict[int, Tensor]:
    means = {}
    for c in range(CLASSES):
        mine = [feat / feat.norm() for _, label, feat in found if label == c]
        if mine:
            means[c] = torch.stack(mine).mean(0)
    return means


def test_two_steps_follow_the_formula() -> None:
    term = TERM | dict(count=3, temperature=0.2, momentum=0.7)
    model = wrapper([term], pseudo_labels=SURE | dict(ignore_bottom=9))
    prototypes: dict[int, Tensor] = {}
    for step in range(2):
        data = batch(step)
        inputs = model.data_preprocessor(batch(step), True)['inputs']
        with torch.no_grad():
            feats = [model.student.backbone(x)[-1] for x in (inputs[:2], inputs[2:])]
            logits = model.teacher.encode_decode(
                inputs[2:], full_size_metas(inputs[2:])
            )
        sure, guess = logits.softmax(1).max(1)
        guess[sure < 0.3] = 255
        guess[:, SIZE[0] - 9 :] = 255
        truth = torch.cat([s.gt_sem_seg.data for s in data['data_samples'][:2]])
        places = [
            pixels(f, t, keys(i))
            for i, (f, t) in enumerate(zip(feats, (truth, guess), strict=True))
        ]
        for c, mean in class_means(places[0]).items():
            old = prototypes.get(c)
            prototypes[c] = mean if old is None else 0.7 * old + 0.3 * mean
        got = losses_of(model, data, source=keys(0), target=keys(1))
        for name, found in zip(('source', 'target'), places, strict=True):
            expected = by_hand(found, prototypes, 3, 0.2)
            torch.testing.assert_close(got[f'contrast.loss_{name}'], expected)
        mine = model.terms[0].prototypes
        assert sorted(prototypes) == mine.seen.nonzero().flatten().tolist()
        for c, value in prototypes.items():
            torch.testing.assert_close(mine.values[c], value)
    assert got['contrast.loss_source'] != got['contrast.loss_target']


def test_a_class_without_pixels_keeps_its_prototype() -> None:
    model = wrapper([TERM | dict(projection=5)], pseudo_labels=SURE)
    first = batch(0)
    for s in first['data_samples'][:2]:
        s.gt_sem_seg.data[s.gt_sem_seg.data == 3] = 255
    losses_of(model, first)
    term = model.terms[0]
    assert term.prototypes.seen.tolist() == [True, True, True, False]
    assert term.prototypes.values[3].abs().sum() == 0
    before = term.prototypes.values.clone()
    second = batch(1)
    for s in second['data_samples'][:2]:
        s.gt_sem_seg.data[s.gt_sem_seg.data != 0] = 255
    losses = losses_of(model, second)
    assert not term.prototypes.values[0].equal(before[0])
    assert term.prototypes.values[1:].equal(before[1:])
    assert all(math.isfinite(v.detach()) for k, v in losses.items() if 'contrast' in k)


def test_without_any_pixel_the_loss_is_zero() -> None:
    """And every parameter has a gradient, as DDP wants."""
    sure = PseudoLabelRule(threshold=1.0)
    model = wrapper([TERM | dict(projection=5)])
    model.pseudo_rule = sure
    data = batch()
    for s in data['data_samples'][:2]:
        s.gt_sem_seg.data.fill_(255)
    losses = losses_of(model, data)
    total = losses['contrast.loss_source'] + losses['contrast.loss_target']
    assert total.item() == 0
    total.backward()
    learning = [
        *model.terms[0].parameters(),
        *model.student.backbone.parameters(),
    ]
    assert len(learning) > 4
    assert all((p.grad == 0).all() for p in learning)


def test_gradients_reach_the_backbone_and_the_projection() -> None:
    model = wrapper([TERM | dict(projection=5, weight=0.5)], pseudo_labels=SURE)
    for domain in ('source', 'target'):
        model.zero_grad()
        losses_of(model, batch())[f'contrast.loss_{domain}'].backward()
        assert all(p.grad.abs().sum() > 0 for p in model.terms[0].parameters())
        assert model.student.backbone.first[0].weight.grad.abs().sum() > 0
        assert model.student.decode_head.conv_seg.weight.grad is None


def test_it_learns_and_resumes() -> None:
    """Prototypes are in the checkpoint; a plain checkpoint leaves them as they are."""
    model = wrapper([TERM], pseudo_labels=SURE)
    optimiser = torch.optim.SGD(model.student.parameters(), lr=0.05)
    logged = [model.train_step(batch(), OptimWrapper(optimiser)) for _ in range(12)]
    first, last = (logged[i]['contrast.loss_source'].item() for i in (0, -1))
    assert last < 0.9 * first
    other = wrapper([TERM], seed=1)
    other.load_state_dict(model.state_dict())
    assert other.terms[0].prototypes.seen.any()
    assert other.terms[0].prototypes.values.equal(model.terms[0].prototypes.values)
    plain = wrapper([TERM], seed=2).student.state_dict()
    other.load_state_dict(plain)
    assert other.terms[0].prototypes.values.equal(model.terms[0].prototypes.values)


def test_keys_choose_the_pixels() -> None:
    labels = torch.tensor([1, 0, 1, 2, 1, 3, 0])
    order = torch.tensor([0.9, 0.5, 0.1, 0.2, 0.4, 0.0, 0.3])
    got = sample_places(labels, order, 2, 3)
    assert got.tolist() == [6, 1, 2, 4, 3]
    assert sample_places(labels, order, 1, 3).tolist() == [6, 2, 3]


def test_ranks_share_their_means(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a second process had summed up the other half."""
    g = torch.Generator().manual_seed(0)
    feats, labels = torch.randn(40, 6, generator=g), torch.arange(40) % 5
    whole, mine, other = (ClassPrototypes(4, 6, 0.9) for _ in range(3))
    whole.update(feats, labels)
    sums: list[Tensor] = []
    monkeypatch.setattr(class_prototypes, 'all_reduce', sums.append)
    other.update(feats[25:], labels[25:])
    monkeypatch.setattr(class_prototypes, 'all_reduce', lambda own: own.add_(sums[0]))
    mine.update(feats[:25], labels[:25])
    torch.testing.assert_close(mine.values, whole.values)
    assert whole.seen.all()


@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
def test_features_that_are_not_finite_do_not_count(bad: float) -> None:
    """One overflow in one process would else stay in the prototypes of all."""
    g = torch.Generator().manual_seed(0)
    feats, labels = torch.randn(40, 6, generator=g), torch.arange(40) % 4
    expected, got = ClassPrototypes(4, 6, 0.9), ClassPrototypes(4, 6, 0.9)
    labels[labels == 3] = 0
    labels[:2] = torch.tensor([1, 3])
    expected.update(feats[2:], labels[2:])
    feats[0, 2], feats[1] = bad, bad
    got.update(feats, labels)
    torch.testing.assert_close(got.values, expected.values)
    # Of class 3 there was nothing else.
    assert got.seen.tolist() == [True, True, True, False]


def test_features_in_front_of_the_classifier() -> None:
    """What ``conv_seg`` reads."""
    model = wrapper([TERM | dict(feature='head', in_channels=None)], pseudo_labels=SURE)
    data = model.data_preprocessor(batch(), True)
    losses_of(model, batch())
    student = model.student
    with torch.no_grad():
        feats = student.decode_head.convs(student.backbone(data['inputs'][:2])[-1])
    rows = F.normalize(feats, dim=1)
    truth = torch.stack([s.gt_sem_seg.data for s in data['data_samples'][:2]])
    found = [
        rows[b, :, y, x]
        for b in range(2)
        for y in range(PLACES[0])
        for x in range(PLACES[1])
        if middle(truth[b, 0], y, x) == 2
    ]
    torch.testing.assert_close(
        model.terms[0].prototypes.values[2], torch.stack(found).mean(0)
    )


@pytest.mark.parametrize('feature', [-1, 'head'])
def test_prototypes_of_the_teacher(feature: int | str) -> None:
    term = TERM | dict(feature=feature, prototypes_of='teacher')
    model = wrapper([term], pseudo_labels=SURE, teacher_norm='running')
    for parameter in model.teacher.parameters():
        parameter.data.mul_(1.3)
    losses = losses_of(model, batch())
    assert losses['contrast.loss_source'].requires_grad
    with torch.no_grad():
        inputs = model.data_preprocessor(batch(), True)['inputs'][:2]
        feats = model.teacher.backbone(inputs)[-1]
        if feature == 'head':
            feats = model.teacher.decode_head.convs(feats)
    truth = [s.gt_sem_seg.data[0] for s in batch()['data_samples'][:2]]
    means = class_means(pixels(feats, torch.stack(truth), keys(0)))
    torch.testing.assert_close(model.terms[0].prototypes.values[1], means[1])


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(temperature=0), 'temperature=0'),
        (dict(momentum=1.0), 'momentum=1.0'),
        (dict(count=0), 'count=0'),
        (dict(target=-1), 'target=-1'),
        (dict(feature='neck'), "an index or 'head'"),
        (dict(prototypes_of='anchor'), "'student' or 'teacher'"),
    ],
)
def test_bad_arguments(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PrototypeContrast(**kwargs)


def test_what_the_student_lacks_is_named() -> None:
    with pytest.raises(ValueError, match='AdaptToyBackbone.*Set in_channels'):
        wrapper([PrototypeContrast()])
    with pytest.raises(ValueError, match='part backbone'):
        PrototypeContrast().attach(nn.Module())
    with pytest.raises(ValueError, match='gives 2 maps'):
        losses_of(wrapper([TERM | dict(feature=2)]), batch())
    with pytest.raises(ValueError, match='has 6 channels'):
        losses_of(wrapper([TERM | dict(feature=0)]), batch())
    model = wrapper([TERM | dict(feature='head')])
    model.student.decode_head.conv_seg = nn.Identity()
    del model.student.decode_head.conv_seg
    with pytest.raises(ValueError, match='FCNHead runs no classifier'):
        PrototypeContrast('head').attach(model.student)
