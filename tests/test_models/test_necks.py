"""What all attention necks have in common: validity, gradients, any size."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmseg_xmodal.models.fusion import build_fusions
from mmseg_xmodal.models.layers.map_probe import ShownMap, watch
from mmseg_xmodal.models.layers.stacked_levels import split_streams, stack_streams
from mmseg_xmodal.models.layers.token_attention import TokenAttention
from mmseg_xmodal.registry import MODELS

from .helpers import RGBD, TINY, rand, randomise, without_gradient
from .neck_cases import (
    CHANNELS,
    PLAIN,
    SIZES,
    STREAMS,
    build,
    changed,
    stack,
    streams_of,
    valid_of,
)


@pytest.mark.parametrize('streams', [1, 2, 3])
@pytest.mark.parametrize('validity', [True, False])
def test_what_is_stacked_comes_apart_again(streams, validity):
    feats, valid = streams_of(streams)[0], valid_of(streams)[0]
    level = stack_streams(feats, valid, validity)
    assert level.shape[1] == streams * 8 + streams * validity
    back, flags = split_streams(level, 8, streams, validity)
    assert all(torch.equal(a, b) for a, b in zip(feats, back, strict=True))
    if validity:
        assert all(torch.equal(a, b) for a, b in zip(valid, flags, strict=True))
    else:
        assert flags is None


def test_without_validity_from_the_input_the_channels_are_ones():
    module = build_fusions(dict(type='mmseg_xmodal.StackStreams'), [8], 2)[0]
    feats = streams_of()[0]
    streams, stacked = module(feats, None)
    assert torch.equal(stacked[:, 16:], torch.ones(2, 2, *SIZES[0]))
    assert streams[1] is feats[1]


@pytest.mark.parametrize('name', STREAMS)
def test_channels_that_do_not_add_up_are_refused(name):
    levels = [torch.zeros(1, 2 * c, 4, 4) for c in CHANNELS]
    with pytest.raises(ValueError, match=r'\(1, 16, 4, 4\).*18.*2 validity.*Stack'):
        build(name)(levels)
    with pytest.raises(ValueError, match='got 1 levels, but in_channels='):
        build(name)(levels[:1])


@pytest.mark.parametrize('name', [*STREAMS, *PLAIN])
@pytest.mark.parametrize('sizes', [SIZES, [(1, 1), (1, 1)], [(7, 4), (2, 1)]])
def test_any_size_and_the_channels_of_one_stream(name, sizes):
    inputs = streams_of(sizes=sizes)
    neck = build(name)
    if name in STREAMS:
        outs = neck(stack(inputs, valid_of(sizes=sizes)))
    else:
        outs = neck([level[0] for level in inputs])
    expected = [(2, c, *s) for c, s in zip(CHANNELS, sizes, strict=True)]
    assert isinstance(outs, tuple)
    assert [tuple(out.shape) for out in outs] == expected
    assert neck.out_channels == tuple(CHANNELS)
    assert all(out.isfinite().all() for out in outs)


@pytest.mark.parametrize('streams', [2, 3])
@pytest.mark.parametrize('name', STREAMS)
def test_gradients_reach_every_stream_and_parameter(name, streams):
    neck = build(name, streams).train()
    levels = streams_of(streams)
    leaves = [f.requires_grad_() for level in levels for f in level]
    outs = neck(stack(levels, valid_of(streams)))
    sum((o * rand(*o.shape, seed=7)).sum() for o in outs).backward()
    assert all(f.grad.abs().sum() > 0 for f in leaves)
    assert without_gradient(neck) == []


@pytest.mark.parametrize('name', PLAIN)
def test_gradients_reach_every_level_and_parameter(name):
    neck = build(name).train()
    levels = [level[0].requires_grad_() for level in streams_of()]
    sum((o * rand(*o.shape, seed=7)).sum() for o in neck(levels)).backward()
    assert all(f.grad.abs().sum() > 0 for f in levels)
    assert without_gradient(neck) == []


@pytest.mark.parametrize('streams', [2, 3])
@pytest.mark.parametrize('name', STREAMS)
@pytest.mark.parametrize('train', [False, True])
def test_masked_places_have_no_influence(name, streams, train):
    neck = build(name, streams).train(train)
    levels, valid = streams_of(streams), valid_of(streams)
    outs = neck(stack(levels, valid))
    others = neck(stack(changed(levels, valid), valid))
    assert all(torch.equal(a, b) for a, b in zip(outs, others, strict=True))
    # The same change matters where the places are valid.
    full = [[torch.ones_like(v) for v in vs] for vs in valid]
    outs = neck(stack(levels, full))
    others = neck(stack(changed(levels, valid), full))
    assert not any(torch.allclose(a, b) for a, b in zip(outs, others, strict=True))


@pytest.mark.parametrize('name', STREAMS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('missing', [[0], [1], [0, 1]])
def test_missing_streams_stay_finite(name, dtype, missing):
    neck = build(name).train().to(dtype)
    levels = [[f.to(dtype) for f in level] for level in streams_of()]
    valid = [[torch.ones_like(f[:, :1]) for f in level] for level in levels]
    for flags in valid:
        for m in missing:
            flags[m].zero_()
    leaves = [f.requires_grad_() for level in levels for f in level]
    outs = neck(stack(levels, valid))
    assert all(out.dtype == dtype and out.isfinite().all() for out in outs)
    sum(out.float().square().sum() for out in outs).backward()
    assert all(f.grad is None or f.grad.isfinite().all() for f in leaves)
    gone = [level[m] for level in levels for m in missing]
    assert all(f.grad is None or not f.grad.any() for f in gone)
    assert all(p.grad is None or p.grad.isfinite().all() for p in neck.parameters())


@pytest.mark.parametrize('name', STREAMS)
def test_valid_everywhere_is_as_without_validity(name):
    neck, plain = build(name), build(name, validity=False)
    levels = streams_of()
    full = [[torch.ones_like(f[:, :1]) for f in level] for level in levels]
    plain.load_state_dict(neck.state_dict())
    outs = neck(stack(levels, full))
    others = plain([stack_streams(level, None, validity=False) for level in levels])
    torch.testing.assert_close(outs, others, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('name', [*STREAMS, *PLAIN])
@pytest.mark.parametrize('train', [False, True])
def test_compiles_without_graph_break(name, train):
    torch._dynamo.reset()
    neck = build(name).train(train)
    inputs = stack(streams_of(), valid_of()) if name in STREAMS else None
    inputs = inputs or [level[0] for level in streams_of()]
    with torch.set_grad_enabled(train):
        outs = neck(inputs)
        compiled = torch.compile(neck, backend='eager', fullgraph=True)(inputs)
    torch.testing.assert_close(outs, compiled, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('name', [*STREAMS, *PLAIN])
def test_autocast_stays_near(name):
    neck = build(name)
    inputs = stack(streams_of(), valid_of()) if name in STREAMS else None
    inputs = inputs or [level[0] for level in streams_of()]
    outs = neck(inputs)
    with torch.autocast('cpu', torch.bfloat16):
        half = neck(inputs)
    for a, b in zip(outs, half, strict=True):
        assert (a - b.float()).abs().mean() < 0.05 * a.abs().mean()


def test_a_query_without_any_key_gets_zeros():
    attention = TokenAttention(8, 2, 6)
    randomise(attention)
    x, source = rand(2, 4, 8), rand(2, 3, 6, seed=1).requires_grad_()
    mask = torch.tensor([[True, False, True], [False, False, False]])
    out = attention(x, source, mask)
    assert not out[1].any()
    out.sum().backward()
    assert source.grad[0, 0].any()
    assert not source.grad[0, 1].any()
    assert not source.grad[1].any()
    kept = attention(x[:1], source[:1, [0, 2]])
    torch.testing.assert_close(out[:1], kept)
    weights = attention.weights(x, source, mask, 0)
    torch.testing.assert_close(
        weights.sum(2), mask.any(1).float()[:, None].expand(2, 4)
    )
    assert not weights[0, :, 1].any()


# ----------------------------------------------------------------------- maps


@pytest.mark.parametrize('name', [*STREAMS, *PLAIN])
def test_every_neck_shows_maps_only_when_watched(name):
    neck = build(name)
    inputs = stack(streams_of(), valid_of()) if name in STREAMS else None
    inputs = inputs or [level[0] for level in streams_of()]
    plain = neck(inputs)
    with watch(neck) as found:
        watched = neck(inputs)
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
    assert not neck.probe.is_watched
    maps = found['']
    assert {m.title.split(':')[0] for m in maps} == {'level 0', 'level 1'}
    for shown in maps:
        assert isinstance(shown, ShownMap)
        assert shown.values.ndim == 3
        assert len(shown.values) == 2
        assert not shown.values.requires_grad
        assert (shown.values >= 0).all()


@pytest.mark.parametrize('name', ['cross', 'deformable', 'gate'])
def test_the_map_of_a_missing_stream_is_zero_there(name):
    neck = build(name)
    levels = streams_of()
    valid = [[torch.ones_like(f[:, :1]) for f in level] for level in levels]
    for flags in valid:
        flags[1][0] = 0  # the first sample lacks the second stream
    with watch(neck) as found:
        neck(stack(levels, valid))
    maps = {m.title: m for m in found['']}
    second = next(v for k, v in maps.items() if k.endswith('{1}') and 'level 0' in k)
    first = next(v for k, v in maps.items() if k.endswith('{0}') and 'level 0' in k)
    assert not second.values[0].any()
    # Where it attends at all: sampling points may lie outside of every map.
    some = first.values[0] > 0
    assert some.float().mean() > 0.9
    torch.testing.assert_close(first.values[0][some], torch.ones(int(some.sum())))
    assert second.values[1].mean() > 0.1
    assert second.limits == (0, 1)


# ------------------------------------------------------------- inside of mmseg


def _segmentor(neck: dict, fusion: dict) -> nn.Module:
    cfg = dict(
        type='EncoderDecoder',
        data_preprocessor=dict(
            type='mmseg_xmodal.ModalityPreprocessor', modalities=RGBD, validity=True
        ),
        backbone=dict(
            type='mmseg_xmodal.MultiStreamBackbone',
            modalities=RGBD,
            backbone=dict(type='mmseg_xmodal.MixTransformer', variant=TINY),
            fusion=fusion,
        ),
        neck=dict(in_channels=list(TINY['embed_dims']), **neck),
        decode_head=dict(
            type='mmseg_xmodal.FastSegformerHead',
            in_channels=list(TINY['embed_dims']),
            in_index=[0, 1, 2, 3],
            channels=16,
            num_classes=3,
        ),
        test_cfg=dict(mode='whole'),
    )
    torch.manual_seed(0)
    return MODELS.build(cfg)


@pytest.mark.parametrize('name', STREAMS)
def test_behind_a_backbone_a_missing_modality_has_no_say(name):
    settings = {k: v for k, v in STREAMS[name].items() if k != 'reductions'}
    model = _segmentor(settings, dict(type='mmseg_xmodal.StackStreams')).eval()
    x = rand(2, 6, 64, 64)
    x[:, 4:] = 1
    x[0, 5] = 0  # depth is missing in the first sample
    other = x.clone()
    other[0, 3] += 1
    other[1, 3] += 1
    out, changed = (model(images, mode='tensor') for images in (x, other))
    assert torch.equal(out[0], changed[0])
    assert not torch.allclose(out[1], changed[1])
