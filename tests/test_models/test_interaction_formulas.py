"""The pieces of task interactions against their written-out forms."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from mmseg_xmodal.models.interactions.multi_scale_distillation import (
    FeaturePropagation,
    SpatialAttentionDistillation,
)
from mmseg_xmodal.models.layers.cross_task_attention import CrossTaskAttention, Scores

from .helpers import rand, randomise


def test_distillation_written_out():
    names, channels = ['a', 'b', 'c'], 4
    module = SpatialAttentionDistillation(names, channels).double()
    randomise(module)
    feats = {
        n: rand(2, channels, 5, 3, seed=i, dtype=torch.float64)
        for i, n in enumerate(names)
    }
    out = module(feats)
    for target in names:
        expected = feats[target]
        for source in names:
            if source == target:
                continue
            conv = module.sources[source]
            # One pair of convolutions per ordered pair of tasks.
            index = [n for n in names if n != source].index(target)
            halves = zip(conv.weight.chunk(2), conv.bias.chunk(2), strict=True)
            gate, value = (
                F.conv2d(feats[source], w.chunk(2)[index], b.chunk(2)[index], padding=1)
                for w, b in halves
            )
            expected = expected + gate.sigmoid() * value
        torch.testing.assert_close(out[target], expected)


def test_propagation_written_out():
    names, channels = ['a', 'b', 'c'], 4
    module = FeaturePropagation(names, channels, dict(type='BN'), 2).double().eval()
    randomise(module)
    feats = {
        n: rand(2, channels, 5, 3, seed=i, dtype=torch.float64)
        for i, n in enumerate(names)
    }
    features = torch.cat(list(feats.values()), 1)
    scores = (features + module.scores(features)).chunk(3, 1)
    total = sum(score.exp() for score in scores)
    attended = [
        feat * score.exp() / total
        for feat, score in zip(feats.values(), scores, strict=True)
    ]
    shared = module.reduce(torch.cat(attended, 1))
    mask = module.mask(features)
    torch.testing.assert_close(mask.sum(1), torch.ones_like(mask[:, 0]))
    for name, out in module(feats).items():
        squeeze, _, excite, _ = module.gates[name].fc
        hidden = F.relu(F.linear(shared.mean((2, 3)), squeeze.weight))
        gate = F.linear(hidden, excite.weight).sigmoid()
        torch.testing.assert_close(out, feats[name] + gate[..., None, None] * shared)


class PlainAttention(nn.Module):
    """Attention message passing in the published order, with the biases of old.

    Args:
        ours: Module whose weights are used.
    """

    def __init__(self, ours: CrossTaskAttention) -> None:
        super().__init__()
        self.ours = ours
        self.key_bias = rand(ours.q.out_features, seed=3, dtype=torch.float64)
        self.mix_bias = rand(ours.heads, seed=4, dtype=torch.float64)

    def scores(self, q, k, before, grids):
        """Of one image; q (T * Q, C), k (T * K, C), before (H, T * Q', T * K)."""
        heads, tasks = self.ours.heads, len(self.ours.local)
        own = torch.stack(
            [
                a @ b.T * q.shape[1] ** -0.5
                for a, b in zip(q.chunk(heads, 1), k.chunk(heads, 1), strict=True)
            ]
        )
        if before is None:
            return own
        maps = before.reshape(heads, tasks, *grids[0], -1).permute(0, 1, 4, 2, 3)
        maps = F.interpolate(maps.flatten(0, 1), grids[1], mode='bilinear')
        maps = maps.unflatten(0, (heads, tasks)).permute(0, 1, 3, 4, 2)
        both = torch.cat([own, maps.reshape(own.shape)])[None]
        weight = self.ours.mix.weight[..., None, None]
        return F.conv2d(both, weight, self.mix_bias)[0]

    def forward(self, x, stride, before):
        """Run with strides and loops; x (T, B, C, h, w), before = (scores, grid)."""
        ours = self.ours
        outs, kept = [], []
        for i in range(x.shape[1]):
            maps = [c(x[t, i]) for t, c in enumerate(ours.local.values())]
            grid = maps[0].shape[1:]
            q = torch.cat([ours.q(m.flatten(1).T) for m in maps])
            pooled = [F.avg_pool2d(m, stride).flatten(1).T for m in x[:, i]]
            k, v = ours.kv(torch.cat(pooled)).chunk(2, 1)
            k = k + self.key_bias
            passed = None if before is None else before[0][i]
            grids = None if before is None else (before[1], grid)
            scores = self.scores(q, k, passed, grids)
            values = v.chunk(ours.heads, 1)
            out = [s.softmax(1) @ u for s, u in zip(scores, values, strict=True)]
            out = ours.proj(torch.cat(out, 1)).unflatten(0, (x.shape[0], *grid))
            outs.append(out.permute(0, 3, 1, 2))
            kept.append(scores)
        return torch.stack(outs, 1), (torch.stack(kept), grid)


def test_message_passing_written_out():
    names, batch = ['a', 'b', 'c'], 2
    first = CrossTaskAttention(names, 8, 2, receives=False, sends=True).double()
    second = CrossTaskAttention(names, 4, 2, receives=True, sends=True).double()
    randomise(first, 1)
    randomise(second, 2)
    coarse = rand(3, batch, 8, 4, 6, seed=5, dtype=torch.float64)
    fine = rand(3, batch, 4, 8, 12, seed=6, dtype=torch.float64)
    # Keys: strides 2 and 4 give the same grid.
    one, scores = first(coarse.flatten(0, 1), (2, 3), None)
    two, last = second(fine.flatten(0, 1), (2, 3), scores)
    plain_one, plain_scores = PlainAttention(first)(coarse, 2, None)
    plain_two, plain_last = PlainAttention(second)(fine, 4, plain_scores)
    torch.testing.assert_close(one, plain_one.flatten(0, 1))
    torch.testing.assert_close(two, plain_two.flatten(0, 1))
    # The biases change the scores, and not what comes out.
    assert last.values.shape == plain_last[0].shape == (batch, 2, 3 * 24, 3 * 6)
    assert not torch.allclose(last.values, plain_last[0])


def test_the_message_has_a_say():
    module = CrossTaskAttention(['a', 'b'], 8, 2, receives=True, sends=False)
    x = rand(4, 8, 6, 6)
    before = [Scores(rand(2, 2, 8, 18, seed=i), (2, 2)) for i in (1, 2)]
    one, two = (module(x, (3, 3), b)[0] for b in before)
    assert not torch.allclose(one, two)


def test_without_messages_no_scores_are_held_and_attention_is_the_same():
    ways = [
        CrossTaskAttention(['a', 'b'], 8, 2, receives=False, sends=sends).double()
        for sends in (False, True)
    ]
    randomise(ways[0])
    ways[1].load_state_dict(ways[0].state_dict())
    x = rand(4, 8, 5, 7, dtype=torch.float64)
    (one, nothing), (two, scores) = (way(x, (2, 2), None) for way in ways)
    assert nothing is None
    assert scores.values.shape == (2, 2, 2 * 12, 2 * 4)
    torch.testing.assert_close(one, two)
