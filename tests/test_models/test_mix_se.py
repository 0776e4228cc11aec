"""MixSEFusion: its algebra in every mode, behind any backbone."""

import pytest
import torch
from torch import nn

from mmseg_xmodal.models.backbones import MultiStreamBackbone
from mmseg_xmodal.models.fusion import MixSEFusion
from tests.reference_forms.mix_se import Fusion

from .helpers import RGBD, TINY, rand, randomise


def _pair(channels: int, count: int) -> tuple[MixSEFusion, Fusion]:
    published = Fusion((channels,), count).double()
    randomise(published)
    ours = MixSEFusion(channels, count).double()
    names = {'liner_fusion_layers.0': 'linear', 'channel_attns.0': 'gate'}
    names['mix_ffn.0'] = 'mix_ffn'
    state = {}
    for key, value in published.state_dict().items():
        old = next(name for name in names if key.startswith(name))
        state[key.replace(old, names[old])] = value
    ours.load_state_dict(state, strict=True)
    return ours, published


@pytest.mark.parametrize('count', [1, 2, 5])
@pytest.mark.parametrize('train', [True, False])
@pytest.mark.parametrize('size', [(2, 3), (9, 11)])  # fewer and more places than C
def test_equals_the_published_form(count, train, size) -> None:
    ours, published = _pair(32, count)
    ours.train(train), published.train(train)
    feats = [rand(2, 32, *size, seed=i, dtype=torch.float64) for i in range(count)]
    streams, fused = ours(feats)
    assert all(a is b for a, b in zip(streams, feats, strict=True))
    torch.testing.assert_close(fused, published(feats, 0))
    ones = [torch.ones(2, 1, *size, dtype=torch.float64)] * count
    torch.testing.assert_close(ours(feats, ones)[1], published(feats, 0))
    torch.testing.assert_close(
        ours.mix_ffn.pwconv2.bn.running_var, published.mix_ffn[0].pwconv2.bn.running_var
    )


def test_layers_that_are_more_than_their_weights_are_called() -> None:
    """A hook (an adapter, a quantised layer) must not be passed over."""
    ours, _ = _pair(32, 2)
    ours.eval()
    feats = [rand(1, 32, 7, 8, seed=i, dtype=torch.float64) for i in range(2)]
    before = ours(feats)[1]
    hooked = [ours.linear, ours.mix_ffn.fc1, ours.mix_ffn.dwconv5.dwconv]
    called = []
    for layer in hooked:
        layer.register_forward_hook(lambda m, *_: called.append(m))
    torch.testing.assert_close(ours(feats)[1], before)
    assert called == hooked


def test_wrong_number_of_streams() -> None:
    with pytest.raises(ValueError, match='built for 2 streams, got 3.*num_streams=3'):
        MixSEFusion(8)([rand(1, 8, 2, 2)] * 3)


def test_other_norms() -> None:
    fusion = MixSEFusion(8, norm_cfg=dict(type='GN', num_groups=2)).eval()
    assert isinstance(fusion.mix_ffn.pwconv1.bn, nn.GroupNorm)
    assert fusion([rand(1, 8, 1, 1)] * 2)[1].shape == (1, 8, 1, 1)


def test_behind_any_backbone() -> None:
    backbone = dict(type='mmseg_xmodal.MixTransformer', variant=TINY)
    fusion = dict(type='mmseg_xmodal.MixSEFusion')
    model = MultiStreamBackbone(RGBD, backbone, fusion)
    assert [o.shape[1] for o in model(rand(2, 4, 64, 64))] == list(TINY['embed_dims'])
