"""Heads: equal to the published and stock forms, state dict included."""

import pytest
import torch

from mmseg_xmodal.registry import MODELS
from tests.reference_forms.cmx import MLPDecoder

from .helpers import rand, randomise, without_gradient

WIDTHS = [8, 12, 16, 20]
SIZES = [(9, 14), (5, 7), (3, 4), (2, 2)]


def _feats(dtype: torch.dtype = torch.float64, grad: bool = False) -> list:
    return [
        rand(2, c, *size, seed=i, dtype=dtype).requires_grad_(grad)
        for i, (c, size) in enumerate(zip(WIDTHS, SIZES, strict=True))
    ]


def _cmx_head(**kwargs) -> torch.nn.Module:
    cfg = dict(type='mmseg_xmodal.CMXHead', in_channels=WIDTHS, channels=24)
    cfg |= dict(num_classes=5, dropout_ratio=0.0) | kwargs
    head = MODELS.build(cfg).double()
    randomise(head)
    return head


def _compare(ours: torch.nn.Module, other: torch.nn.Module) -> None:
    """Same outputs, input gradients, parameter gradients and running statistics."""
    first, second = _feats(grad=True), _feats(grad=True)
    out, expected = ours(first), other(second)
    torch.testing.assert_close(out, expected)
    weight = rand(*out.shape, seed=3, dtype=torch.float64)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    theirs = dict(other.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, msg=name)
    torch.testing.assert_close(dict(ours.named_buffers()), dict(other.named_buffers()))


@pytest.mark.parametrize('train', [True, False])
def test_cmx_head_equals_the_published_head(train: bool) -> None:
    ours = _cmx_head()
    published = MLPDecoder(WIDTHS, 24, 5, 1e-5, 0.0).double()
    published.load_state_dict(ours.state_dict(), strict=True)
    _compare(ours.train(train), published.train(train))


def test_cmx_head_follows_every_change_of_weights() -> None:
    """Nothing stale is folded in: in-place, through .data, or by load_state_dict."""
    ours = _cmx_head().eval()
    published = MLPDecoder(WIDTHS, 24, 5, 1e-5, 0.0).double().eval()
    feats = _feats()

    def check() -> None:
        published.load_state_dict(ours.state_dict(), strict=True)
        with torch.no_grad():
            torch.testing.assert_close(ours(feats), published(feats))

    check()
    ours.linear_c2.proj.weight.data.mul_(-2)
    check()
    ours.linear_fuse[1].running_mean.add_(1)
    check()
    ours.load_state_dict({k: v / 2 for k, v in ours.state_dict().items()})
    check()


def test_cmx_head_other_norms_and_eps() -> None:
    head = _cmx_head(norm_cfg=dict(type='BN', eps=1e-3))
    assert head.linear_fuse[1].eps == 1e-3
    group = _cmx_head(norm_cfg=dict(type='GN', num_groups=4)).eval()
    assert group(_feats()).shape == (2, 5, *SIZES[0])
    assert without_gradient(group)
    group(_feats()).square().sum().backward()
    assert without_gradient(group) == []


def test_cmx_head_drops_whole_channels_in_training_only() -> None:
    head = _cmx_head(dropout_ratio=0.5)
    assert not torch.equal(head.train()(_feats()), head(_feats()))
    assert torch.equal(head.eval()(_feats()), head(_feats()))


def test_cmx_head_needs_four_levels() -> None:
    with pytest.raises(ValueError, match='expected four'):
        MODELS.build(
            dict(type='mmseg_xmodal.CMXHead', in_channels=[4, 8], num_classes=3)
        )


def test_cmx_head_initialises() -> None:
    head = MODELS.build(
        dict(type='mmseg_xmodal.CMXHead', in_channels=WIDTHS, num_classes=3)
    )
    head.init_weights()
    std = head.linear_pred.weight.std().item()
    assert abs(std - (2 / 512) ** 0.5) < 0.01


def test_cmnext_head_initialises_as_segformer_does() -> None:
    head = MODELS.build(
        dict(type='mmseg_xmodal.CMNeXtHead', in_channels=WIDTHS, num_classes=50)
    )
    head.init_weights()
    for layer, std in (
        (head.linear_c1.proj, 0.02),
        (head.linear_fuse.conv, (2 / 512) ** 0.5),
        (head.linear_pred, (2 / 50) ** 0.5),
    ):
        assert layer.weight.std().item() == pytest.approx(std, rel=0.05)
        assert layer.bias is None or not layer.bias.any()
    gemini = MODELS.build(
        dict(type='mmseg_xmodal.GeminiHead', in_channels=WIDTHS, num_classes=50)
    )
    gemini.init_weights()
    for layer, std in (
        (gemini.linear_fuse.conv, (2 / 256) ** 0.5),
        (gemini.linear_pred, (3 * 256) ** -0.5),  # torch's own
    ):
        assert layer.weight.std().item() == pytest.approx(std, rel=0.05)
    given = dict(type='Constant', val=3, layer='Conv2d')
    head = MODELS.build(
        dict(
            type='mmseg_xmodal.CMNeXtHead',
            in_channels=WIDTHS,
            num_classes=5,
            init_cfg=given,
        )
    )
    head.init_weights()
    assert (head.linear_pred.weight == 3).all()


@pytest.mark.parametrize('train', [True, False])
@pytest.mark.parametrize(
    'extra',
    [
        dict(),
        dict(align_corners=True),
        dict(interpolate_mode='nearest'),
        dict(norm_cfg=None),
    ],
    ids=lambda e: next(iter(e), 'default'),
)
def test_fast_segformer_head_equals_stock(train: bool, extra: dict) -> None:
    cfg = dict(in_channels=WIDTHS, in_index=[0, 1, 2, 3], channels=24, num_classes=5)
    cfg |= dict(dropout_ratio=0.0, norm_cfg=dict(type='BN')) | extra
    ours = MODELS.build(dict(type='mmseg_xmodal.FastSegformerHead', **cfg)).double()
    stock = MODELS.build(dict(type='mmseg.SegformerHead', **cfg)).double()
    randomise(ours)
    stock.load_state_dict(ours.state_dict(), strict=True)
    if extra.get('interpolate_mode') == 'nearest':
        # mmseg hands align_corners to `interpolate`, which refuses it for 'nearest'.
        ours.align_corners = stock.align_corners = None
    _compare(ours.train(train), stock.train(train))
