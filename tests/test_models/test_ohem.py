from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from mmseg_xmodal.models.losses import OHEMCrossEntropyLoss
from mmseg_xmodal.registry import MODELS


def brute_force(score, label, threshold=0.7, share=16, weight=(1,) * 4) -> float:
    """The definition, pixel by pixel, by sorting; the losses are weighted first."""
    losses, labelled = [], 0
    for b, y, x in torch.cartesian_prod(*(torch.arange(n) for n in label.shape)):
        target = int(label[b, y, x])
        if target == 255:
            losses.append(0.0)
            continue
        labelled += 1
        own = -float(score[b, :, y, x].log_softmax(0)[target])
        losses.append(weight[target] * own)
    hard = [loss for loss in losses if loss > -math.log(threshold)]
    if len(hard) < labelled // share:
        hard = sorted(losses, reverse=True)[: labelled // share]
    return sum(hard) / len(hard)


def batch(sharpness: float, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 4, (2, 8, 12), generator=generator)
    score = torch.randn(2, 4, 8, 12, generator=generator)
    score += sharpness * F.one_hot(label, 4).permute(0, 3, 1, 2)
    label[:, :3] = 255
    return score, label


# From all pixels hard to hardly one: both branches.
@pytest.mark.parametrize('sharpness', [0.0, 2.0, 4.0, 8.0, 12.0])
def test_is_the_published_loss(sharpness):
    score, label = batch(sharpness)
    loss = OHEMCrossEntropyLoss()(score, label)
    assert float(loss) == pytest.approx(brute_force(score, label), rel=1e-5)


@pytest.mark.parametrize('sharpness', [0.0, 4.0, 12.0])
def test_class_weights_take_part_in_the_choice(sharpness):
    score, label = batch(sharpness)
    weight = [0.1, 1.0, 3.0, 10.0]
    loss = OHEMCrossEntropyLoss(class_weight=weight)(score, label)
    expected = brute_force(score, label, weight=weight)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_both_branches_were_seen():
    counts = []
    for sharpness in (2.0, 12.0):
        score, label = batch(sharpness)
        losses = F.cross_entropy(score, label, ignore_index=255, reduction='none')
        counts.append(int((losses > -math.log(0.7)).sum()))
    labelled = int((label != 255).sum())
    assert counts[0] > labelled // 16 > counts[1]


def test_only_kept_pixels_get_a_gradient():
    score, label = batch(12.0)
    score.requires_grad_()
    OHEMCrossEntropyLoss()(score, label).backward()
    touched = (score.grad != 0).any(1)
    assert int(touched.sum()) == int((label != 255).sum()) // 16
    assert not touched[label == 255].any()


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_a_batch_without_labels_gives_zero_and_no_gradient(dtype):
    score = torch.randn(1, 4, 4, 4, dtype=dtype, requires_grad=True)
    loss = OHEMCrossEntropyLoss()(score, torch.full((1, 4, 4), 255))
    loss.backward()
    assert float(loss) == 0
    assert not score.grad.any()


def test_few_easy_pixels_keep_one():
    score, label = batch(8.0)
    label[:] = 255
    label[0, 4, 4] = int(score[0, :, 4, 4].argmax())
    loss = OHEMCrossEntropyLoss()(score, label)
    assert 0 < float(loss) < -math.log(0.7)
    assert float(loss) == float(F.cross_entropy(score, label, ignore_index=255))


def test_options():
    score, label = batch(2.0)
    plain = OHEMCrossEntropyLoss()(score, label)
    # Twice the loss of the same pixels: they are chosen by their weighted loss.
    weighted = OHEMCrossEntropyLoss(class_weight=[2.0] * 4, threshold=0.7**2)
    assert float(OHEMCrossEntropyLoss(loss_weight=3.0)(score, label)) == pytest.approx(
        3 * float(plain)
    )
    assert float(weighted(score, label)) == pytest.approx(2 * float(plain))
    whole = OHEMCrossEntropyLoss(min_kept=1.0)(score, label)
    mean = F.cross_entropy(score, label, ignore_index=255)
    assert float(whole) == pytest.approx(float(mean))


def test_in_a_head():
    head = MODELS.build(
        dict(
            type='mmseg_xmodal.CMNeXtHead',
            in_channels=[4, 4, 4, 4],
            channels=8,
            num_classes=4,
            loss_decode=dict(type='mmseg_xmodal.OHEMCrossEntropyLoss'),
        )
    )
    assert head.loss_decode.loss_name == 'loss_ohem'
    score, label = batch(2.0)
    assert torch.isfinite(head.loss_decode(score, label, weight=None, ignore_index=255))


@pytest.mark.parametrize('wrong', [dict(threshold=1.0), dict(min_kept=0.0)])
def test_wrong_numbers(wrong):
    with pytest.raises(ValueError, match='expected a probability in'):
        OHEMCrossEntropyLoss(**wrong)


def test_a_sampler_is_refused():
    score, label = batch(2.0)
    with pytest.raises(ValueError, match='Take `sampler` out'):
        OHEMCrossEntropyLoss()(score, label, weight=torch.ones_like(label))
