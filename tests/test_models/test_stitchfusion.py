"""StitchFusion: any number of modalities, adapters, validity, converter, forms."""

from pathlib import Path

import pytest
import torch
from mmengine import Config

from mmseg_xmodal.models.backbones import StitchFusion
from mmseg_xmodal.models.converters import OFFICIAL, convert_official, recognise
from mmseg_xmodal.models.converters.stitchfusion import STITCHFUSION, stitchfusion_key
from mmseg_xmodal.models.layers.drop_path import DropPath
from mmseg_xmodal.models.layers.mit import MIT_VARIANTS
from mmseg_xmodal.models.layers.multi_adapter import SHARING, MultiAdapter
from mmseg_xmodal.registry import MODELS
from tests.reference_forms import PUBLISHED
from tests.reference_forms.mix_se import Published
from tests.reference_forms.stitchfusion import StitchFusion as PublishedBackbone
from tests.reference_forms.stitchfusion import plain_stitchfusion

from .helpers import RGBD, TINY, rand, randomise, without_gradient

DELIVER = dict(
    rgb=dict(channels=3, order='rgb'),
    depth=dict(channels=1),
    event=dict(channels=3),
    lidar=dict(channels=3),
)
SETS = {
    1: {'rgb': DELIVER['rgb']},
    2: RGBD,
    3: {n: DELIVER[n] for n in ('rgb', 'depth', 'event')},
    4: DELIVER,
}
CHANNELS = {1: 3, 2: 4, 3: 7, 4: 10}


def _segmentor(modalities, **backbone) -> torch.nn.Module:
    backbone = dict(modalities=modalities, variant=TINY) | backbone
    return MODELS.build(
        dict(
            type='mmseg.EncoderDecoder',
            backbone=dict(type='mmseg_xmodal.StitchFusion', **backbone),
            decode_head=dict(
                type='mmseg_xmodal.CMNeXtHead',
                in_channels=TINY['embed_dims'],
                channels=16,
                num_classes=3,
                dropout_ratio=0.0,
            ),
            test_cfg=dict(mode='whole'),
        )
    )


@pytest.mark.parametrize('count', SETS)
@pytest.mark.parametrize('size', [(64, 96), (45, 61)])
def test_gradients_reach_every_modality_and_parameter(count, size) -> None:
    # Eval mode: a bias before a BN in training has no gradient.
    # With 1 hidden channel the ReLU of the gate would stop all gradients in some.
    fusion = dict(type='mmseg_xmodal.MixSEFusion', reduction=1)
    model = StitchFusion(SETS[count], TINY, fusion=fusion).eval()
    randomise(model)
    x = rand(2, CHANNELS[count], *size).requires_grad_()
    outs = model(x)
    assert [o.shape[1] for o in outs] == list(model.out_channels)
    sum(out.square().mean() for out in outs).backward()
    assert (x.grad.abs().sum((0, 2, 3)) > 0).all()
    assert without_gradient(model) == []


@pytest.mark.parametrize('size', [(1, 1), (5, 31), (32, 33)])
def test_small_sizes(size) -> None:
    outs = StitchFusion(RGBD, TINY).eval()(rand(1, 4, *size))
    h, w = ((side + 3) // 4 for side in size)
    for out in outs:
        assert out.shape[2:] == (h, w)
        h, w = (h + 1) // 2, (w + 1) // 2


@pytest.mark.parametrize('count', [2, 3, 4])
@pytest.mark.parametrize('train', [True, False])
@pytest.mark.parametrize('sharing', SHARING)
def test_equals_the_published_form(count, train, sharing) -> None:
    """Double precision; train = BN on batch statistics, without any dropping."""
    model = _segmentor(
        SETS[count], drop_path_rate=0.0, adapter_dropout=0.0, sharing=sharing
    ).double()
    randomise(model)
    published = PUBLISHED['mmseg_xmodal.StitchFusion'](model).double()
    model.train(train), published.train(train)
    x = rand(2, CHANNELS[count], 40, 56, dtype=torch.float64)
    ours, expected = model(x, mode='tensor'), published(x)
    torch.testing.assert_close(ours, expected)
    ours.square().sum().backward()
    expected.square().sum().backward()
    own = dict(model.named_parameters())
    for name, parameter in published.named_parameters():
        torch.testing.assert_close(own[stitchfusion_key(name)].grad, parameter.grad)
    with torch.no_grad():  # in place
        torch.testing.assert_close(model(x, mode='tensor'), published(x))
        ones = torch.ones(2, count, 40, 56, dtype=torch.float64)
        model.train(train)  # statistics have moved alike
        valid = model(torch.cat([x, ones], 1), mode='tensor')
        torch.testing.assert_close(valid, published(x))


def test_the_order_of_the_modalities_matters() -> None:
    model = StitchFusion(SETS[3], TINY).double().eval()
    randomise(model)
    x = rand(1, 7, 40, 40, dtype=torch.float64)
    depth = x[:, 3:4].expand(-1, 3, -1, -1)
    same = StitchFusion(
        [dict(name=n, channels=3) for n in ('rgb', 'event', 'depth')], TINY
    )
    same.double().eval().load_state_dict(model.state_dict())
    assert same.input.names == ('rgb', 'event', 'depth')
    with torch.no_grad():
        swapped = same(torch.cat([x[:, :3], x[:, 4:], depth], 1))
        straight = same(torch.cat([x[:, :3], depth, x[:, 4:]], 1))
        for a, b, c in zip(model(x), straight, swapped, strict=True):
            torch.testing.assert_close(a, b)
            assert not torch.allclose(a, c)


@pytest.mark.parametrize('missing', [0, 1, 2])
def test_a_missing_modality_has_no_say(missing) -> None:
    model = StitchFusion(SETS[3], TINY).eval()
    randomise(model)
    valid = torch.ones(1, 3, 64, 64)
    valid[:, missing] = 0
    first, second = rand(1, 7, 64, 64), rand(1, 7, 64, 64)
    place = (slice(0, 3), slice(3, 4), slice(4, 7))[missing]
    second[:, place] = 5 * rand(1, 7, 64, 64, seed=5)[:, place]
    with torch.no_grad():
        a, b = (model(torch.cat([x, valid], 1)) for x in (first, second))
        c = model(second)
    assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))
    assert not any(torch.allclose(p, q) for p, q in zip(a, c, strict=True))


def test_drop_path_drops_whole_messages() -> None:
    """With every message dropped nothing arrives, not even a bias."""
    adapters = MultiAdapter(8, 3, 'pair', 4, 0.0).train()
    randomise(adapters)
    x = rand(6, 5, 8)

    class DropAll(torch.nn.Module):
        rate = 0.5

        def forward(self, weight):
            return 0 * weight

    none = adapters(x, torch.nn.Identity(), DropAll())
    torch.testing.assert_close(none, x)
    nowhere = adapters(x, torch.nn.Identity(), DropPath(0.0), 0 * x[..., :1])
    torch.testing.assert_close(nowhere, x)
    whole = adapters(x, torch.nn.Identity(), DropPath(0.0))
    assert not torch.isclose(whole, x).any()


@pytest.mark.parametrize('masked', [True, False])
def test_adapters_that_are_more_than_their_weights_are_called(masked) -> None:
    """A hook (a further adapter, a quantised layer) must not be passed over."""
    adapters = MultiAdapter(8, 3, 'pair', 4, 0.0).double()
    randomise(adapters)
    x = rand(6, 5, 8, dtype=torch.float64)
    valid = rand(6, 5, 1, dtype=torch.float64).sigmoid() if masked else None
    rest = (torch.nn.LayerNorm(8).double(), DropPath(0.0), valid)
    before = adapters(x, *rest)
    called = []
    adapters.adapters['1_3'].mid.register_forward_hook(lambda *_: called.append(1))
    torch.testing.assert_close(adapters(x, *rest), before)
    assert called == [1, 1]


def test_training_drops_and_repeats_with_the_seed() -> None:
    model = StitchFusion(RGBD, TINY, drop_path_rate=0.5)
    randomise(model)
    x = rand(2, 4, 32, 32)
    outs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        outs.append(model(x)[-1])
    assert torch.equal(outs[0], outs[1])
    assert not torch.allclose(outs[0], outs[2])


def test_wrong_channels_and_sharing() -> None:
    two = dict(rgb=dict(channels=3), swir=dict(channels=2))
    with pytest.raises(ValueError, match=r"'swir'.*2 channels.*3 or 1.*MMSFormer"):
        StitchFusion(two, TINY)
    with pytest.raises(ValueError, match=r"sharing='none', expected one of \('pair'"):
        StitchFusion(RGBD, TINY, sharing='none')
    with pytest.raises(ValueError, match='at most one'):
        StitchFusion(RGBD, TINY, init_cfg=dict(), pretrained='a.pth')
    with pytest.raises(ValueError, match=r'got 3 channels.*4 \(or 6'):
        StitchFusion(RGBD, TINY)(rand(1, 3, 64, 64))


def test_another_fusion_may_change_the_streams() -> None:
    fusion = dict(type='mmseg_xmodal.CMXFusion')
    model = StitchFusion(RGBD, TINY, fusion=fusion).eval()
    randomise(model)
    x = rand(1, 4, 64, 64)
    outs = model(x)
    with torch.no_grad():
        model.fusions[0].rectify.ratio = 0.0
        changed = model(x)
    assert not torch.allclose(outs[3], changed[3])


def test_pretrained_fills_the_trunk(tmp_path) -> None:
    source = StitchFusion(RGBD, TINY)
    randomise(source)
    path = tmp_path / 'mit.pth'
    torch.save(source.trunk.state_dict(), path)
    model = StitchFusion(RGBD, TINY, pretrained=str(path))
    model.init_weights()
    expected = source.trunk.state_dict()
    assert model.init_report.loaded == {'trunk': len(expected)}
    for key, value in model.trunk.state_dict().items():
        assert torch.equal(value, expected[key])
    up = model.adapters[0][0]['attn'].adapters['1_2'].up
    assert 0 < up.weight.std() < 0.03
    assert not up.bias.any()


def test_autocast_channels_last_and_compile_give_the_numbers() -> None:
    model = _segmentor(RGBD, variant=dict(TINY, depths=(1, 1, 1, 1))).eval()
    randomise(model)
    x = rand(1, 4, 64, 96)
    with torch.no_grad():
        plain = model(x, mode='tensor')
        last = model(x.to(memory_format=torch.channels_last), mode='tensor')
        compiled = torch.compile(model, backend='eager')(x, mode='tensor')
        with torch.autocast('cpu', torch.bfloat16):
            low = model(x, mode='tensor').float()
    torch.testing.assert_close(last, plain)
    torch.testing.assert_close(compiled, plain)
    assert (low - plain).abs().max() < 0.05 * plain.abs().max()


def test_bfloat16_autocast_trains() -> None:
    model = _segmentor(SETS[3])
    with torch.autocast('cpu', torch.bfloat16):
        loss = model(rand(2, 7, 64, 64), mode='tensor').float().square().mean()
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ('variant', 'count'), zip(MIT_VARIANTS, [1, 2, 4, 2, 1, 2], strict=True)
)
def test_official_checkpoints_of_every_size_convert(variant, count) -> None:
    with torch.device('meta'):
        state = plain_stitchfusion(variant, count, 19).state_dict()
    config = STITCHFUSION.config(state)
    assert config['backbone']['variant'] == variant
    assert len(config['backbone']['modalities']) == count
    assert config['decode_head']['num_classes'] == 19
    convert_official(STITCHFUSION, state)
    assert [o.name for o in recognise(state)] == ['stitchfusion']


@pytest.mark.parametrize('sharing', SHARING)
def test_official_blocks_of_every_kind_convert(sharing) -> None:
    size = MIT_VARIANTS['mit_b0']
    rates = [[0.0] * depth for depth in size.depths]
    with torch.device('meta'):
        backbone = PublishedBackbone(size, 3, rates, sharing, 0.0)
        state = Published(backbone, None, size.embed_dims, str).state_dict()
    assert STITCHFUSION.config(state)['backbone']['sharing'] == sharing
    convert_official(STITCHFUSION, state)


def test_others_are_refused() -> None:
    with torch.device('meta'):
        state = plain_stitchfusion('mit_b0', 2, 5).state_dict()
    for official in OFFICIAL.values():
        if official is not STITCHFUSION:
            with pytest.raises(ValueError, match='looks like official StitchFusion'):
                convert_official(official, state)
    del state['backbone.block2.1.adap_t_mlp12.adapter_mid.bias']
    with pytest.raises(ValueError, match=r'1 keys are missing.*mlp.adapters.1_2.mid'):
        convert_official(STITCHFUSION, state)
    with pytest.raises(ValueError, match='no official StitchFusion.*MiT size None'):
        convert_official(STITCHFUSION, {'a.weight': torch.zeros(1)})


def test_base_config_builds() -> None:
    root = Path(__file__).parents[2]
    cfg = Config.fromfile(root / 'configs/_base_/models/stitchfusion_mit-b0.py').model
    cfg.data_preprocessor.modalities = cfg.backbone.modalities = RGBD
    cfg.decode_head.num_classes = 3
    model = MODELS.build(cfg).eval()
    inputs = [torch.zeros(5, 64, 64, dtype=torch.float32)]
    batch = model.data_preprocessor(dict(inputs=inputs), training=False)
    assert batch['inputs'].shape == (1, 6, 64, 64)
    assert model(batch['inputs'], mode='tensor').shape == (1, 3, 16, 16)
