"""Fusion modules: interface, validity, gradients, refusals."""

import pytest
import torch

from mmseg_xmodal.models.fusion import build_fusions
from mmseg_xmodal.registry import MODELS
from tests.reference_forms.cmx import FFM, FRM

from .helpers import rand, randomise, without_gradient

PAIRWISE = ['FeatureRectifyModule', 'FeatureFusionModule', 'CMXFusion']
ANY_NUMBER = ['MeanFusion', 'ConcatFusion']
C, SIZE = 12, (5, 7)


def _build(name: str, streams: int = 2) -> torch.nn.Module:
    module = build_fusions(dict(type=f'mmseg_xmodal.{name}'), [C], streams)[0]
    randomise(module)
    return module.eval()


def _feats(streams: int = 2, requires_grad: bool = False) -> list[torch.Tensor]:
    feats = [rand(2, C, *SIZE, seed=i) for i in range(streams)]
    return [f.requires_grad_(requires_grad) for f in feats]


@pytest.mark.parametrize('name', PAIRWISE + ANY_NUMBER)
def test_interface_and_gradients(name: str) -> None:
    module, feats = _build(name).train(), _feats(requires_grad=True)
    streams, fused = module(feats, None)
    assert [s.shape for s in streams] == [f.shape for f in feats]
    assert fused.shape == feats[0].shape
    (fused * rand(*fused.shape, seed=9)).sum().backward()
    assert all(f.grad.abs().sum() > 0 for f in feats)
    assert without_gradient(module) == []


@pytest.mark.parametrize('name', PAIRWISE + ANY_NUMBER)
def test_valid_everywhere_changes_no_number(name: str) -> None:
    module, feats = _build(name), _feats()
    valid = [torch.ones(2, 1, *SIZE) for _ in feats]
    plain, masked = module(feats, None), module(feats, valid)
    assert torch.equal(plain[1], masked[1])
    assert all(torch.equal(p, m) for p, m in zip(plain[0], masked[0], strict=True))


@pytest.mark.parametrize('name', ['FeatureFusionModule', 'CMXFusion', *ANY_NUMBER])
@pytest.mark.parametrize('missing', [0, 1])
def test_a_missing_stream_has_no_say(name: str, missing: int) -> None:
    module, feats = _build(name), _feats()
    valid = [torch.ones(2, 1, *SIZE) for _ in feats]
    valid[missing] = torch.zeros(2, 1, *SIZE)
    streams, fused = module(feats, valid)
    other = list(feats)
    other[missing] = 3 * rand(2, C, *SIZE, seed=77)
    streams_other, fused_other = module(other, valid)
    assert torch.equal(fused, fused_other)
    assert torch.equal(streams[1 - missing], streams_other[1 - missing])
    full = module(feats, [torch.ones_like(v) for v in valid])[1]
    assert not torch.allclose(full, fused)


def test_missing_partner_leaves_a_stream_as_it_is() -> None:
    module, feats = _build('FeatureRectifyModule'), _feats()
    valid = [torch.ones(2, 1, *SIZE), torch.zeros(2, 1, *SIZE)]
    streams, _ = module(feats, valid)
    assert torch.equal(streams[0], feats[0])


@pytest.mark.parametrize('name', PAIRWISE)
def test_three_streams_are_refused_with_the_remedy(name: str) -> None:
    with pytest.raises(ValueError, match=r'exactly 2 streams, got 3.*streams=.*Mean'):
        _build(name)(_feats(3), None)


@pytest.mark.parametrize('name', ANY_NUMBER)
@pytest.mark.parametrize('streams', [1, 3, 4])
def test_any_number_of_streams(name: str, streams: int) -> None:
    out, fused = _build(name, streams)(_feats(streams), None)
    assert len(out) == streams
    assert fused.shape == (2, C, *SIZE)


def test_mean_weighs_by_validity() -> None:
    feats = [torch.full((1, 1, 1, 2), v) for v in (1.0, 3.0)]
    valid = [torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.5, 0.0]]]])]
    fused = _build('MeanFusion')(feats, valid)[1]
    assert torch.allclose(fused, torch.tensor([[[[2.5 / 1.5, 2.0]]]]))


def test_concat_says_which_number_to_set() -> None:
    module = MODELS.build(dict(type='mmseg_xmodal.ConcatFusion', channels=C))
    with pytest.raises(ValueError, match='built for 2 streams, got 3.*num_streams=3'):
        module(_feats(3))


@pytest.mark.parametrize('heads', [1, 3])
@pytest.mark.parametrize('train', [False, True])
def test_cmx_modules_equal_the_published_form(heads: int, train: bool) -> None:
    """Outputs and parameter gradients in double precision, BN in both modes."""
    ours = MODELS.build(
        dict(type='mmseg_xmodal.CMXFusion', channels=C, num_heads=heads)
    ).double()
    randomise(ours)
    frm, ffm = FRM(C).double(), FFM(C, heads).double()
    frm.load_state_dict(ours.rectify.state_dict(), strict=True)
    ffm.load_state_dict(ours.fuse.state_dict(), strict=True)
    for module in (ours, frm, ffm):
        module.train(train)
    feats = [rand(2, C, *SIZE, seed=i, dtype=torch.float64) for i in range(2)]
    (r, x), fused = ours(feats, None)
    expected = frm(*feats)
    torch.testing.assert_close((r, x), expected)
    torch.testing.assert_close(fused, ffm(*expected))
    weight = rand(*fused.shape, seed=5, dtype=torch.float64)
    (fused * weight).sum().backward()
    (ffm(*expected) * weight).sum().backward()
    for own, published in ((ours.rectify, frm), (ours.fuse, ffm)):
        pairs = zip(own.parameters(), published.parameters(), strict=True)
        for a, b in pairs:
            torch.testing.assert_close(a.grad, b.grad)


def test_heads_must_divide_channels() -> None:
    with pytest.raises(ValueError, match='channels=12.*num_heads=5'):
        MODELS.build(
            dict(type='mmseg_xmodal.FeatureFusionModule', channels=12, num_heads=5)
        )


def test_one_config_per_stage() -> None:
    cfgs = [dict(type='mmseg_xmodal.MeanFusion'), dict(type='mmseg_xmodal.CMXFusion')]
    built = build_fusions(cfgs, [4, 8], 2)
    assert [type(m).__name__ for m in built] == ['MeanFusion', 'CMXFusion']
    with pytest.raises(ValueError, match='list of 2 configs, expected 3'):
        build_fusions(cfgs, [4, 8, 16], 2)


def test_context_survives_half_precision() -> None:
    """The context's logits are sums over tokens: they must not overflow."""
    module = _build('FeatureFusionModule')
    feats = [50 * rand(1, C, 40, 40, seed=i) for i in range(2)]
    with torch.autocast('cpu', torch.bfloat16):
        fused = module(feats, None)[1]
    assert torch.isfinite(fused).all()
