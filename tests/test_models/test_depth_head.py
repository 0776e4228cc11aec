"""DepthHead: what its output means, what it trains on, what it predicts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_xmodal.datasets.transforms import XModalResize
from mmseg_xmodal.models.decode_heads import DepthHead
from mmseg_xmodal.registry import MODELS

from .head_cases import (
    SIZE,
    WIDTHS,
    check_nothing_known,
    check_training,
    feats,
    sample,
    total,
)
from .helpers import rand

LINEAR = dict(output='linear', mean=100.0, std=30.0, target='gt_elevation')
L1 = dict(type='mmseg_xmodal.MaskedL1Loss')


def _head(**changes: Any) -> DepthHead:
    cfg: dict = dict(type='mmseg_xmodal.DepthHead', in_channels=WIDTHS, channels=16)
    return MODELS.build(cfg | changes)


def _depth(seed: int = 0) -> Tensor:
    """Metres, with holes."""
    depth = 1 + 5 * rand(1, *SIZE, seed=seed).abs()
    depth[:, :7, 5:20] = torch.nan
    return depth


def _samples(name: str = 'gt_depth_map') -> list:
    return [sample(**{name: _depth(i)}) for i in range(2)]


@pytest.mark.parametrize(
    'changes',
    [
        dict(),
        dict(output='sigmoid', in_index=[1, 3], in_channels=WIDTHS[1::2]),
        dict(loss_decode=[L1, dict(type='mmseg_xmodal.BerHuLoss')], refine=False),
        LINEAR,
    ],
)
def test_trains(changes: dict) -> None:
    head = _head(**changes)
    samples = _samples(head.target)
    check_training(head, samples)
    for each in samples:
        each.get(head.target).data.fill_(torch.nan)
    check_nothing_known(head, samples)


def test_forms_of_the_output() -> None:
    x = torch.tensor([-9.0, 0.0, 1.0, 200.0]).view(1, 1, 1, 4)
    log = _head(min_depth=0.5, max_depth=10.0).activate(x)
    assert log.flatten().tolist() == [0.5, 1.0, pytest.approx(2.718282), 10.0]
    ranged = _head(output='sigmoid', min_depth=0.5, max_depth=10.0).activate(x)
    expected = 0.5 + 9.5 * x.sigmoid()
    torch.testing.assert_close(ranged, expected)
    torch.testing.assert_close(_head(**LINEAR).activate(x), 100 + 30 * x)
    assert _head().activate(x.bfloat16()).dtype == torch.float32


def test_no_pixel_gets_stuck_behind_the_clamp() -> None:
    """Too far by much: the value is cut off, but the gradient pulls it back."""
    x = torch.tensor([-9.0, 1.0, 200.0]).view(1, 1, 1, 3).requires_grad_()
    depth = _head(min_depth=0.5, max_depth=10.0).activate(x)
    depth.sum().backward()
    # The slope of exp() at what it was cut off to.
    torch.testing.assert_close(x.grad, depth.detach())


def test_loss_is_that_of_the_interpolated_values() -> None:
    head, samples = _head(loss_decode=L1), _samples()
    output = head(feats())
    pred = F.interpolate(head.activate(output), SIZE, mode='bilinear')
    target = torch.stack([s.gt_depth_map.data for s in samples])
    expected = (pred - target).abs()[torch.isfinite(target)].mean()
    losses = head.loss_of(output, samples)
    assert list(losses) == ['loss_l1']
    torch.testing.assert_close(losses['loss_l1'], expected)
    twice = _head(loss_decode=[L1, L1]).loss_of(output, samples)
    torch.testing.assert_close(twice['loss_l1'], 2 * expected)


def test_a_raw_output_of_any_size_is_supervised() -> None:
    output = rand(2, 1, 3, 5).requires_grad_()
    total(_head().loss_of(output, _samples())).backward()
    assert output.grad.all()


def test_truth_beyond_the_limits_is_not_trained_on() -> None:
    head, samples = _head(min_depth=0.5, max_depth=4.0), _samples()
    target = head.truth(samples)
    known = target[torch.isfinite(target)]
    assert 0.5 <= known.min() <= known.max() <= 4
    raw = torch.stack([s.gt_depth_map.data for s in samples])
    assert (raw > 4).sum() > 100
    assert int((raw <= 4).sum()) == len(known)
    # Elevations have no such limits.
    linear = _head(**LINEAR)
    samples = [sample(gt_elevation=-1000 * _depth())]
    assert torch.isfinite(linear.truth(samples)).sum() == torch.isfinite(_depth()).sum()


@pytest.mark.parametrize('size', [SIZE, (33, 47), (5, 3)])
def test_predicts_at_the_size_of_the_input(size: tuple[int, int]) -> None:
    head = _head().eval()
    with torch.no_grad():
        out = head.predict(feats(size), [sample(size).metainfo] * 2)
    assert out.shape == (2, 1, *size)
    assert (out > 0).all()


def test_the_scale_of_the_picture_is_undone() -> None:
    """An enlarged picture looks nearer: training divides the truth by the factor."""
    output, meta = rand(1, 4, 6).abs(), dict(scale_factor=(1.0, 4.0))
    depth = _head().finish(output, meta)
    assert list(depth) == ['pred_depth_map']
    torch.testing.assert_close(depth['pred_depth_map'].data, 2 * output)
    fixed = _head(follows_scale=False).finish(output, meta)
    assert torch.equal(fixed['pred_depth_map'].data, output)
    elevation = _head(**LINEAR).finish(output, meta)
    assert torch.equal(elevation['pred_elevation'].data, output)
    follows = _head(**LINEAR, follows_scale=True).finish(output, meta)
    torch.testing.assert_close(follows['pred_elevation'].data, 2 * output)
    assert torch.equal(_head().finish(output, {})['pred_depth_map'].data, output)


@pytest.mark.parametrize('scale', [(24, 8), (6, 16), (18, 12)])
def test_a_perfect_prediction_of_a_resized_picture_is_the_truth(scale: tuple) -> None:
    """Whatever the sides are resized by: against the transform of the training."""
    results = dict(img=np.zeros((8, 12, 3), np.uint8), img_shape=(8, 12))
    results |= dict(
        seg_fields=['gt_depth_map'], target_kinds=dict(gt_depth_map='depth')
    )
    results['gt_depth_map'] = np.full((8, 12), 3, np.float32)
    results = XModalResize(scale=scale, keep_ratio=False)(results)
    seen = torch.from_numpy(results['gt_depth_map'])[None]
    found = _head().finish(seen, dict(scale_factor=results['scale_factor']))
    torch.testing.assert_close(
        found['pred_depth_map'].data, torch.full((1, scale[1], scale[0]), 3.0)
    )


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (dict(output='exp'), "output='exp', expected one of.*log"),
        (dict(min_depth=0.0), r'min_depth=0.0 and max_depth=80.0, expected 0 <'),
        (dict(output='sigmoid', max_depth=0.05), 'expected 0 < min_depth < max_depth'),
        (LINEAR | dict(std=0.0), 'std=0.0, expected a number above 0'),
        (
            LINEAR | dict(loss_decode=dict(type='mmseg_xmodal.SILogLoss')),
            'SILogLoss, which takes logarithms',
        ),
        (dict(in_index=[0]), r'in_channels=\(8, 12, 16, 20\) and in_index=\(0,\)'),
    ],
)
def test_wrong_arguments(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _head(**wrong)


def test_maps_that_do_not_fit() -> None:
    bad = sample(gt_depth_map=torch.ones(1, 4, 4))
    with pytest.raises(ValueError, match=r"'some/picture.png' has the shape \(1, 4, 4"):
        _head().truth([*_samples(), bad])
    with pytest.raises(ValueError, match='got maps of .*8, 12.*in_index of the head'):
        _head()(feats()[:2])
