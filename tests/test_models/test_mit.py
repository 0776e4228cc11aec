"""MiT: variants, protocol, drop path, initialisation."""

import pytest
import torch

from mmseg_xmodal.models.backbones.cmx import stage2_drop_path
from mmseg_xmodal.models.converters import convert_mit
from mmseg_xmodal.models.layers import (
    MIT_VARIANTS,
    DropPath,
    MixTransformer,
    NormEps,
    advance,
    linear_drop_path,
)
from mmseg_xmodal.registry import MODELS

from .helpers import TINY, rand, randomise, without_gradient


@pytest.mark.parametrize('size', [(64, 96), (72, 104), (33, 47)])
def test_maps_and_gradients(size: tuple[int, int]) -> None:
    model = MixTransformer(TINY, 4, drop_path_rate=0.0)
    outs = model(rand(1, 4, *size))
    height, width = size
    for i, (out, dim) in enumerate(zip(outs, TINY['embed_dims'], strict=True)):
        side = [-(-s // (4 * 2**i)) for s in (height, width)]
        assert out.shape == (1, dim, *side)
    sum(out.square().sum() for out in outs).backward()
    # Softmax does not see a constant added to all logits of a query.
    assert [n for n in without_gradient(model) if not n.endswith('kv.bias')] == []


@pytest.mark.parametrize('size', [(1, 1), (5, 31)])
def test_maps_smaller_than_the_reduction(size: tuple[int, int]) -> None:
    outs = MixTransformer(TINY, 4).eval()(rand(1, 4, *size))
    sides = [[-(-s // (4 * 2**i)) for s in size] for i in range(4)]
    assert [list(out.shape[2:]) for out in outs] == sides
    assert all(out.isfinite().all() for out in outs)


def test_parameter_counts() -> None:
    """Encoders as published: B0 3.3 M, B2 24.2 M, B5 81.4 M."""
    counts = {}
    for name in ('mit_b0', 'mit_b2', 'mit_b5'):
        with torch.device('meta'):
            model = MixTransformer(name)
        counts[name] = sum(p.numel() for p in model.parameters())
    assert counts == {'mit_b0': 3319392, 'mit_b2': 24196288, 'mit_b5': 81443008}


def test_protocol_continues_from_what_is_sent() -> None:
    model = MixTransformer(TINY, drop_path_rate=0.0).eval()
    x = rand(1, 3, 64, 64)
    plain = model(x)
    walker, sent, levels = model.forward_stages(x), None, []
    while (level := advance(walker, sent)) is not None:
        levels.append(level)
        sent = torch.zeros_like(level) if len(levels) == 2 else level
    assert torch.equal(levels[1], plain[1])
    assert not torch.equal(levels[2], plain[2])


def test_eps_by_place() -> None:
    model = MixTransformer(TINY)
    stage = model.stages[0]
    assert stage.patch_embed.norm.eps == 1e-5
    assert stage.blocks[0].attn.norm.eps == 1e-5
    assert stage.blocks[0].norm1.eps == stage.blocks[0].norm2.eps == 1e-6
    assert stage.norm.eps == 1e-6
    other = MixTransformer(TINY, norm_eps=dict(stage=1e-3))
    assert other.stages[3].norm.eps == 1e-3
    assert NormEps().patch == 1e-5


def test_same_numbers_as_mmseg() -> None:
    """mmseg's MiT with its weights converted: eps 1e-6 everywhere."""
    stock = MODELS.build(
        dict(
            type='mmseg.MixVisionTransformer',
            embed_dims=8,
            num_layers=TINY['depths'],
            num_heads=TINY['num_heads'],
        )
    ).double()
    randomise(stock)
    eps = dict.fromkeys(('patch', 'reduction', 'block', 'stage'), 1e-6)
    ours = MixTransformer(TINY, norm_eps=eps).double()
    converted = convert_mit(stock.state_dict())
    assert converted.layout == 'mmseg'
    ours.load_state_dict(converted.state, strict=True)
    x = rand(2, 3, 40, 56, dtype=torch.float64)
    with torch.no_grad():
        outs, expected = ours.eval()(x), stock.eval()(x)
    for out, reference in zip(outs, expected, strict=True):
        torch.testing.assert_close(out, reference)


def test_drop_path_keeps_the_mean_and_drops_samples() -> None:
    torch.manual_seed(0)
    x = torch.ones(4000, 2, 1)
    out = DropPath(0.25).train()(x)
    assert set(out.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert abs(out.mean() - 1) < 0.05
    assert torch.equal(DropPath(0.25).eval()(x), x)
    with pytest.raises(ValueError, match='Drop path rate is 1'):
        DropPath(1.0)


def test_rates() -> None:
    depths = MIT_VARIANTS['mit_b2'].depths
    usual = linear_drop_path(0.1, depths)
    flat = sum(usual, [])
    torch.testing.assert_close(torch.tensor(flat), torch.linspace(0, 0.1, sum(depths)))
    rgb, x = (stage2_drop_path(0.1, depths, stream) for stream in (0, 1))
    assert rgb[1] == [flat[3]] * 4
    assert x[1] == [flat[4]] * 4
    assert [rgb[i] for i in (0, 2, 3)] == [usual[i] for i in (0, 2, 3)]


def test_initialisation() -> None:
    model = MixTransformer('mit_b0')
    model.init_weights()
    assert abs(model.stages[3].blocks[0].mlp.fc1.weight.std() - 0.02) < 0.002
    depthwise = model.stages[3].blocks[0].mlp.dwconv
    assert abs(depthwise.weight.std() - (2 / 9) ** 0.5) < 0.02
    assert depthwise.bias.abs().sum() == 0


@pytest.mark.parametrize(
    ('variant', 'message'),
    [
        ('mit_b9', "variant='mit_b9'.*mit_b0"),
        (dict(embed_dims=(8, 8), depths=(1, 1)), 'lengths'),
        (dict(TINY, num_heads=(3, 1, 1, 1)), '8 is no multiple of 3'),
    ],
)
def test_wrong_variant(variant, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MixTransformer(variant)


def test_wrong_drop_path() -> None:
    with pytest.raises(ValueError, match=r'\[1\] rates per stage, expected \[1, 2, 1'):
        MixTransformer(TINY, drop_path=[[0.1]])
