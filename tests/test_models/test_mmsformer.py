"""MMSFormer: any number of modalities, sizes, validity, converter, published form."""

from pathlib import Path

import pytest
import torch
from mmengine import Config

from mmseg_xmodal.models.backbones import MixTransformer, MMSFormer
from mmseg_xmodal.models.converters import OFFICIAL, convert_official, recognise
from mmseg_xmodal.models.converters.mmsformer import MMSFORMER, mmsformer_key
from mmseg_xmodal.models.layers.mit import MIT_VARIANTS
from mmseg_xmodal.registry import MODELS
from tests.reference_forms import PUBLISHED
from tests.reference_forms.mmsformer import plain_mmsformer

from .helpers import FOUR, RGBD, TINY, rand, randomise, without_gradient

DEEPER = dict(TINY, depths=(2, 1, 1, 2))
SETS = {
    1: dict(rgb=dict(channels=3)),
    2: RGBD,
    3: {n: FOUR[n] for n in ('rgb', 'nir', 'swir')},
    4: FOUR,
}
CHANNELS = {1: 3, 2: 4, 3: 6, 4: 7}


def _backbone(modalities, **settings) -> MMSFormer:
    return MMSFormer(modalities, DEEPER, TINY, **settings)


def _segmentor(modalities, **settings) -> torch.nn.Module:
    return MODELS.build(
        dict(
            type='mmseg.EncoderDecoder',
            backbone=dict(
                type='mmseg_xmodal.MMSFormer',
                modalities=modalities,
                variant=DEEPER,
                extra_variant=TINY,
                **settings,
            ),
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
    model = _backbone(SETS[count], fusion=fusion if count > 1 else None).eval()
    randomise(model, seed=1)
    x = rand(2, CHANNELS[count], *size).requires_grad_()
    outs = model(x)
    assert [o.shape[1] for o in outs] == list(model.out_channels)
    sum(out.square().mean() for out in outs).backward()
    assert (x.grad.abs().sum((0, 2, 3)) > 0).all()
    assert without_gradient(model) == []


@pytest.mark.parametrize('size', [(1, 1), (5, 31), (32, 33)])
def test_small_sizes(size) -> None:
    outs = _backbone(RGBD).eval()(rand(1, 4, *size))
    h, w = ((side + 3) // 4 for side in size)
    for out in outs:
        assert out.shape[2:] == (h, w)
        h, w = (h + 1) // 2, (w + 1) // 2


@pytest.mark.parametrize('count', [1, 2, 3, 4])
@pytest.mark.parametrize('train', [True, False])
def test_equals_the_published_form(count, train) -> None:
    """Double precision; train = BN on batch statistics, without any dropping."""
    model = _segmentor(SETS[count], drop_path_rate=0.0).double()
    randomise(model)
    published = PUBLISHED['mmseg_xmodal.MMSFormer'](model).double()
    model.train(train), published.train(train)
    x = rand(2, CHANNELS[count], 40, 56, dtype=torch.float64)
    ours, expected = model(x, mode='tensor'), published(x)
    torch.testing.assert_close(ours, expected)
    ours.square().sum().backward()
    expected.square().sum().backward()
    own = dict(model.named_parameters())
    for name, parameter in published.named_parameters():
        torch.testing.assert_close(own[mmsformer_key(name)].grad, parameter.grad)
    with torch.no_grad():
        ones = torch.ones(2, count, 40, 56, dtype=torch.float64)
        valid = model(torch.cat([x, ones], 1), mode='tensor')
        torch.testing.assert_close(valid, published(x))


@pytest.mark.parametrize('missing', [0, 1])
def test_a_missing_modality_has_no_say(missing) -> None:
    model = _backbone(RGBD).eval()
    valid = torch.ones(1, 2, 64, 64)
    valid[:, missing] = 0
    first, second = rand(1, 4, 64, 64), rand(1, 4, 64, 64)
    place = slice(0, 3) if missing == 0 else slice(3, 4)
    second[:, place] = 5 * rand(1, 4, 64, 64, seed=5)[:, place]
    with torch.no_grad():
        a, b = (model(torch.cat([x, valid], 1)) for x in (first, second))
        c = model(second)
    assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))
    assert not any(torch.allclose(p, q) for p, q in zip(a, c, strict=True))


def test_one_modality_is_a_plain_mit() -> None:
    model = _backbone(SETS[1]).eval()
    eps = dict.fromkeys(('patch', 'reduction', 'block', 'stage'), 1e-5)
    plain = MixTransformer(DEEPER, norm_eps=eps).eval()
    plain.load_state_dict(model.streams[0].state_dict())
    x = rand(1, 3, 64, 64)
    assert all(torch.equal(a, b) for a, b in zip(model(x), plain(x), strict=True))
    assert len(model.fusions) == 0


def test_a_stream_reads_several_modalities() -> None:
    streams = dict(rgb=['rgb'], x=['nir', 'swir', 'dem'])
    model = _backbone(FOUR, streams=streams)
    assert model.input.channels == (3, 4)
    assert len(model(rand(2, 7, 64, 64))) == 4


def test_wrong_sizes_and_weights() -> None:
    with pytest.raises(ValueError, match=r"'mit_b1'.*64, 128.*Set extra_variant.*b0"):
        MMSFormer(RGBD, 'mit_b0')
    with pytest.raises(ValueError, match='init_cfg alone or none'):
        _backbone(RGBD, init_cfg=dict(), extra_pretrained='a.pth')


def test_pretrained_weights_by_size(tmp_path) -> None:
    paths = []
    for variant in (DEEPER, TINY):
        source = MixTransformer(variant)
        randomise(source, seed=len(paths))
        paths.append(tmp_path / f'{len(paths)}.pth')
        torch.save(source.state_dict(), paths[-1])
    first, extra = (dict(checkpoint=str(p), first_conv='sum') for p in paths)
    model = _backbone(SETS[3], pretrained=first, extra_pretrained=extra)
    model.init_weights()
    assert set(model.init_report.loaded) == {'rgb', 'nir', 'swir'}
    for stream, path in zip(model.streams, [paths[0], paths[1], paths[1]], strict=True):
        weight = torch.load(path)['stages.1.norm.weight']
        assert torch.equal(stream.stages[1].norm.weight, weight)
    alone = _backbone(SETS[3], pretrained=first)
    alone.init_weights()
    assert set(alone.init_report.loaded) == {'rgb'}
    equal = MMSFormer(SETS[3], TINY, TINY, pretrained=extra)
    equal.init_weights()
    assert set(equal.init_report.loaded) == {'rgb', 'nir', 'swir'}


def test_autocast_channels_last_and_compile_give_the_numbers() -> None:
    model = _segmentor(RGBD).eval()
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
        loss = model(rand(2, 6, 64, 64), mode='tensor').float().square().mean()
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ('variant', 'count'), zip(MIT_VARIANTS, [2, 4, 1, 4, 2, 1], strict=True)
)
def test_official_checkpoints_of_every_size_convert(variant, count) -> None:
    # The official code with B0 cannot run: its further encoders are B1.
    extra = 'mit_b0' if variant == 'mit_b0' else 'mit_b1'
    sizes = [MIT_VARIANTS[variant], *[MIT_VARIANTS[extra]] * (count - 1)]
    with torch.device('meta'):
        state = plain_mmsformer(sizes, 19).state_dict()
    config = MMSFORMER.config(state)
    assert config['backbone']['variant'] == variant
    assert config['backbone'].get('extra_variant', extra) == extra
    assert len(config['backbone']['modalities']) == count
    assert config['decode_head']['num_classes'] == 19
    convert_official(MMSFORMER, state)
    # RGB alone is the same network in several methods of this code base.
    names = [o.name for o in recognise(state)]
    assert names == ['mmsformer'] if count > 1 else 'mmsformer' in names


def test_others_are_refused() -> None:
    sizes = [MIT_VARIANTS['mit_b1']] * 2
    with torch.device('meta'):
        state = plain_mmsformer(sizes, 5).state_dict()
    for official in OFFICIAL.values():
        if official is not MMSFORMER:
            with pytest.raises(ValueError, match='looks like official MMSFormer'):
                convert_official(official, state)
    del state['backbone.fusion_block.channel_attns.2.fc.0.weight']
    with pytest.raises(ValueError, match=r'1 keys are missing.*fusions.2.gate.fc.0'):
        convert_official(MMSFORMER, state)
    with pytest.raises(ValueError, match='no official MMSFormer.*MiT size None'):
        convert_official(MMSFORMER, {'a.weight': torch.zeros(1)})


def test_base_config_builds() -> None:
    root = Path(__file__).parents[2]
    cfg = Config.fromfile(root / 'configs/_base_/models/mmsformer_mit-b1.py').model
    cfg.data_preprocessor.modalities = cfg.backbone.modalities = RGBD
    cfg.decode_head.num_classes = 3
    model = MODELS.build(cfg).eval()
    inputs = [torch.zeros(5, 64, 64, dtype=torch.float32)]
    batch = model.data_preprocessor(dict(inputs=inputs), training=False)
    assert batch['inputs'].shape == (1, 6, 64, 64)
    assert model(batch['inputs'], mode='tensor').shape == (1, 3, 16, 16)
