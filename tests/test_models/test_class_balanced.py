"""Weighted cross entropy, and the stock losses against imbalance in our heads.

The case that made it, in stock mmseg (logits of 2 classes, one labelled and one
ignored pixel):

    CrossEntropyLoss(class_weight=[1.0, 2.0])(
        torch.zeros(1, 2, 1, 2), torch.tensor([[[1, 255]]]), ignore_index=255)

raises ``IndexError: index 255 is out of bounds for dimension 0 with size 2`` in mmseg
1.2.2, which looks up the weight of the label 255. onedl-mmsegmentation 1.4.2 computes
it, and with ``avg_non_ignore=True`` raises an IndexError too: it masks the weights of
the labelled pixels with a mask of all pixels.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.registry import MODELS as MMSEG_MODELS
from mmseg.structures import SegDataSample

from mmseg_xmodal.models.losses import ClassBalancedCrossEntropy
from mmseg_xmodal.registry import MODELS
from mmseg_xmodal.structures import ClassStats

DOCUMENT = Path(__file__).resolve().parents[2] / 'docs/imbalance.md'
WEIGHTS = [0.5, 1.0, 2.0, 4.0]


def batch(ignored: bool = True, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 4, (2, 5, 6), generator=generator)
    score = 2 * torch.randn(2, 4, 5, 6, generator=generator)
    if ignored:
        label[:, :2] = 255
    return score, label


def brute_force(score, label, gamma=0.0, pixel=None, avg_non_ignore=True) -> float:
    """The definition, pixel by pixel."""
    total = divisor = 0.0
    for b, y, x in torch.cartesian_prod(*(torch.arange(n) for n in label.shape)):
        target = int(label[b, y, x])
        if target == 255:
            continue
        p = float(score[b, :, y, x].double().softmax(0)[target])
        term = WEIGHTS[target] * (1 - p) ** gamma * -math.log(p)
        total += term * (1 if pixel is None else float(pixel[b, y, x]))
        divisor += WEIGHTS[target]
    return total / (divisor if avg_non_ignore else label.numel())


@pytest.mark.parametrize('avg_non_ignore', [True, False])
@pytest.mark.parametrize('gamma', [0.0, 0.5, 2.0])
@pytest.mark.parametrize('weighted', [True, False])
def test_is_its_definition(gamma, avg_non_ignore, weighted):
    score, label = batch()
    pixel = torch.rand(label.shape) if weighted else None
    loss = ClassBalancedCrossEntropy(
        WEIGHTS, gamma=gamma, avg_non_ignore=avg_non_ignore
    )
    expected = brute_force(score, label, gamma, pixel, avg_non_ignore)
    assert float(loss(score, label, weight=pixel)) == pytest.approx(expected, rel=1e-5)


def test_is_the_loss_of_torch():
    score, label = batch()
    expected = F.cross_entropy(score, label, torch.tensor(WEIGHTS), ignore_index=255)
    got = ClassBalancedCrossEntropy(WEIGHTS, loss_weight=3.0)(score, label)
    torch.testing.assert_close(got, 3 * expected)
    # Twice the weights are the same weighted mean.
    twice = ClassBalancedCrossEntropy([2 * w for w in WEIGHTS], loss_weight=3.0)
    torch.testing.assert_close(twice(score, label), got)


@pytest.mark.parametrize('avg_non_ignore', [True, False])
def test_is_the_stock_loss_where_that_works(avg_non_ignore):
    stock = dict(type='CrossEntropyLoss', avg_non_ignore=avg_non_ignore)
    score, label = batch()
    even = ClassBalancedCrossEntropy([1.0] * 4, avg_non_ignore=avg_non_ignore)
    expected = MMSEG_MODELS.build(stock)(score, label, ignore_index=255)
    torch.testing.assert_close(even(score, label), expected)
    # With weights and without ignored pixels.
    score, label = batch(ignored=False)
    weighted = dict(type='CrossEntropyLoss', class_weight=WEIGHTS)
    expected = MMSEG_MODELS.build(weighted)(score, label, ignore_index=255)
    torch.testing.assert_close(
        ClassBalancedCrossEntropy(WEIGHTS)(score, label), expected
    )


@pytest.mark.parametrize('ignore_index', [255, -1, 2])
def test_ignored_pixels_take_no_part(ignore_index):
    score, label = batch()
    label[label == 255] = ignore_index
    loss = ClassBalancedCrossEntropy(WEIGHTS, gamma=1.0)
    changed = score.clone()
    where = (label == ignore_index).unsqueeze(1).expand_as(score)
    changed[where] += 100 * torch.rand(int(where.sum()))
    changed.requires_grad_()
    first = loss(score, label, ignore_index=ignore_index)
    second = loss(changed, label, ignore_index=ignore_index)
    torch.testing.assert_close(second, first)
    second.backward()
    assert not changed.grad[where].any()
    assert changed.grad[~where].any()


@pytest.mark.parametrize('avg_non_ignore', [True, False])
@pytest.mark.parametrize('gamma', [0.0, 0.5])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_nothing_labelled_gives_zero_and_no_gradient(dtype, gamma, avg_non_ignore):
    score = torch.randn(1, 4, 4, 4, dtype=dtype, requires_grad=True)
    label = torch.full((1, 4, 4), 255)
    loss = ClassBalancedCrossEntropy(
        WEIGHTS, gamma=gamma, avg_non_ignore=avg_non_ignore
    )(score, label)
    loss.backward()
    assert float(loss) == 0
    assert not score.grad.any()


def test_sure_and_right_pixels_have_finite_gradients():
    score = torch.zeros(1, 4, 1, 3)
    score[0, 1] = torch.tensor([[200.0, 17.0, 0.0]])
    score.requires_grad_()
    label = torch.ones(1, 1, 3, dtype=torch.long)
    ClassBalancedCrossEntropy(WEIGHTS, gamma=0.5)(score, label).backward()
    assert torch.isfinite(score.grad).all()
    assert score.grad.any()


def _save(path, pixels=((90, 8, 2, 0), (50, 0, 0, 0))) -> str:
    counts = np.array(pixels)
    files = tuple(f'{i}.png' for i in range(len(counts)))
    ClassStats(tuple('abcd'), files, counts, np.zeros(len(counts), int)).save(path)
    return str(path)


@pytest.mark.parametrize('scheme', ['inverse', 'median', 'effective', 'enet'])
def test_weights_from_statistics(tmp_path, scheme):
    path = _save(tmp_path / 'stats.json')
    expected = ClassStats.load(path).weights(scheme, beta=0.9)
    assert expected[2] > expected[0]
    loss = ClassBalancedCrossEntropy(stats=path, scheme=scheme, beta=0.9)
    score, label = batch()
    assert loss.class_weight == pytest.approx(expected.tolist())
    listed = ClassBalancedCrossEntropy(expected.tolist())
    torch.testing.assert_close(loss(score, label), listed(score, label))
    assert not loss.state_dict()


def test_a_trained_model_needs_no_statistics(tmp_path):
    loss = ClassBalancedCrossEntropy(stats=str(tmp_path / 'gone.json'))
    with pytest.raises(FileNotFoundError, match='tools/class_stats.py'):
        loss(*batch())


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (dict(), 'expected one of the two'),
        (dict(class_weight=WEIGHTS, stats='x.json'), 'expected one of the two'),
        (dict(class_weight=[1.0, -1.0]), 'at least 0'),
        (dict(class_weight=WEIGHTS, gamma=-1.0), 'at least 0'),
        (dict(stats='x.json', scheme='best'), "scheme='best'"),
        (dict(stats='x.json', beta=1.0), 'beta=1.0'),
    ],
)
def test_wrong_arguments(wrong, message):
    with pytest.raises(ValueError, match=message):
        ClassBalancedCrossEntropy(**wrong)


def test_wrong_number_of_weights(tmp_path):
    score, label = batch()
    with pytest.raises(ValueError, match=r'3 weights \(class_weight\).* 4 channels'):
        ClassBalancedCrossEntropy(WEIGHTS[:3])(score, label)


def head(loss, **kwargs):
    cfg = dict(
        type='mmseg_xmodal.CMXHead',
        in_channels=[4, 4, 4, 4],
        channels=8,
        num_classes=4,
        dropout_ratio=0.0,
        loss_decode=loss,
    )
    torch.manual_seed(0)
    return MODELS.build(cfg | kwargs)


def train_step(module, ignored: str = 'some'):
    """Losses and the gradient of the class scores of one small batch."""
    torch.manual_seed(1)
    feats = [torch.randn(2, 4, 16 // 2**i, 16 // 2**i) for i in range(4)]
    label = torch.randint(0, 4, (2, 1, 64, 64))
    if ignored == 'all':
        label[:] = 255
    elif ignored == 'some':
        label[:, :, :20] = 255
    samples = [SegDataSample(gt_sem_seg=PixelData(data=each)) for each in label]
    scores = module(feats)
    scores.retain_grad()
    losses = module.loss_by_feat(scores, samples)
    sum(v for k, v in losses.items() if k.startswith('loss')).backward()
    return losses, scores.grad


def check(losses: dict, grad: torch.Tensor, name: str) -> None:
    assert torch.isfinite(losses[name])
    assert float(losses[name].detach()) > 0
    assert torch.isfinite(grad).all()
    assert grad.any()


BALANCED = dict(type='mmseg_xmodal.ClassBalancedCrossEntropy', class_weight=WEIGHTS)
# Losses against imbalance that mmseg brings, as docs/imbalance.md names them.
STOCK = {
    'lovasz': dict(type='LovaszLoss', reduction='none', loss_name='loss_lovasz'),
    'lovasz_per_image': dict(type='LovaszLoss', per_image=True),
    'dice': dict(type='DiceLoss', use_sigmoid=False),
    'tversky': dict(type='TverskyLoss', alpha=0.5, beta=0.5),
}


@pytest.mark.parametrize('ignored', ['none', 'some', 'all'])
@pytest.mark.parametrize('gamma', [0.0, 2.0])
def test_in_a_head(gamma, ignored):
    losses, grad = train_step(head(BALANCED | dict(gamma=gamma)), ignored)
    if ignored == 'all':
        assert float(losses['loss_ce'].detach()) == 0
        assert not grad.any()
    else:
        check(losses, grad, 'loss_ce')


@pytest.mark.parametrize('sampled', [BALANCED, dict(type='CrossEntropyLoss')])
def test_with_the_stock_pixel_sampler(sampled):
    sampler = dict(type='OHEMPixelSampler', thresh=0.7, min_kept=100)
    module = head(sampled, sampler=sampler)
    check(*train_step(module), 'loss_ce')
    # All class weights 1: the sampler's weights do the same in both.
    if sampled is BALANCED:
        even = BALANCED | dict(class_weight=[1.0] * 4, avg_non_ignore=False)
        ours = train_step(head(even, sampler=sampler))[0]['loss_ce']
        stock = train_step(head(dict(type='CrossEntropyLoss'), sampler=sampler))[0]
        torch.testing.assert_close(ours, stock['loss_ce'])


@pytest.mark.parametrize('name', STOCK)
def test_stock_losses_in_our_head(name):
    loss = STOCK[name]
    check(*train_step(head(loss)), 'loss_' + name.split('_')[0])
    both = [BALANCED, loss | dict(loss_weight=0.5)]
    losses, grad = train_step(head(both))
    check(losses, grad, 'loss_ce')


def test_stock_lovasz_leaves_ignored_pixels_alone_and_dice_does_not():
    """Said in docs/imbalance.md: Dice pushes ignored pixels away from every class."""
    score, label = batch()
    gradients = {}
    for name in ('lovasz', 'dice'):
        leaf = score.clone().requires_grad_()
        MMSEG_MODELS.build(STOCK[name])(leaf, label, ignore_index=255).backward()
        gradients[name] = leaf.grad[:, :, :2]  # the ignored rows
    assert not gradients['lovasz'].any()
    assert gradients['dice'].any()


def test_our_ohem_in_our_head():
    loss = dict(type='mmseg_xmodal.OHEMCrossEntropyLoss')
    check(*train_step(head(loss)), 'loss_ohem')


def test_stock_focal_loss_on_the_cpu():
    """Its CPU form takes one column of the one-hot labels: shapes do not fit."""
    with pytest.raises(RuntimeError, match='must match the size of tensor'):
        train_step(head(dict(type='FocalLoss')))


def test_stock_ohem_cross_entropy_is_no_loss_of_a_head():
    """``OhemCrossEntropy`` takes neither weights nor ``ignore_index`` from a head."""
    with pytest.raises(TypeError, match="unexpected keyword argument 'weight'"):
        train_step(head(dict(type='OhemCrossEntropy')))


def _lines(title: str) -> dict:
    """What the Python lines under a heading of docs/imbalance.md define."""
    text = DOCUMENT.read_text().split(f'## {title}\n')[1].split('\n## ')[0]
    found: dict = {}
    exec(text.split('```python\n')[1].split('```')[0], found)
    found.pop('__builtins__')
    return found


def test_lines_of_the_document(tmp_path):
    loss = _lines('Class weights')['model']['decode_head']['loss_decode']
    assert loss.pop('_delete_') is True
    assert loss['stats'] == 'data/own/class_stats.json'
    check(*train_step(head(loss | dict(stats=_save(tmp_path / 'x.json')))), 'loss_ce')
    losses = _lines('Losses of mmseg')
    assert losses.pop('model')['decode_head']['loss_decode'] is losses['lovasz']
    assert set(losses) == {'lovasz', 'dice', 'tversky', 'ohem', 'focal'}
    for name, loss in losses.items():
        key = 'loss_ce' if name == 'focal' else f'loss_{name}'
        check(*train_step(head(loss)), key)
