"""Terms of domain adaptation, one by one; official numbers are in the fixtures."""

from __future__ import annotations

import colorsys
import math
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from torch import nn

from mmseg_xmodal.models.adaptation import (
    AdaptationStep,
    ClassMixSelfTraining,
    DomainBatch,
    EntropyMinimization,
    FeatureAnchor,
    FourierDomainAdaptation,
    MaskedConsistency,
)
from mmseg_xmodal.models.adaptation.class_mix import choose_classes
from mmseg_xmodal.models.adaptation.feature_anchor import (
    downscale_labels,
    feature_distance,
)
from mmseg_xmodal.models.adaptation.fourier import swap_amplitude
from mmseg_xmodal.models.adaptation.masked_consistency import mask_grid
from mmseg_xmodal.models.data_preprocessor import ModalityPreprocessor
from mmseg_xmodal.models.layers.colour_space import colour_spaces
from mmseg_xmodal.models.layers.logit_probabilities import logit_probabilities
from mmseg_xmodal.models.layers.photometric import (
    Jitter,
    Photometric,
    StrongAugmentation,
    blur_size,
    hsv_to_rgb,
    rgb_to_hsv,
)
from mmseg_xmodal.models.layers.pixel_weights import pixel_weights
from mmseg_xmodal.models.layers.pseudo_labels import PseudoLabelRule, PseudoLabels

from .adaptation_toys import CLASSES, SIZE, batch, head, sample, wrapper


def make_step(model: Any, each: int = 2, **kwargs: Any) -> AdaptationStep:
    data = model.data_preprocessor(batch(each=each), True)
    source, target = model.split(data['inputs'], data['data_samples'])
    parts = (model.student, model.teacher, model.anchor)
    return AdaptationStep(*parts, source, target, model.data_preprocessor, **kwargs)


# Photometric draws


def test_colours_are_those_of_colorsys() -> None:
    colours = torch.rand(1, 3, 5, 7)
    colours[0, :, 0] = 0.4  # grey has no hue
    colours[0, :, 1] = 0
    hue, saturation, value = rgb_to_hsv(colours)
    for y in range(5):
        for x in range(7):
            expected = colorsys.rgb_to_hsv(*colours[0, :, y, x].tolist())
            got = [float(part[0, y, x]) for part in (hue, saturation, value)]
            assert got == pytest.approx(expected, abs=1e-5)
    torch.testing.assert_close(hsv_to_rgb(hue, saturation, value), colours)


def test_sizes_of_the_blur() -> None:
    """floor(ceil(n / 10) - 0.5 + ceil(n / 10) mod 2), by hand."""
    assert [blur_size(n) for n in (512, 1024, 32, 48)] == [51, 103, 3, 5]


def test_draws_lie_in_their_ranges_and_are_shared() -> None:
    augment = StrongAugmentation(jitter=0.25)
    rng = np.random.RandomState(0)
    drawn = [augment.draw(3, rng) for _ in range(400)]
    jitters = [d.jitter for images in drawn for d in images if d.jitter is not None]
    for images in drawn:
        for part in ('jitter', 'sigma'):
            assert len({getattr(d, part) is None for d in images}) == 1
    values = np.array([j[:4] for j in jitters]) - [0, 1, 1, 0]
    assert np.abs(values).max() <= 0.25
    assert np.abs(values).max(axis=0).min() > 0.24
    assert len({j.order for j in jitters}) == math.factorial(4)
    assert len(jitters) / 1200 == pytest.approx(0.8, abs=0.05)
    sigmas = [d.sigma for images in drawn for d in images if d.sigma is not None]
    assert len(sigmas) / 1200 == pytest.approx(0.5, abs=0.06)
    assert 0.15 <= min(sigmas) < 0.2
    assert 1.1 < max(sigmas) <= 1.15


def test_only_colour_is_augmented() -> None:
    modalities = [
        dict(name='depth', channels=1),
        dict(name='rgb', channels=3, order='bgr', mean=[9, 8, 7]),
    ]
    spaces = colour_spaces(ModalityPreprocessor(modalities))
    assert [s.channels for s in spaces] == [(3, 2, 1)]
    assert spaces[0].mean.flatten().tolist() == [7, 8, 9]
    images = torch.rand(2, 4, 20, 20)
    draws = [Photometric(Jitter(0.1, 1, 1, 0)), Photometric()]
    changed = StrongAugmentation()(images, spaces, draws)
    assert changed[:, 0].equal(images[:, 0])
    # A tenth of 255, where nothing is cut off.
    step = (changed - images)[0, 1:]
    torch.testing.assert_close(step, torch.full_like(step, 25.5))
    torch.testing.assert_close(changed[1], images[1])


@pytest.mark.parametrize(
    'draw', [Photometric(None, 1.1), Photometric(Jitter(0.1, 1.1, 0.9, 0.1), 0.6)]
)
def test_half_precision_does_not_reach_the_colours(draw: Photometric) -> None:
    spaces = colour_spaces(
        ModalityPreprocessor(dict(rgb=dict(channels=3, order='rgb', mean=[9, 8, 7])))
    )
    images = 255 * torch.rand(1, 3, 40, 60)
    plain = StrongAugmentation()(images, spaces, [draw])
    with torch.autocast('cpu', torch.bfloat16):
        assert StrongAugmentation()(images, spaces, [draw]).equal(plain)


def test_unknown_colour_is_refused() -> None:
    with pytest.raises(ValueError, match='augment=None'):
        colour_spaces(nn.Module())
    depth = ModalityPreprocessor(dict(depth=dict(channels=1)))
    with pytest.raises(ValueError, match="order='rgb'"):
        colour_spaces(depth)


# Pseudo-labels and weights


def test_classes_come_from_the_batch_or_the_image() -> None:
    labels = torch.tensor([[0, 1, 255], [2, 2, 2]]).view(2, 1, 1, 3)
    rng = np.random.RandomState(0)
    for _ in range(20):
        own = choose_classes(labels, 'image', rng)
        assert len(own[0]) == 2
        assert own[1].tolist() == [2]
        assert set(own[0].tolist()) <= {0, 1, 255}
    drawn = [choose_classes(labels, 'batch', rng) for _ in range(20)]
    assert all(len(c) == 2 for classes in drawn for c in classes)
    assert any(2 in classes[0].tolist() for classes in drawn)


def test_rules_of_pseudo_labels() -> None:
    logits = torch.zeros(1, 2, 4, 2)
    logits[:, 1, :2] = 9
    half = PseudoLabelRule(0.9)(logits)
    assert half.weight.unique().tolist() == [0.5]
    ignored = PseudoLabelRule(0.9, ignore_bottom=3, unsure='ignore')(logits)
    assert ignored.weight is None
    assert ignored.label[0, :, 0].tolist() == [1, 255, 255, 255]
    assert PseudoLabelRule(None, ignore_top=9)(logits).weight.sum() == 0
    assert PseudoLabelRule(None)(logits).weight.min() == 1


def test_a_binary_head_has_two_classes() -> None:
    probabilities = logit_probabilities(torch.tensor([0.0, 3.0]).view(1, 1, 1, 2))
    assert probabilities[0, :, 0, 0].tolist() == [0.5, 0.5]
    assert float(probabilities[0, 1, 0, 1]) == pytest.approx(1 / (1 + math.exp(-3)))


def test_padding_and_margins_of_the_target_do_not_teach() -> None:
    model = wrapper([])
    step = make_step(model, pseudo_rule=PseudoLabelRule(None))
    assert step.valid_target() is None
    step.target.samples[0].set_metainfo(dict(padding_size=(0, 8, 0, 4)))
    field = torch.ones(1, *SIZE)
    field[:, :5] = 0
    step.target.samples[1].gt_pseudo_valid = PixelData(data=field)
    weight = step.pseudo_labels().weight
    assert weight[0, :-4, :-8].all()
    assert weight[0].sum() == 28 * 40
    assert weight[1, 5:].all()
    assert weight[1].sum() == 27 * 48


def test_margins_of_a_padded_target_do_not_teach() -> None:
    """mmseg's preprocessor pads the image and the maps it knows, no other field."""
    model = wrapper([], pseudo_labels=dict(threshold=None))
    data = batch()
    data['inputs'][2] = data['inputs'][2][:, :24, :40]
    for image, s in zip(data['inputs'][2:], data['data_samples'][2:], strict=True):
        field = torch.ones(1, *image.shape[1:], dtype=torch.uint8)
        field[:, :5] = 0
        s.gt_pseudo_valid = PixelData(data=field)
    step = model.begin(**model.data_preprocessor(data, True))
    weight = step.pseudo_labels().weight
    assert weight[0, 5:24, :40].all()
    assert weight[0].sum() == 19 * 40
    assert weight[1].sum() == 27 * 48


def test_margins_of_another_size_are_refused() -> None:
    step = make_step(wrapper([]))
    field = PixelData(data=torch.ones(1, 40, SIZE[1]))
    step.target.samples[1].gt_pseudo_valid = field
    message = r"gt_pseudo_valid of 'x.png' .*\(40, 48\).*\(32, 48\).*seg_fields"
    with pytest.raises(ValueError, match=message):
        step.valid_target()


def test_weights_meet_those_of_the_heads_own_sampler() -> None:
    model = wrapper([])
    net = model.student
    step = make_step(model)
    label = step.source.labels()[:, 0]
    weight = torch.rand(2, *SIZE)
    plain = step.student_loss(step.source.inputs, PseudoLabels(label, weight))
    own = nn.Module()
    own.sample = lambda logits, labels: torch.full((2, *SIZE), 0.5)
    net.decode_head.sampler = own
    assert own in net.decode_head._modules.values()
    half = step.student_loss(step.source.inputs, PseudoLabels(label, weight))
    assert half['decode.loss_ce'].item() * 2 == pytest.approx(
        plain['decode.loss_ce'].item(), rel=1e-5
    )
    assert net.decode_head.sampler is own
    assert net.auxiliary_head.sampler is None


def test_a_head_that_ignores_weights_is_named() -> None:
    model = wrapper([dict(type='mmseg_xmodal.ClassMixSelfTraining')])
    aux = model.student.auxiliary_head
    logged = aux.loss_by_feat
    aux.loss_by_feat = lambda logits, samples: dict(loss_own=logits.mean())
    data = model.data_preprocessor(batch(), True)
    with pytest.raises(ValueError, match=r"\['FCNHead'\].*unsure='ignore'"):
        model(**data, mode='loss')
    assert aux.sampler is None
    model.pseudo_rule = PseudoLabelRule(unsure='ignore')
    assert 'mix.aux.loss_own' in model(**data, mode='loss')
    aux.loss_by_feat = logged
    with (
        pytest.raises(ValueError, match='crops or resizes'),
        pixel_weights(model.student, torch.ones(2, 5, 5)),
    ):
        model.student.loss(data['inputs'][:2], data['data_samples'][:2])
    with (
        pytest.raises(ValueError, match='this network'),
        pixel_weights(nn.Linear(1, 1), torch.ones(1)),
    ):
        pass


# The terms


def test_sources_are_reused_where_targets_are_more() -> None:
    model = wrapper([])
    step = make_step(model)
    step.source = DomainBatch(step.source.inputs[:1], step.source.samples[:1])
    term = ClassMixSelfTraining(augment=None)
    step.draws = {'mix.classes': [list(range(256)), []]}
    inputs, labels = term.mix(step)
    assert inputs[0].equal(step.source.inputs[0])
    assert inputs[1].equal(step.target.inputs[1])
    assert labels.weight[0].min() == 1
    assert labels.label[0].equal(step.source.labels()[0, 0])


def test_a_batch_without_things_costs_nothing() -> None:
    model = wrapper(
        [dict(type='mmseg_xmodal.FeatureAnchor', classes=[3])], anchor='copy'
    )
    data = batch()
    for s in data['data_samples'][:2]:
        s.gt_sem_seg.data[s.gt_sem_seg.data == 3] = 255
    losses = model(**model.data_preprocessor(data, True), mode='loss')
    loss = losses['anchor.loss_distance']
    assert loss.item() == 0
    loss.backward()
    assert all(
        torch.isfinite(p.grad).all() for p in model.student.backbone.parameters()
    )


def test_cells_of_any_size() -> None:
    """15 rows at 4 cells: neither an exact multiple nor a crash."""
    labels = torch.zeros(1, 1, 15, 20, dtype=torch.int64)
    labels[..., 10:] = 2
    cells = downscale_labels(labels, (4, 5), 3, 0.75)
    assert cells[0, 0, 0].tolist() == [0, 0, 255, 2, 2]


def test_distance_of_equal_features_has_a_gradient() -> None:
    feats = torch.ones(1, 3, 2, 2, requires_grad=True)
    loss = feature_distance(feats, torch.ones(1, 3, 2, 2), torch.ones(1, 1, 2, 2) > 0)
    loss.backward()
    assert loss.item() == 0
    assert feats.grad.abs().sum() == 0


def test_masked_images_of_both_domains() -> None:
    model = wrapper([])
    step = make_step(model, pseudo_rule=PseudoLabelRule(0.45, ignore_top=3))
    term = MaskedConsistency(images='both', augment=None)
    inputs, labels = term.choose(step)
    assert inputs[0].equal(step.source.inputs[0])
    assert inputs[1].equal(step.target.inputs[0])
    assert labels.label[0].equal(step.source.labels()[0, 0])
    assert labels.weight[0].min() == 1
    assert labels.weight[1, :3].max() == 0
    assert 0 < labels.weight[1, 3:].max() < 1
    step.draws = {'masked.mask': torch.zeros(2, 1, *SIZE)}
    seen = []
    model.student.backbone.register_forward_pre_hook(lambda m, args: seen.append(args))
    term(step)
    assert seen[0][0].abs().sum() == 0


def test_entropy_of_target_and_auxiliary_head() -> None:
    model = wrapper([])
    step = make_step(model)
    for logits in step.target_logits:
        logits.data.zero_()
    losses = EntropyMinimization()(step)
    assert {k: v.item() for k, v in losses.items()} == pytest.approx(
        dict(loss_entropy=1.0, loss_entropy_aux0=0.2)
    )
    losses = EntropyMinimization(kind='charbonnier', auxiliary=0.5)(step)
    assert losses['loss_entropy'].item() == pytest.approx(1, abs=1e-5)
    weighted = EntropyMinimization(weight=0.003).weighted(step)
    assert weighted['entropy.loss_entropy'].item() == pytest.approx(0.003)


@pytest.mark.parametrize('kind', ['shannon', 'charbonnier'])
@pytest.mark.parametrize('resize', [True, False])
def test_padding_has_no_entropy(kind: str, resize: bool) -> None:
    """The mean is that of the cropped map; nothing goes back to the padding."""
    term = EntropyMinimization(kind=kind, resize=resize)
    step = make_step(wrapper([]))
    size = SIZE if resize else (SIZE[0] // 8, SIZE[1] // 8)
    logits = torch.randn(2, CLASSES, *size).requires_grad_()
    step._target_logits = [logits]
    whole = term(step)['loss_entropy']
    # A quarter of the width of both, and the upper half of the second.
    for s in step.target.samples:
        s.set_metainfo(dict(padding_size=(0, SIZE[1] // 4, 0, 0)))
    field = torch.ones(1, *SIZE)
    field[:, : SIZE[0] // 2] = 0
    step.target.samples[1].gt_pseudo_valid = PixelData(data=field)
    loss = term(step)['loss_entropy']
    # At the smaller size the border of the padding lies within a place.
    share = torch.ones(2, *size)
    right = 3 * size[1] / 4
    for x in range(size[1]):
        share[:, :, x] = min(1.0, max(0.0, right - x))
    share[1, : size[0] // 2] = 0
    kept = share > 0
    e = -(logits.softmax(1) * logits.log_softmax(1)).sum(1) / math.log(CLASSES)
    e = e if kind == 'shannon' else e**4
    expected = (e * share).sum() / share.sum()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert whole.item() == pytest.approx(e.mean().item(), rel=1e-4)
    assert loss.item() != pytest.approx(whole.item(), rel=1e-4)
    loss.backward()
    moved = logits.grad.abs().sum(1) > 0
    assert moved.equal(kept)
    for s in step.target.samples:
        s.set_metainfo(dict(padding_size=(0, SIZE[1], 0, 0)))
    assert term(step)['loss_entropy'].item() == 0


def test_a_sure_pixel_has_no_nan() -> None:
    logits = torch.tensor([300.0, -300.0]).view(1, 2, 1, 1).requires_grad_()
    for kind in ('shannon', 'charbonnier'):
        step = AdaptationStep(None, None, None, None, None, None)
        step._target_logits = [logits]
        step.student = nn.Module()
        step.student.align_corners = False
        step.target = DomainBatch(torch.zeros(1, 3, 1, 1), [])
        loss = EntropyMinimization(kind=kind)(step)['loss_entropy']
        assert loss.item() == pytest.approx(0, abs=1e-6)
        loss.backward()
        assert torch.isfinite(logits.grad).all()


def test_the_source_takes_the_style_of_the_target() -> None:
    """At beta 0 of the centred band only the mean colour moves."""
    model = wrapper([])
    step = make_step(model)
    before = step.source.inputs.clone()
    term = FourierDomainAdaptation(beta=0.0, mode='centered')
    assert term(step) == {}
    term.prepare(step)
    after = step.source.inputs
    torch.testing.assert_close(
        after.mean((2, 3)), step.target.inputs.mean((2, 3)), atol=1e-3, rtol=0
    )
    moved = after - before
    assert (moved - moved.mean((2, 3), keepdim=True)).abs().max() < 1e-3
    term = FourierDomainAdaptation(beta=0.0)
    term.prepare(step)
    torch.testing.assert_close(step.source.inputs, after)
    with pytest.raises(ValueError, match='equal sizes'):
        swap_amplitude(torch.zeros(3, 8, 8), torch.zeros(3, 8, 9), 0.1)


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: ClassMixSelfTraining(classes_from='pixel'), "'batch' or 'image'"),
        (lambda: ClassMixSelfTraining(weight=-1), 'weight=-1'),
        (lambda: ClassMixSelfTraining(name='my.loss'), "without '.'"),
        (lambda: ClassMixSelfTraining(augment=dict(jitter=2)), 'jitter=2'),
        (lambda: FeatureAnchor(classes=[]), 'at least one class'),
        (lambda: MaskedConsistency(ratio=1.0), 'ratio=1.0'),
        (lambda: MaskedConsistency(images='all'), "images='all'"),
        (lambda: mask_grid(32, 15, 32), 'twice the shorter side'),
        (lambda: EntropyMinimization(kind='renyi'), "kind='renyi'"),
        (lambda: FourierDomainAdaptation(beta=0.6), 'beta=0.6'),
        (lambda: PseudoLabelRule(threshold=2), 'threshold=2'),
        (lambda: PseudoLabelRule(ignore_top=-1), 'ignore_top=-1'),
        (lambda: PseudoLabelRule(unsure='drop'), "unsure='drop'"),
    ],
)
def test_bad_arguments(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_wrong_thing_classes_are_named() -> None:
    model = wrapper([FeatureAnchor(classes=[CLASSES])], anchor='copy')
    with pytest.raises(ValueError, match='ids from 0 to 3'):
        model(**model.data_preprocessor(batch(), True), mode='loss')


def test_a_head_without_one_map_is_refused() -> None:
    model = wrapper([EntropyMinimization()])
    model.student.auxiliary_head = None
    step = make_step(model)
    model.student.decode_head.forward = lambda feats: (feats, feats)
    with pytest.raises(TypeError, match='expected one map of logits'):
        step.target_logits  # noqa: B018


def test_a_source_in_several_passes_is_refused() -> None:
    step = make_step(wrapper())
    part = step.source.inputs[:1]
    step.source_calls.append(((part,), [part]))
    with pytest.raises(ValueError, match=r'saw 1 of 2 source images.*domain_norm'):
        _ = step.source_pass


def test_an_unlabelled_source_is_named() -> None:
    step = DomainBatch(torch.zeros(1, 3, *SIZE), [sample('source', None)])
    with pytest.raises(ValueError, match=r"'x.png'.*LoadAnnotations"):
        step.labels()


def test_two_resolutions_are_weighed_too() -> None:
    """HRDA inside: the detail's loss takes the weights of its crop."""
    student = dict(
        type='mmseg_xmodal.MultiResolutionSegmentor',
        data_preprocessor=dict(type='mmseg.SegDataPreProcessor', size=SIZE),
        backbone=dict(type='mmseg_xmodal.AdaptToyBackbone'),
        decode_head=head(8, 1, 1.0),
        scale_attention=head(8, 1, 1.0),
        detail_size=(16, 16),
        detail_stride=(16, 16),
        crop_divisor=16,
    )
    terms = [ClassMixSelfTraining(augment=None), FeatureAnchor(classes=[1, 2])]
    model = wrapper(
        terms, student=student, anchor='copy', pseudo_labels=dict(ignore_top=32)
    )
    model.next_draws = {'mix.classes': [[], []]}
    losses = model(**model.data_preprocessor(batch(), True), mode='loss')
    assert losses['mix.decode.loss_ce'].item() == 0
    assert losses['mix.decode.detail_loss_ce'].item() == 0
    assert losses['source.decode.detail_loss_ce'].item() > 0
    assert losses['anchor.loss_distance'].item() > 0
