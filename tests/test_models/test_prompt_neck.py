"""Attention to the tokens of a prompt: what matters, and what must not."""

from __future__ import annotations

import pytest
import torch

from mmseg_xmodal.models.layers.map_probe import watch
from mmseg_xmodal.models.layers.token_attention import TokenAttention
from mmseg_xmodal.structures import PromptFeatures

from .helpers import rand
from .neck_cases import build, streams_of


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
    remedies = r'no prompt and has num_tokens=0.*Set num_tokens in.*forward\(.*prompt='
    with pytest.raises(ValueError, match=remedies):
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


@pytest.mark.parametrize('junk', [float('nan'), float('inf')])
def test_masked_tokens_may_hold_anything(junk):
    """Padding of an encoder: outputs and gradients are those without it."""
    neck = build('prompt').train()
    mask = torch.tensor([[True, True, False, False], [False] * 4])
    results = []
    for value in (0.0, junk):
        tokens = torch.where(mask[..., None], _prompt().tokens, value)
        tokens.requires_grad_()
        levels = [level[0].requires_grad_() for level in streams_of()]
        outs = neck(levels, PromptFeatures(tokens, mask))
        inputs = [tokens, *levels, *neck.parameters()]
        total = sum((o * rand(*o.shape, seed=7)).sum() for o in outs)
        results.append((outs, torch.autograd.grad(total, inputs)))
    for a, b in zip(*results, strict=True):
        assert all(x.isfinite().all() for x in b)
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not results[1][1][0][~mask].any()
    with watch(neck) as found:
        neck(levels, PromptFeatures(tokens, mask))
    assert all(shown.values.isfinite().all() for shown in found[''])


def test_masked_keys_may_hold_anything():
    attention = TokenAttention(8, 2, 6)
    x, mask = rand(2, 4, 8), torch.tensor([[True, False, True], [False] * 3])
    source = rand(2, 3, 6, seed=1).masked_fill(~mask[..., None], float('nan'))
    source.requires_grad_()
    out = attention(x, source, mask)
    inputs = [source, *attention.parameters()]
    found = [out, *torch.autograd.grad(out.square().sum(), inputs)]
    assert all(value.isfinite().all() for value in found)
    assert attention.weights(x, source, mask, 0).isfinite().all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_a_prompt_of_another_precision_is_cast(dtype):
    """Text encoders often run in half precision."""
    neck = build('prompt')
    levels = [level[0] for level in streams_of()]
    tokens = _prompt().tokens.to(dtype)
    outs = neck(levels, PromptFeatures(tokens))
    expected = neck(levels, PromptFeatures(tokens.float()))
    assert all(torch.equal(a, b) for a, b in zip(outs, expected, strict=True))
