"""Swin: equal to mmseg's, in numbers, gradients and converted weights; any size."""

import copy

import pytest
import torch
from mmseg.models.backbones import SwinTransformer
from torch import nn

from mmseg_xmodal.models.converters import convert_swin
from mmseg_xmodal.models.layers.drop_path import DropPath
from mmseg_xmodal.models.layers.swin import Swin
from mmseg_xmodal.models.layers.swin_sizes import SWIN_VARIANTS, swin_variant
from mmseg_xmodal.models.layers.windows import Windows
from tests.reference_forms.swin import WindowAttention as PublishedAttention
from tests.reference_forms.swin import shift_mask

from .helpers import rand, randomise, without_gradient

FIELDS = dict(depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 4))


def _pair(window: int) -> tuple[nn.Module, Swin]:
    """mmseg's with random weights, and ours with the same."""
    stock = SwinTransformer(
        embed_dims=8, window_size=window, drop_path_rate=0.0, **FIELDS
    ).double()
    randomise(stock)
    ours = Swin(dict(embed_dim=8, window=window, **FIELDS), drop_path_rate=0.0)
    ours = ours.double()
    ours.load_state_dict(convert_swin(stock.state_dict()).state, strict=True)
    return stock, ours


SIZES = [(72, 104), (33, 47), (1, 1), (5, 200)]


@pytest.mark.parametrize('window', [7, 12, 2])
@pytest.mark.parametrize('size', SIZES)
def test_equals_the_stock_swin(window: int, size: tuple[int, int]) -> None:
    stock, ours = _pair(window)
    x = rand(2, 3, *size, dtype=torch.float64)
    expected = stock(x)
    with torch.no_grad():
        inferred = ours(x)
    for e, i, learnt in zip(expected, inferred, ours(x), strict=True):
        torch.testing.assert_close(i, e)
        torch.testing.assert_close(learnt, e)


def test_gradients_equal_those_of_the_stock_swin() -> None:
    stock, ours = _pair(7)
    x = rand(2, 3, 72, 104, dtype=torch.float64)
    sum(out.square().sum() for out in stock(x)).backward()
    sum(out.square().sum() for out in ours(x)).backward()
    gradients = {name: p.grad for name, p in stock.named_parameters()}
    # The table of gradients is converted as the weights are.
    expected = convert_swin(stock.state_dict() | gradients).state
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])
    assert without_gradient(ours) == []


def test_frozen_biases_of_positions_change_no_number() -> None:
    _, ours = _pair(7)
    x = rand(1, 3, 45, 61, dtype=torch.float64)
    expected = [out.detach() for out in ours(x)]
    for name, parameter in ours.named_parameters():
        parameter.requires_grad_('bias_table' not in name)
    for out, e in zip(ours(x), expected, strict=True):
        torch.testing.assert_close(out, e)


class Scaled(nn.Linear):
    """A linear layer that is more than its weights, as an adapter is."""

    def forward(self, x):
        return 2 * super().forward(x)


def test_a_layer_that_is_more_than_its_weights_is_called() -> None:
    """Padding meets the bias of the projection, so it has to be called on it too."""
    _, ours = _pair(7)
    doubled = copy.deepcopy(ours)
    for module in doubled.modules():
        for name in ('qkv', 'proj', 'fc1', 'fc2'):
            layer = getattr(module, name, None)
            if isinstance(layer, nn.Linear):
                layer.__class__ = Scaled
                with torch.no_grad():
                    layer.weight /= 2
                    layer.bias /= 2
    x = rand(2, 3, 40, 52, dtype=torch.float64)
    for got, expected in zip(doubled(x), ours(x), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize('size', [(10, 9), (3, 2), (7, 14)])
@pytest.mark.parametrize('shift', [0, 3])
def test_windows_move_every_token_and_back(size: tuple[int, int], shift: int) -> None:
    windows = Windows.cut(size, 7, shift, torch.device('cpu'))
    x = rand(2, size[0] * size[1], 3, dtype=torch.float64).requires_grad_()
    cut = windows.to_windows(x)
    assert torch.equal(windows.to_tokens(cut), x)
    assert cut.shape[1] == windows.count * 49
    assert ((cut != 0).any(2).sum(1) == size[0] * size[1]).all()
    assert torch.autograd.gradcheck(windows.to_windows, x)
    assert torch.autograd.gradcheck(windows.to_tokens, cut.detach().requires_grad_())
    if shift:
        assert torch.equal(windows.mask, shift_mask(*size, 7, shift, 'cpu'))
    else:
        assert windows.mask is None


def test_position_bias_is_the_published_lookup() -> None:
    from mmseg_xmodal.models.layers.window_attention import WindowAttention

    ours, published = WindowAttention(8, 2, 5), PublishedAttention(8, 5, 2)
    randomise(ours)
    table = ours.relative_position_bias_table
    looked_up = table[published.relative_position_index].permute(2, 0, 1)
    assert torch.equal(ours.position_bias(), looked_up)


def test_inference_in_slices_changes_no_number(monkeypatch) -> None:
    from mmseg_xmodal.models.layers import slices

    _, ours = _pair(7)
    x = rand(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        whole = ours(x)
        monkeypatch.setattr(slices, '_ELEMENTS', 500)
        sliced = ours(x)
    for a, b in zip(sliced, whole, strict=True):
        torch.testing.assert_close(a, b)


def test_compiled_channels_last_and_autocast_numbers() -> None:
    size = dict(embed_dim=8, depths=(2, 1), num_heads=(1, 2), window=7)
    ours = Swin(size, drop_path_rate=0.0)
    randomise(ours)
    x = rand(2, 3, 40, 52)
    expected = ours(x)
    compiled = torch.compile(ours, backend='eager')
    for outs in (compiled(x), ours(x.to(memory_format=torch.channels_last))):
        for a, b in zip(outs, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    with torch.autocast('cpu', torch.bfloat16):
        outs = ours(x)
        sum(out.float().square().mean() for out in outs).backward()
    for a, b in zip(outs, expected, strict=True):
        assert (a.float() - b).norm() < 0.05 * b.norm()
    assert without_gradient(ours) == []


PAPER = dict(swin_t=28, swin_s=50, swin_b=88, swin_l=197, swin_b_384=88, swin_l_384=197)


@pytest.mark.parametrize('name', SWIN_VARIANTS)
def test_every_variant_has_the_parameters_of_the_paper(name: str) -> None:
    """The paper's millions count the classifier (1000 classes) and a norm, not four."""
    with torch.device('meta'):
        model = Swin(name)
    assert model.out_channels == swin_variant(name).embed_dims
    norms = 2 * sum(model.embed_dims[:-1])
    classifier = 1000 * (model.embed_dims[-1] + 1)
    count = sum(p.numel() for p in model.parameters()) - norms + classifier
    assert round(count / 1e6) == PAPER[name]


def test_initialisation() -> None:
    model = Swin(dict(embed_dim=32, window=7, **FIELDS), drop_path_rate=0.3)
    model.init_weights()
    table = model.stages[2].blocks[0].attn.relative_position_bias_table
    assert 0.015 < table.std() < 0.025
    assert model.stages[3].blocks[1].mlp.fc1.bias.abs().sum() == 0
    rates = [m.rate for m in model.modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0.3 * i / 7 for i in range(8)])


@pytest.mark.parametrize(
    ('variant', 'message'),
    [
        ('swin_x', r"variant='swin_x'.*expected one of.*swin_t.*`variant`"),
        (dict(embed_dim=8, depths=(1, 1), num_heads=(1,)), 'expected equal lengths'),
        (dict(embed_dim=8, depths=(1,), num_heads=(3,)), '8 is no multiple of 3'),
        (
            dict(embed_dim=8, depth=(1,), num_heads=(1,)),
            r"depth.*is not a Swin size: .*'depth'.*these fields of SwinVariant: "
            r'embed_dim: int, depths: .*`variant`',
        ),
        (dict(embed_dim=8, depths=(1,)), r"not a Swin size: .*'num_heads'.*Expected"),
        (dict(embed_dim=8, depths=1, num_heads=1), r'not a Swin size.*`variant`'),
    ],
)
def test_wrong_variants(variant, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Swin(variant)
