"""Each attention neck against its plain formula, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mmseg_xmodal.models.layers.map_probe import watch
from mmseg_xmodal.models.layers.masked_deformable import DeformableAttention
from mmseg_xmodal.registry import MODELS
from mmseg_xmodal.structures import PromptFeatures

from .helpers import rand, randomise
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
        ('cross', dict(reductions=[0, 1]), r'reductions=\[0, 1\], expected numbers'),
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


# ---------------------------------------------------------------------- gates


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


# ----------------------------------------------------------------- deformable


def test_deformable_attention_is_a_softmax_over_valid_cells():
    """Every cell around every point is a key; invalid and outside ones are masked."""
    torch.manual_seed(0)
    attention = DeformableAttention(8, 2, 2, 3)
    randomise(attention)
    attention.sampling_offsets.weight.data.mul_(2)
    sizes = [(4, 5), (2, 3)]
    cells = 26
    x, source = rand(1, 6, 8), rand(1, cells, 8, seed=1)
    places = torch.rand(6, 2)
    seen = (rand(1, cells, seed=2) > -0.3).float()
    out, (locations, weights) = attention(x, places, source, seen, sizes)
    value = attention.value_proj(source).view(cells, 2, 4)
    expected = torch.zeros(6, 2, 4)
    for q in range(6):
        for head in range(2):
            total, norm = torch.zeros(4), 0.0
            for m, (h, w) in enumerate(sizes):
                start = 20 * m
                for p in range(3):
                    px = locations[0, q, head, m, p, 0] * w - 0.5
                    py = locations[0, q, head, m, p, 1] * h - 0.5
                    for cy in (py.floor(), py.floor() + 1):
                        for cx in (px.floor(), px.floor() + 1):
                            if not (0 <= cy < h and 0 <= cx < w):
                                continue
                            cell = int(start + cy * w + cx)
                            share = (1 - (py - cy).abs()) * (1 - (px - cx).abs())
                            share = share * weights[0, q, head, m, p] * seen[0, cell]
                            total = total + share * value[cell, head]
                            norm = norm + float(share.detach())
            expected[q, head] = total / norm if norm > 1e-6 else 0
    expected = attention.output_proj(expected.view(1, 6, 8))
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)


def test_a_missing_map_with_large_logits_leaves_the_others_their_weight():
    attention = DeformableAttention(8, 2, 2, 3)
    attention.reset_parameters()
    bias = attention.attention_weights.bias.data.view(2, 2, 3)
    bias[:, 0] = 1000.0
    seen = torch.ones(1, 26)
    seen[:, :20] = 0
    arguments = rand(1, 6, 8), torch.rand(6, 2), rand(1, 26, 8, seed=1), seen
    out, sampled = attention(*arguments, [(4, 5), (2, 3)])
    assert out.abs().sum() > 0
    assert not sampled[1][:, :, :, 0].any()


def test_the_points_find_a_shifted_partner():
    """What the depth map holds two cells to the right can be read there."""
    neck = build('deformable', anchor=0)
    attention = neck.blocks[0].attn
    attention.sampling_offsets.weight.data.zero_()
    attention.sampling_offsets.bias.data.zero_()
    attention.sampling_offsets.bias.data.view(2, 4, 2, 2)[:, 2, :, 0] = 2.0
    bias = attention.attention_weights.bias.data.view(2, 4, 2)
    attention.attention_weights.weight.data.zero_()
    bias.zero_()
    bias[:, 2] = 50.0  # the first level of the second stream
    full = [[torch.ones(2, 1, *s)] * 2 for s in SIZES]
    levels = streams_of()
    before = neck(stack(levels, full))[0]
    levels[0][1][:, :, 3, 6] += 1
    after = neck(stack(levels, full))[0]
    moved = (after - before).abs().sum((0, 1)) > 1e-4
    assert moved.nonzero().tolist() == [[3, 4]]


# --------------------------------------------------------------------- prompt


def _prompt(mask: list[list[bool]] | None = None, seed: int = 3) -> PromptFeatures:
    tokens = rand(2, 4, 12, seed=seed)
    return PromptFeatures(tokens, None if mask is None else torch.tensor(mask))


def test_the_prompt_matters_and_masked_tokens_do_not():
    neck = build('prompt')
    levels = [level[0] for level in streams_of()]
    mask = [[True, True, False, False], [True, False, False, False]]
    prompt = _prompt(mask)
    out = neck(levels, prompt)[0]
    assert not torch.allclose(out, neck(levels)[0])
    assert not torch.allclose(out, neck(levels, _prompt(mask, seed=4))[0])
    other = torch.where(prompt.mask[..., None], prompt.tokens, 9.0)
    assert torch.equal(out, neck(levels, PromptFeatures(other, prompt.mask))[0])
    short = PromptFeatures(prompt.tokens[:1, :2])
    torch.testing.assert_close(out[:1], neck([x[:1] for x in levels], short)[0])


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_an_empty_prompt_changes_nothing_and_stays_finite(dtype):
    neck = build('prompt').to(dtype)
    levels = [level[0].to(dtype) for level in streams_of()]
    prompt = _prompt([[False] * 4, [True] * 4]).to(dtype)
    outs = neck(levels, prompt)
    assert all(out.isfinite().all() for out in outs)
    for blocks in neck.levels:
        blocks[0].attn.proj.weight.data.zero_()
    without = neck(levels, prompt)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(outs, without, strict=True))
    assert not torch.equal(outs[0][1], without[0][1])


def test_learned_tokens_stay_connected_when_a_prompt_is_given():
    neck = build('prompt').train()
    levels = [level[0] for level in streams_of()]
    sum(out.sum() for out in neck(levels, _prompt())).backward()
    assert neck.tokens.grad is not None
    assert not neck.tokens.grad.any()


def test_prompts_that_do_not_fit_are_refused():
    levels = [level[0] for level in streams_of()]
    neck = build('prompt', num_tokens=0)
    with pytest.raises(ValueError, match='no prompt and has num_tokens=0'):
        neck(levels)
    with pytest.raises(ValueError, match=r'\(2, 4, 5\), expected \(2, N, 12\)'):
        neck(levels, PromptFeatures(torch.zeros(2, 4, 5)))
    with pytest.raises(ValueError, match=r'tokens has the shape \(4, 5\)'):
        PromptFeatures(torch.zeros(4, 5))
    with pytest.raises(ValueError, match=r'mask is torch.int64 \(2, 4\)'):
        PromptFeatures(torch.zeros(2, 4, 5), torch.ones(2, 4, dtype=torch.long))
    with pytest.raises(ValueError, match=r'pooled has the shape \(2, 4\)'):
        PromptFeatures(torch.zeros(2, 4, 5), pooled=torch.zeros(2, 4))


def test_the_pooled_prompt_is_the_mean_of_the_real_tokens():
    prompt = _prompt([[True, True, False, False], [False] * 4])
    torch.testing.assert_close(prompt.pooled[0], prompt.tokens[0, :2].mean(0))
    assert not prompt.pooled[1].any()
