"""MultiResolutionSegmentor: steps and predictions as described, draws, bad input."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmseg_xmodal.models.layers.resolutions import (
    CropBox,
    ResolutionFeatures,
    average_windows,
)

from .head_cases import total
from .helpers import rand, without_gradient
from .resolution_toys import (
    ATTENTION,
    OWN_LOSS,
    SIZE,
    batch,
    build,
    up,
)


def test_a_step_is_that_of_the_description() -> None:
    """The algorithm, written out for one crop, on the same modules."""
    model = build(rng=np.random.RandomState(3))
    inputs, samples = batch()
    losses = model(inputs, samples, mode='loss')
    total(losses).backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
    buffers = {n: b.clone() for n, b in model.named_buffers()}

    other = build()
    top, left = np.random.RandomState(3).randint(0, [(32 + 1) // 8, (48 + 1) // 8]) * 8
    label = torch.stack([s.gt_sem_seg.data for s in samples])[:, 0]
    small = F.avg_pool2d(inputs, 2)  # what bilinear interpolation by half is
    crop = inputs[:, :, top : top + 32, left : left + 48]
    low, high = other.backbone(small), other.backbone(crop)
    head = other.decode_head.head
    context, detail = head(low), head(high)
    share = other.decode_head.scale_attention(low).sigmoid()
    mask = torch.zeros(1, 1, 8, 12)
    mask[..., top // 8 : top // 8 + 4, left // 8 : left // 8 + 6] = 1
    canvas = torch.zeros(2, 5, 16, 24)
    canvas[..., top // 4 : top // 4 + 8, left // 4 : left // 4 + 12] = detail
    share = share * mask
    fused = up(share, 2) * canvas + up((1 - share) * context, 2)

    def loss(logits: Tensor, truth: Tensor) -> Tensor:
        each = F.cross_entropy(logits, truth, ignore_index=255, reduction='none')
        return each.mean()  # over ignored pixels as well

    first = 0.9 * loss(up(fused, 4), label)
    part = label[:, top : top + 32, left : left + 48]
    second = 0.1 * loss(up(detail, 4), part)
    torch.testing.assert_close(losses['decode.loss_ce'], first)
    torch.testing.assert_close(losses['decode.detail_loss_ce'], second)
    (first + second).backward()
    for name, parameter in other.named_parameters():
        torch.testing.assert_close(
            gradients[name], parameter.grad, rtol=1e-4, atol=1e-6, msg=name
        )
    torch.testing.assert_close(buffers, dict(other.named_buffers()))


def test_prediction_is_that_of_the_description() -> None:
    model = build().eval()
    inputs, samples = batch()
    with torch.no_grad():
        low = model.backbone(F.avg_pool2d(inputs, 2))
        head = model.decode_head
        canvas, count = torch.zeros(2, 5, 16, 24), torch.zeros(16, 24)
        for top in (0, 16, 32):
            for left in (0, 24, 48):
                place = (
                    slice(top // 4, top // 4 + 8),
                    slice(left // 4, left // 4 + 12),
                )
                crop = inputs[:, :, top : top + 32, left : left + 48]
                canvas[(..., *place)] += head.head(model.backbone(crop))
                count[place] += 1
        share = head.scale_attention(low).sigmoid()
        fused = up(share, 2) * canvas / count + up((1 - share) * head.head(low), 2)
        found = model(inputs, samples, mode='predict')
        raw = model(inputs)
    torch.testing.assert_close(raw, fused, rtol=1e-4, atol=1e-5)
    for i, one in enumerate(found):
        expected = up(fused, 4)[i]
        torch.testing.assert_close(one.seg_logits.data, expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(one.pred_sem_seg.data[0], one.seg_logits.data.argmax(0))


def test_every_draw_can_be_injected() -> None:
    inputs, samples = batch()
    box = CropBox(16, 48, 24, 72)
    model = build().eval()
    given = [total(model.loss(inputs, samples, box=box)) for _ in range(2)]
    assert torch.equal(*given)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    build(rng=np.random.RandomState(0)).draw_crop(inputs)
    model(inputs, samples, mode='predict')
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    drawn = []
    for _ in range(2):
        np.random.seed(5)  # noqa: NPY002
        drawn.append([model.draw_crop(inputs) for _ in range(8)])
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) > 1
    assert all(b.top % 8 == b.left % 8 == 0 for b in drawn[0])


def test_models_share_no_state() -> None:
    inputs, samples = batch()
    boxes = [CropBox(0, 32, 0, 48), CropBox(32, 64, 48, 96)]
    models = [build().eval() for _ in boxes]
    pairs = list(zip(models, boxes, strict=True))
    alone = [total(m.loss(inputs, samples, b)) for m, b in pairs]
    feats = [m.extract_feat(inputs, [b]) for m, b in pairs]
    mixed = [
        total(m.decode_head.loss(f, samples))
        for m, f in zip(models, feats, strict=True)
    ]
    assert torch.equal(torch.stack(alone), torch.stack(mixed))
    assert not torch.equal(*alone)
    twin = copy.deepcopy(models[0])
    assert torch.equal(total(twin.loss(inputs, samples, boxes[0])), alone[0])


def test_features_are_those_of_the_context() -> None:
    model = build()
    inputs, _ = batch()
    crop = model.extract_feat(inputs)
    assert [len(crop), len(crop.detail), len(crop.boxes)] == [4, 4, 1]
    low = model.backbone(F.avg_pool2d(inputs, 2))
    for a, b in zip(crop, low, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert torch.equal(crop[-1], crop.context[3])
    assert len(crop[1:]) == 3
    with torch.no_grad():  # a teacher may be in training mode
        assert len(model.extract_feat(inputs).boxes) == 9
    assert len(model.eval().extract_feat(inputs).boxes) == 9


@pytest.mark.parametrize('size', [(24, 40), (45, 59), (70, 101), (7, 9)])
def test_any_size(size: tuple[int, int]) -> None:
    # Before a BN in training mode a bias has no gradient.
    model = build(rng=np.random.RandomState(0)).eval()
    inputs, samples = batch(size)
    losses = model(inputs, samples, mode='loss')
    total(losses).backward()
    assert torch.isfinite(total(losses))
    assert without_gradient(model) == []
    with torch.no_grad():
        found = model(inputs, samples, mode='predict')
        assert model(inputs, mode='predict')[0].seg_logits.data.shape == (5, *size)
    assert found[1].pred_sem_seg.data.shape == (1, *size)
    # Padding is the mean: a picture that is padded already gives the same.
    padded = F.pad(inputs, (0, -size[1] % 8, 0, -size[0] % 8))
    with torch.no_grad():
        whole = model.encode_decode(padded, [{}])[..., : size[0], : size[1]]
        torch.testing.assert_close(model.encode_decode(inputs, [{}]), whole)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(detail_size=(30, 48)), 'multiples of crop_divisor=8'),
        (dict(detail_size=(32,)), r'detail_size=\(32,\), expected height and width'),
        (dict(detail_stride=(8, 8, 8)), r'detail_stride=\(8, 8, 8\), expected height'),
        (dict(detail_size=32), r'detail_size=32, expected height and width'),
        (dict(detail_stride=(40, 48)), 'must not leave gaps'),
        (dict(context_scale=1.5), 'expected a scale in'),
        (dict(context_scale=0.3), 'whole number'),
        (dict(detail_loss_weight=1.0), r'detail_loss_weight is 1.0'),
        (dict(scale_attention=ATTENTION | dict(num_classes=3)), 'expected 1 or 5'),
        (dict(decode_head=OWN_LOSS), 'computes its loss in a way of its own'),
    ],
)
def test_bad_configs(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**changes)


def test_bad_input() -> None:
    model = build()
    inputs, samples = batch()
    for boxes in (
        [],
        [CropBox(40, 72, 0, 48)],
        [CropBox.whole(SIZE), CropBox(0, 8, 0, 8)],
    ):
        with pytest.raises(ValueError, match='all of one size and within'):
            model.extract_feat(inputs, boxes)
    with pytest.raises(ValueError, match='does not lie on the cells'):
        model.loss(inputs, samples, CropBox(4, 36, 0, 48))
    with pytest.raises(TypeError, match='expected the ResolutionFeatures'):
        model.decode_head(model.backbone(inputs))
    with pytest.raises(ValueError, match='is no crop'):
        CropBox(8, 8, 0, 8)
    with pytest.raises(ValueError, match='does not divide the picture'):
        average_windows(rand(1, 2, 5, 5), [CropBox(0, 32, 0, 32)], (48, 48))
    feats = model.extract_feat(inputs)
    assert isinstance(feats, ResolutionFeatures)
    model.decode_head.head.forward = lambda maps: [maps[0]]
    with pytest.raises(TypeError, match='gives a list, expected one map'):
        model.decode_head(feats)
