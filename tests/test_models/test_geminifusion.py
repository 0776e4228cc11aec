"""GeminiFusion: whole model, fusion, head, streams, validity, published form."""

import copy
from pathlib import Path

import pytest
import torch
from mmengine import Config
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

from mmseg_xmodal.models.backbones import GeminiFusion
from mmseg_xmodal.models.converters import convert_official, load_state
from mmseg_xmodal.models.converters.cmx import CMX
from mmseg_xmodal.models.converters.geminifusion import GEMINIFUSION
from mmseg_xmodal.models.fusion import PixelPairFusion
from mmseg_xmodal.models.layers import slices
from mmseg_xmodal.models.layers.mit import MIT_VARIANTS, MixTransformer
from mmseg_xmodal.models.layers.swin import Swin
from mmseg_xmodal.registry import MODELS
from tests.reference_forms import PUBLISHED
from tests.reference_forms.geminifusion import PublishedGeminiFusion

from .helpers import FOUR, RGBD, rand, randomise, without_gradient

TINY = dict(embed_dims=(8, 16, 24, 32), depths=(1, 2, 1, 1), num_heads=(1, 2, 3, 4))
SWIN = dict(embed_dim=16, depths=(2, 1, 1, 1), num_heads=(1, 2, 4, 8), window=3)


def _config(variant=TINY, **backbone) -> dict:
    backbone = dict(modalities=RGBD, variant=variant) | backbone
    with torch.device('meta'):
        widths = GeminiFusion(**backbone).out_channels
    return dict(
        type='EncoderDecoder',
        data_preprocessor=dict(
            type='mmseg_xmodal.ModalityPreprocessor',
            modalities=backbone['modalities'],
        ),
        backbone=dict(type='mmseg_xmodal.GeminiFusion', **backbone),
        decode_head=dict(
            type='mmseg_xmodal.GeminiHead',
            in_channels=widths,
            channels=16,
            num_classes=3,
            dropout_ratio=0.0,
        ),
        test_cfg=dict(mode='whole'),
    )


def _segmentor(variant=TINY, **backbone) -> nn.Module:
    model = MODELS.build(_config(variant, **backbone))
    randomise(model)
    return model


def _samples(count: int, *size: int) -> list:
    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(count):
        label = torch.randint(3, (1, *size), generator=generator)
        sample = SegDataSample(gt_sem_seg=PixelData(data=label))
        samples.append(sample)
    return samples


@pytest.mark.parametrize('variant', MIT_VARIANTS)
def test_every_official_size_converts_strictly(variant: str) -> None:
    with torch.device('meta'):
        official = PublishedGeminiFusion(variant, num_classes=37).state_dict()
        config = GEMINIFUSION.config(official)
        assert config['backbone']['variant'] == variant
        assert config['decode_head']['num_classes'] == 37
        model = MODELS.build(config)
        converted = convert_official(GEMINIFUSION, official)
        model.load_state_dict(converted, strict=True)


def test_other_checkpoints_are_refused() -> None:
    with torch.device('meta'):
        official = PublishedGeminiFusion('mit_b0').state_dict()
        with pytest.raises(ValueError, match=r'no official GeminiFusion.*alpha'):
            convert_official(GEMINIFUSION, {'conv1.weight': torch.zeros(1)})
        less = {k: v for k, v in official.items() if 'k_noise' not in k}
        with pytest.raises(ValueError, match=r'8 keys are missing.*key_noise'):
            convert_official(GEMINIFUSION, less)
        with pytest.raises(ValueError, match=r'looks like official GeminiFusion'):
            convert_official(CMX, official)


def test_released_files_are_unwrapped(tmp_path) -> None:
    path = tmp_path / 'model.pth.tar'
    state = {'module.alpha': torch.ones(2)}
    torch.save(dict(segmenter=state, epoch_start=3), path)
    assert list(load_state(path)) == ['alpha']


@pytest.mark.parametrize('variant', [TINY, SWIN], ids=['mit', 'swin'])
@pytest.mark.parametrize('train', [True, False])
def test_equals_the_published_form(train: bool, variant: dict) -> None:
    """Double precision; train = BN on batch statistics, drop path off."""
    model = _segmentor(variant, drop_path_rate=0.0).double()
    model.decode_head.alpha.requires_grad_(True)
    published = PUBLISHED['mmseg_xmodal.GeminiFusion'](model).double()
    model.train(train), published.train(train)
    x, samples = rand(2, 4, 72, 88, dtype=torch.float64), _samples(2, 72, 88)
    running = model.decode_head.linear_fuse.bn.running_mean.clone()
    with torch.no_grad():
        torch.testing.assert_close(model(x, mode='tensor'), published(x))
    assert torch.equal(model.decode_head.linear_fuse.bn.running_mean, running) != train
    head = model.decode_head
    ours = sum(v for k, v in model.loss(x, samples).items() if 'loss' in k)
    losses = head.loss_by_feat(published.outputs(x), samples)
    expected = sum(v for k, v in losses.items() if 'loss' in k)
    torch.testing.assert_close(ours, expected)
    own = [p for n, p in model.named_parameters() if n != 'decode_head.alpha']
    gradients = torch.autograd.grad(ours, own)
    theirs = {published.our_key(n): p for n, p in published.named_parameters()}
    names = [n for n, _ in model.named_parameters() if n != 'decode_head.alpha']
    wanted = torch.autograd.grad(expected, [theirs[name] for name in names])
    for name, a, b in zip(names, gradients, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9, msg=name)
    for name in ('running_mean', 'running_var'):
        a, b = (getattr(h.linear_fuse.bn, name) for h in (head, published.decoder))
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('variant', [TINY, SWIN], ids=['mit', 'swin'])
@pytest.mark.parametrize('size', [(64, 96), (45, 61), (5, 3), (1, 1)])
def test_gradients_reach_everything_at_any_size(size, variant: dict) -> None:
    model = GeminiFusion(RGBD, variant, drop_path_rate=0.0)
    model.init_weights()
    randomise(model)
    x = rand(2, 4, *size).requires_grad_()
    outs = model(x)
    expected = [(-(-size[0] // s), -(-size[1] // s)) for s in (4, 8, 16, 32)]
    assert [tuple(o.shape[2:]) for o in outs] == expected
    assert [o.shape[1] for o in outs] == list(model.out_channels)
    sum((o * rand(*o.shape, seed=i)).sum() for i, o in enumerate(outs)).backward()
    assert (x.grad.abs().sum((0, 2, 3)) > 0).all()
    unused = [n for n, p in model.named_parameters() if p.grad is None]
    assert unused == []
    if min(size) > 32:
        assert without_gradient(model) == []


def test_base_config_builds() -> None:
    root = Path(__file__).parents[2]
    cfg = Config.fromfile(root / 'configs/_base_/models/geminifusion_mit-b0.py').model
    cfg.data_preprocessor.modalities = cfg.backbone.modalities = RGBD
    cfg.decode_head.num_classes = 3
    model = MODELS.build(cfg).eval()
    x = torch.cat([rand(1, 4, 64, 64), torch.ones(1, 2, 64, 64)], 1)
    assert model(x, mode='tensor').shape == (1, 3, 16, 16)


# ------------------------------------------------------------------- fusion


def _fusion(channels: int = 16, **kwargs) -> PixelPairFusion:
    fusion = PixelPairFusion(channels, **kwargs).double()
    randomise(fusion)
    return fusion


class Adapted(nn.Linear):
    """Not plain: such layers are called, their weights alone are not trusted."""


def _adapt(linear: nn.Linear) -> Adapted:
    adapted = Adapted(linear.in_features, linear.out_features).double()
    adapted.load_state_dict(linear.state_dict())
    return adapted


@pytest.mark.parametrize('pixels', [7, 200], ids=['apart', 'merged'])
@pytest.mark.parametrize('projected', [True, False])
@pytest.mark.parametrize('masked', [True, False])
def test_closed_form_equals_attention_over_two_keys(pixels, projected, masked) -> None:
    fusion, adapted = _fusion(), _fusion()
    adapted.relation.fc2 = _adapt(fusion.relation.fc2)
    proj = nn.Linear(16, 16).double() if projected else None
    x = rand(2, pixels, 16, dtype=torch.float64)
    valid = rand(2, pixels, 1, dtype=torch.float64).sigmoid() if masked else None
    ours, expected = (f.exchange(x, valid, proj) for f in (fusion, adapted))
    torch.testing.assert_close(ours, expected)
    other = _adapt(proj) if projected else None
    torch.testing.assert_close(fusion.exchange(x, valid, other), expected)


def test_slices_of_pixels_change_nothing(monkeypatch) -> None:
    fusion, x = _fusion(), rand(2, 200, 16, dtype=torch.float64)
    valid = rand(2, 200, 1, dtype=torch.float64).sigmoid()
    whole = fusion.exchange(x, valid)
    monkeypatch.setattr(slices, '_ELEMENTS', 5000)
    with torch.no_grad():
        torch.testing.assert_close(fusion.exchange(x, valid), whole)


def test_fusion_of_maps_understands_validity() -> None:
    fusion = _fusion()
    feats = [rand(2, 16, 5, 6, seed=i, dtype=torch.float64) for i in range(2)]
    ones = [torch.ones(2, 1, 5, 6, dtype=torch.float64)] * 2
    plain, fused = fusion(feats, None)
    assert torch.equal(fused, (plain[0] + plain[1]) / 2)
    for a, b in zip(plain, fusion(feats, ones)[0], strict=True):
        assert torch.equal(a, b)
    valid = [ones[0], ones[1].clone()]
    valid[1][..., :3] = 0
    other = [feats[0], feats[1] + 5 * (1 - valid[1])]
    a, b = (fusion(f, valid)[0][0] for f in (feats, other))
    assert torch.equal(a, b)
    assert not torch.equal(a, plain[0])


def test_wrong_heads_and_streams_are_refused() -> None:
    with pytest.raises(ValueError, match='channels=12 and num_heads=8'):
        PixelPairFusion(12)
    with pytest.raises(ValueError, match='exactly 2 streams, got 3'):
        _fusion()([rand(1, 16, 2, 2)] * 3)


def test_fits_another_backbone() -> None:
    fusion = dict(type='mmseg_xmodal.PixelPairFusion')
    cfg = dict(type='mmseg_xmodal.CMX', modalities=RGBD, variant=TINY, fusion=fusion)
    outs = MODELS.build(cfg)(rand(1, 4, 64, 64))
    assert [o.shape[1] for o in outs] == [8, 16, 24, 32]


# ------------------------------------------------------------------ streams


@pytest.mark.parametrize('variant', [TINY, SWIN], ids=['mit', 'swin'])
def test_one_channel_counts_as_three_equal_ones(variant: dict) -> None:
    model = GeminiFusion(RGBD, variant).double().eval()
    three = dict(rgb=dict(channels=3), depth=dict(channels=3))
    full = GeminiFusion(three, variant).double().eval()
    full.load_state_dict(model.state_dict(), strict=True)
    x = rand(1, 4, 40, 40, dtype=torch.float64)
    with torch.no_grad():
        ours, expected = model(x), full(torch.cat([x, x[:, 3:], x[:, 3:]], 1))
    torch.testing.assert_close(ours, expected)


def test_wrong_streams_are_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r'exactly 2 streams, got 4.*streams='):
        GeminiFusion(FOUR, TINY)
    with pytest.raises(ValueError, match=r"2 channels in stream 'x'.*3 or 1.*CMX"):
        GeminiFusion(FOUR, TINY, dict(rgb=['rgb'], x=['swir']))
    assert GeminiFusion(FOUR, TINY, dict(rgb=['rgb'], x=['swir', 'dem']))
    with pytest.raises(ValueError, match=r"variant='mit_b9'.*mit_b0.*swin_t"):
        GeminiFusion(RGBD, 'mit_b9')


@pytest.mark.parametrize('missing', [0, 1])
def test_a_missing_modality_has_no_say_in_the_other_stream(missing: int) -> None:
    model = GeminiFusion(RGBD, TINY).eval()
    valid = torch.ones(1, 2, 64, 64)
    x = rand(1, 4, 64, 64)
    with torch.no_grad():
        plain = model(x)
        full = model(torch.cat([x, valid], 1))
        assert all(torch.equal(p, f) for p, f in zip(plain, full, strict=True))
        valid[:, missing] = 0
        other = x.clone()
        place = slice(0, 3) if missing == 0 else slice(3, 4)
        other[:, place] = 5 * rand(1, 4, 64, 64, seed=5)[:, place]
        a, b = (model(torch.cat([v, valid], 1)) for v in (x, other))
    for first, second, before in zip(a, b, plain, strict=True):
        first, second, before = (
            t.chunk(2, 1)[1 - missing] for t in (first, second, before)
        )
        assert torch.equal(first, second)
        assert not torch.equal(first, before)


def test_imagenet_weights_reach_both_streams(tmp_path) -> None:
    source = MixTransformer(TINY)
    randomise(source)
    torch.save(source.state_dict(), tmp_path / 'mit.pth')
    model = GeminiFusion(RGBD, TINY, pretrained=str(tmp_path / 'mit.pth'))
    model.init_weights()
    assert model.init_report.loaded == {'rgb+depth': len(model.encoder.state_dict())}
    block = model.encoder.stages[0].blocks[0]
    wanted = source.stages[0].blocks[0]
    for norm in block.norm1:
        assert torch.equal(norm.weight, wanted.norm1.weight)
    assert torch.equal(block.mlp.fc1.weight, wanted.mlp.fc1.weight)
    swin = Swin(SWIN)
    torch.save(swin.state_dict(), tmp_path / 'swin.pth')
    model = GeminiFusion(RGBD, SWIN, pretrained=str(tmp_path / 'swin.pth'))
    model.init_weights()
    first = model.encoder.patch_embed.proj.weight
    assert torch.equal(first, swin.patch_embed.proj.weight)
    with pytest.raises(ValueError, match='at most one'):
        GeminiFusion(RGBD, TINY, pretrained='a.pth', init_cfg=dict(type='Normal'))


# --------------------------------------------------------------------- head


def test_only_alpha_learns_through_the_ensemble() -> None:
    model = _segmentor()
    head, samples = model.decode_head, _samples(2, 64, 64)
    feats = model.extract_feat(rand(2, 4, 64, 64))
    assert [n for n, p in head.named_parameters() if not p.requires_grad] == ['alpha']
    head.alpha.requires_grad_(True)
    losses = head.loss(feats, samples, None)
    assert set(losses) >= {f'{n}.loss_ce' for n in ('first', 'second', 'ensemble')}
    losses['ensemble.loss_ce'].backward()
    assert [n for n, p in head.named_parameters() if p.grad is not None] == ['alpha']
    head.alpha.grad = None
    (losses['first.loss_ce'] + losses['second.loss_ce']).backward()
    assert without_gradient(head) == ['alpha']


def test_train_alpha_is_an_option() -> None:
    cfg = _config()['decode_head']
    assert not MODELS.build(cfg).alpha.requires_grad
    assert MODELS.build(cfg | dict(train_alpha=True)).alpha.requires_grad


def test_ensemble_weighs_by_softmax_of_alpha() -> None:
    model = _segmentor().eval()
    with torch.no_grad():
        model.decode_head.alpha.copy_(torch.tensor([1.0, 0.0]))
        feats = model.extract_feat(rand(1, 4, 64, 64))
        first, second = model.decode_head.stream_logits(feats)
        share = torch.tensor(1.0).sigmoid()
        expected = share * first + (1 - share) * second
        torch.testing.assert_close(model.decode_head(feats), expected)


def test_head_needs_two_streams_per_level() -> None:
    cfg = _config()['decode_head'] | dict(in_channels=[15, 32, 48, 64])
    with pytest.raises(ValueError, match='expected even.*twice'):
        MODELS.build(cfg)


def test_stock_heads_read_both_streams() -> None:
    cfg = _config()
    cfg['decode_head'] = dict(
        type='SegformerHead',
        in_channels=list(GeminiFusion(RGBD, TINY).out_channels),
        in_index=[0, 1, 2, 3],
        channels=16,
        num_classes=3,
    )
    assert MODELS.build(cfg)(rand(1, 4, 64, 64), mode='tensor').shape == (1, 3, 16, 16)


# -------------------------------------------------------------- surroundings


@pytest.mark.parametrize('variant', [TINY, SWIN], ids=['mit', 'swin'])
def test_copies_layouts_and_graphs_give_the_same_numbers(variant: dict) -> None:
    model = _segmentor(variant).eval()
    x = rand(1, 4, 40, 56)
    with torch.no_grad():
        expected = model(x, mode='tensor')
        again = copy.deepcopy(model)(x, mode='tensor')
        assert torch.equal(again, expected)
        last = model(x.contiguous(memory_format=torch.channels_last), mode='tensor')
        torch.testing.assert_close(last, expected)
        compiled = torch.compile(model.backbone, backend='eager')
        for ours, graph in zip(model.backbone(x), compiled(x), strict=True):
            torch.testing.assert_close(graph, ours)


def test_bfloat16_autocast_trains() -> None:
    model = _segmentor(drop_path_rate=0.0)
    x = rand(2, 4, 64, 64)
    with torch.no_grad():
        exact = model.eval()(x, mode='tensor')
    with torch.autocast('cpu', torch.bfloat16):
        low = model(x, mode='tensor')
        loss = sum(
            value
            for name, value in model.train().loss(x, _samples(2, 64, 64)).items()
            if 'loss' in name
        )
    assert (low - exact).abs().max() < 0.05 * exact.abs().max()
    loss.backward()
    assert torch.isfinite(loss)
    assert without_gradient(model) == []
