"""Each attention neck against its plain formula, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mmseg_xmodal.models.layers.map_probe import watch
from mmseg_xmodal.registry import MODELS

from .helpers import rand
from .neck_cases import (
    CHANNELS,
    SIZES,
    build,
    stack,
    streams_of,
    valid_of,
)

# ------------------------------------------------------------- self-attention


def _plain_attention(block: nn.Module, x: Tensor, near: Tensor) -> Tensor:
    """Self-attention with a mask of who sees whom, head by head."""
    q, k, v = block.qkv(block.norm1(x)).chunk(3, 2)
    outs = []
    for head in zip(*(t.chunk(block.heads, 2) for t in (q, k, v)), strict=True):
        logits = head[0] @ head[1].transpose(1, 2) / head[0].shape[2] ** 0.5
        logits = logits.masked_fill(~near, float('-inf'))
        outs.append(logits.softmax(2) @ head[2])
    return x + block.proj(torch.cat(outs, 2))


@pytest.mark.parametrize('kind', ['global', 'windowed', 'criss_cross'])
def test_self_attention_is_what_its_name_says(kind):
    neck = build(kind, num_heads=2)
    block, (h, w) = neck.levels[0][0], SIZES[0]
    rows = torch.arange(h).repeat_interleave(w)
    columns = torch.arange(w).repeat(h)
    same_row, same_column = (t[:, None] == t for t in (rows, columns))
    near = {
        'global': torch.ones(h * w, h * w, dtype=torch.bool),
        'windowed': (rows[:, None] // 3 == rows // 3)
        & (columns[:, None] // 3 == columns // 3),
        'criss_cross': same_row | same_column,
    }[kind]
    level = streams_of()[0][0]
    x = level.flatten(2).transpose(1, 2)
    for _ in range(2 if kind == 'criss_cross' else 1):
        x = _plain_attention(block, x, near)
    x = x + block.mlp(block.norm2(x), (h, w))
    out = neck([level, streams_of()[1][0]])[0]
    torch.testing.assert_close(out.flatten(2).transpose(1, 2), x, atol=1e-4, rtol=1e-4)
    with watch(neck) as found:
        neck([level, streams_of()[1][0]])
    centre = found[''][0].values
    torch.testing.assert_close(centre.sum((1, 2)), torch.ones(2))
    assert torch.equal(centre[0].flatten() > 0, near[h // 2 * w + w // 2])


def test_a_level_may_pass_through_and_auto_is_global_at_the_end():
    neck = MODELS.build(
        dict(
            type='mmseg_xmodal.SelfAttentionNeck',
            in_channels=CHANNELS,
            attention=[None, 'global'],
        )
    )
    level = streams_of()[0][0]
    assert neck([level, streams_of()[1][0]])[0] is level
    neck = MODELS.build(
        dict(type='mmseg_xmodal.SelfAttentionNeck', in_channels=[8, 8, 8])
    )
    kinds = [blocks[0].kind for blocks in neck.levels]
    assert kinds == ['windowed', 'global', 'global']


@pytest.mark.parametrize(
    ('name', 'setting', 'message'),
    [
        ('global', dict(attention='local'), r"\['local', 'local'\].*criss_cross"),
        ('global', dict(attention=['global']), '1 entries, expected one value or 2'),
        ('global', dict(num_heads=3), 'num_heads=3 for 8 channels'),
        ('cross', dict(reductions=[0, 1]), r'reductions=\[0, 1\], expected whole'),
        ('cross', dict(depth=0), 'AttentionNeck: depth=0, expected whole numbers from'),
        ('deformable', dict(depth=0), 'DeformableFusionNeck: depth=0, expected whole'),
        ('deformable', dict(points=0), 'points=0, expected whole.*Change `points` of'),
        ('deformable', dict(embed_dims=0), 'embed_dims=0, expected whole'),
        ('global', dict(depth=0), 'SelfAttentionNeck: depth=0, expected whole'),
        ('windowed', dict(window=0), 'window=0, expected whole numbers from 1'),
        ('windowed', dict(window=[7, None]), r'window=\[7, None\], expected whole'),
        ('prompt', dict(depth=-1), 'PromptAttentionNeck: depth=-1, expected whole'),
        ('prompt', dict(prompt_channels=0), 'prompt_channels=0, expected whole'),
        ('gate', dict(hidden=0), 'AdaptiveGateNeck: hidden=0, expected whole'),
        ('gate', dict(mlp_ratio=0), 'mlp_ratio=0, expected whole'),
        ('cross', dict(anchor=2), 'anchor=2, expected None or a.*from 0 to 1'),
        ('cross', dict(anchor=0, num_streams=1), 'num_streams=1, expected 2'),
        ('gate', dict(threshold=1.0), r'threshold=1.0, expected a number in \[0, 1\)'),
        ('gate', dict(top_k=3), 'top_k=3, expected None or 1 to num_streams=2'),
        ('gate', dict(num_streams=0), 'num_streams=0, expected 1 or more'),
    ],
)
def test_settings_that_do_not_fit_are_refused(name, setting, message):
    with pytest.raises(ValueError, match=message):
        build(name, **setting)


@pytest.mark.parametrize('name', ['global', 'windowed', 'criss_cross', 'prompt'])
def test_levels_that_do_not_fit_in_channels_are_refused(name):
    levels = [level[0] for level in streams_of()]
    message = (
        r'level 1 has the shape \(2, 16, 3, 5\), expected \(B, 8, h, w\).*backbone'
    )
    with pytest.raises(ValueError, match=message):
        build(name, in_channels=[8, 8])(levels)
    with pytest.raises(ValueError, match='got 1 levels, but in_channels='):
        build(name)(levels[:1])


# ----------------------------------------------------------- attention of streams


@pytest.mark.parametrize('side', [2, 3, 4, 20])
@pytest.mark.parametrize('validity', [True, False])
def test_keys_are_means_of_windows_over_what_is_valid(side, validity):
    """Windows at the borders are smaller where the sides do not divide."""
    block, (h, w) = build('cross', reductions=[side, 1]).levels[0][0], SIZES[0]
    y = rand(2, 2, h * w, 8)
    seen = rand(2, 2, h * w, seed=1) > 0.2
    seen[0, 1] = False
    keys, mask = block._keys(y, seen if validity else None, (h, w))
    if not validity:
        assert mask is None
        seen, mask = torch.ones_like(seen), torch.ones(keys.shape[:2]).bool()
    rows, columns = torch.arange(h * w) // w, torch.arange(h * w) % w
    expected, some = [], []
    for stream in range(2):
        for top in range(0, h, side):
            for left in range(0, w, side):
                inside = (rows // side == top // side) & (
                    columns // side == left // side
                )
                weight = (inside & seen[:, stream]).float()[..., None]
                total, count = (y[:, stream] * weight).sum(1), weight.sum(1)
                expected.append(total / count.clamp(min=1))
                some.append(count[:, 0] > 0)
    assert torch.equal(mask, torch.stack(some, 1))
    torch.testing.assert_close(keys, torch.stack(expected, 1))
    small = block.key_size((h, w))
    assert keys.shape[1] == 2 * small[0] * small[1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('validity', [True, False])
def test_keys_have_a_deterministic_gradient_on_a_gpu(validity):
    block, (h, w) = build('cross').cuda().levels[0][0], SIZES[0]
    y = rand(2, 2, h * w, 8).cuda().requires_grad_()
    seen = torch.ones(2, 2, h * w, dtype=torch.bool, device='cuda')
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        block._keys(y, seen if validity else None, (h, w))[0].sum().backward()
    finally:
        torch.use_deterministic_algorithms(before)
    torch.testing.assert_close(y.grad.sum(), torch.tensor(2 * 2 * 5 * 3 * 8.0).cuda())


# ---------------------------------------------------------------------- gates


def test_a_compiled_pass_leaves_no_gates_of_an_earlier_one():
    torch._dynamo.reset()
    neck, inputs = build('gate'), stack(streams_of(), valid_of())
    neck(inputs)
    assert len(neck.last_gates) == 2
    compiled = torch.compile(neck, backend='eager', fullgraph=True)
    for _ in range(2):
        compiled(inputs)
        assert neck.last_gates == []
        neck(inputs)
        assert len(neck.last_gates) == 2


def test_gates_sum_to_one_over_what_is_valid():
    neck = build('gate', 3)
    levels, valid = streams_of(3), valid_of(3)
    valid[0][0][1], valid[0][1][1], valid[0][2][1] = 0, 0, 0
    for train in (True, False):
        neck.train(train)(stack(levels, valid))
        for gates, flags in zip(neck.last_gates, valid, strict=True):
            seen = torch.cat([f > 0 for f in flags], 1)
            assert not gates.requires_grad
            assert not gates[~seen].any()
            torch.testing.assert_close(gates.sum(1), seen.any(1).float())
    # A missing partner leaves the whole gate to the other ones.
    both = torch.cat(valid[0], 1)
    alone = (both[:, :1] > 0) & (both[:, 1:] == 0).all(1, keepdim=True)
    assert alone.any()
    assert (neck.last_gates[0][:, :1][alone] == 1).all()


@pytest.mark.parametrize('settings', [dict(threshold=0.3), dict(top_k=1), dict()])
def test_inference_skips_what_is_gated_off_and_gives_the_same(settings):
    neck = build('gate', 3, **settings)
    for level in neck.levels:  # gates that differ
        level.query.weight.data.mul_(3)
    inputs = stack(streams_of(3), valid_of(3))
    counted: dict[int, int] = {}

    def count(m: int):
        def hook(module: nn.Module, args: tuple) -> None:
            counted[m] = counted.get(m, 0) + args[0].flatten(0, -2).shape[0]

        return hook

    for m, mlp in enumerate(neck.levels[0].mlps):
        mlp.register_forward_pre_hook(count(m))
    with torch.no_grad():
        sparse = neck(inputs)
    gates = neck.last_gates[0]
    opened = {m: int((gates[:, m] > 0).sum()) for m in range(3)}
    places = gates[:, 0].numel()
    assert counted == {
        m: n if n <= 0.9 * places else places for m, n in opened.items() if n
    }
    assert sum(counted.values()) < 3 * places
    if 'top_k' in settings:
        assert ((gates > 0).sum(1) <= 1).all()
    dense = neck(inputs)  # gradients are on: nothing is skipped
    torch.testing.assert_close(sparse, dense, atol=1e-5, rtol=1e-5)


def test_shut_gates_hand_their_share_on():
    level = build('gate', 3, threshold=0.2).levels[0]
    gates = torch.tensor([[[0.1, 0.3, 0.6], [0.19, 0.0, 0.81], [0.0, 0.0, 0.0]]])
    expected = torch.tensor([[[0, 1 / 3, 2 / 3], [0, 0, 1.0], [0, 0, 0]]])
    torch.testing.assert_close(level.shut(gates), expected)


def test_the_largest_gate_stays_below_the_threshold():
    level = build('gate', 3, threshold=0.5).levels[0]
    gates = torch.tensor([[[0.3, 0.3, 0.4]]])
    assert torch.equal(level.shut(gates), torch.tensor([[[0.0, 0.0, 1.0]]]))
