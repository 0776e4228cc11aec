"""CMNeXt: whole model, any number of modalities, validity, parts, published form."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine import Config

from mmseg_xmodal.models.backbones import CMNeXt
from mmseg_xmodal.models.backbones.cmnext import CMNEXT_VARIANTS, scramble
from mmseg_xmodal.models.converters import OFFICIAL, convert_official, recognise
from mmseg_xmodal.models.converters.cmnext import CMNEXT, cmnext_key
from mmseg_xmodal.models.fusion import SelfQueryHub
from mmseg_xmodal.models.layers import MixTransformer, slices
from mmseg_xmodal.models.layers.ppx import PPXBlock, add_mean_pools
from mmseg_xmodal.registry import MODELS
from tests.parity.fixture import all_fixtures
from tests.reference_forms import PUBLISHED
from tests.reference_forms.cmnext import PublishedCMNeXt

from .helpers import RGBD, TINY, rand, randomise, without_gradient

DELIVER = dict(
    rgb=dict(channels=3, order='rgb'),
    depth=dict(channels=1),
    event=dict(channels=3),
    lidar=dict(channels=3),
)
RGB = dict(rgb=dict(channels=3, order='rgb'))
CHANNELS = {1: 3, 2: 4, 4: 10}
SETS = {1: RGB, 2: RGBD, 4: DELIVER}


def _segmentor(**backbone) -> torch.nn.Module:
    backbone = dict(modalities=RGBD, variant=TINY) | backbone
    return MODELS.build(
        dict(
            type='mmseg.EncoderDecoder',
            data_preprocessor=dict(
                type='mmseg_xmodal.ModalityPreprocessor',
                modalities=backbone['modalities'],
            ),
            backbone=dict(type='mmseg_xmodal.CMNeXt', **backbone),
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
    model = CMNeXt(SETS[count], TINY, drop_path_rate=0.0)
    model.init_weights()
    x = rand(2, CHANNELS[count], *size).requires_grad_()
    outs = model(x)
    assert [o.shape[1] for o in outs] == list(model.out_channels)
    sum((o * rand(*o.shape, seed=1)).sum() for o in outs).backward()
    assert (x.grad.abs().sum((0, 2, 3)) > 0).all()
    assert without_gradient(model) == []


@pytest.mark.parametrize('size', [(1, 1), (5, 31), (33, 57)])
def test_any_size(size: tuple[int, int]) -> None:
    model = CMNeXt(DELIVER, TINY).eval()
    shapes = [o.shape[2:] for o in model(rand(1, 10, *size))]
    sides = [[-(-side // 4 // 2**i) for side in size] for i in range(4)]
    assert [list(s) for s in shapes] == sides


@pytest.mark.parametrize('train', [True, False])
@pytest.mark.parametrize(
    ('count', 'layout'), [(1, 'official'), (2, 'fixed'), (4, 'official'), (4, 'fixed')]
)
def test_equals_the_published_form(count: int, layout: str, train: bool) -> None:
    """Double precision, all gradients; train = BN on batch statistics."""
    model = _segmentor(modalities=SETS[count], layout=layout, drop_path_rate=0.0)
    model = model.double()
    randomise(model)
    published = PUBLISHED['mmseg_xmodal.CMNeXt'](model).double()
    model.train(train), published.train(train)
    x = rand(2, CHANNELS[count], 72, 88, dtype=torch.float64)
    ours, expected = model(x, mode='tensor'), published(x)
    torch.testing.assert_close(ours, expected)
    ours.square().sum().backward()
    expected.square().sum().backward()
    own = dict(model.named_parameters())
    for name, parameter in published.named_parameters():
        got = own[cmnext_key(name)].grad
        scale = parameter.grad.abs().max().item()
        torch.testing.assert_close(
            got, parameter.grad, rtol=1e-6, atol=1e-9 + 1e-7 * scale, msg=name
        )


def test_inference_without_gradients_equals_the_published_form(monkeypatch) -> None:
    monkeypatch.setattr(slices, '_ELEMENTS', 1000)
    model = _segmentor(modalities=DELIVER).double().eval()
    randomise(model)
    published = PUBLISHED['mmseg_xmodal.CMNeXt'](model).double().eval()
    x = rand(2, 10, 72, 88, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model(x, mode='tensor'), published(x))
        valid = torch.cat([x, torch.ones(2, 4, 72, 88, dtype=x.dtype)], 1)
        torch.testing.assert_close(model(valid, mode='tensor'), published(valid))


def test_layout_matters_only_with_several_extra_modalities() -> None:
    for modalities, channels, equal in ((RGBD, 4, True), (DELIVER, 10, False)):
        official = CMNeXt(modalities, TINY).eval()
        fixed = CMNeXt(modalities, TINY, layout='fixed').eval()
        fixed.load_state_dict(official.state_dict())
        x = rand(1, channels, 64, 64)
        with torch.no_grad():
            pairs = list(zip(official(x), fixed(x), strict=True))
        assert torch.equal(*pairs[0])
        assert all(torch.equal(a, b) for a, b in pairs) == equal


def test_scramble_reads_the_memory_of_a_map_in_another_order() -> None:
    x = torch.arange(24.0).view(1, 2, 3, 4)
    expected = torch.arange(24.0).view(1, 3, 4, 2).permute(0, 3, 1, 2)
    for given in (x, x.contiguous(memory_format=torch.channels_last)):
        assert torch.equal(scramble(given), expected)


def test_one_channel_counts_as_replicated() -> None:
    model = CMNeXt(RGBD, TINY).eval()
    three = CMNeXt(dict(RGBD, depth=dict(channels=3)), TINY).eval()
    three.load_state_dict(model.state_dict())
    x = rand(1, 4, 64, 64)
    with torch.no_grad():
        pairs = zip(model(x), three(x[:, [0, 1, 2, 3, 3, 3]]), strict=True)
        for ours, replicated in pairs:
            torch.testing.assert_close(ours, replicated)
        # A layer that is more than its weights is called as it is.
        handle = model.extra[0].embed.proj.register_forward_hook(lambda m, a, out: out)
        torch.testing.assert_close(model(x)[3], replicated)
        handle.remove()


def test_all_valid_equals_no_validity() -> None:
    model = CMNeXt(DELIVER, TINY).eval()
    x = rand(2, 10, 72, 104)
    with torch.no_grad():
        plain = model(x)
        masked = model(torch.cat([x, torch.ones(2, 4, 72, 104)], 1))
    assert all(torch.equal(p, m) for p, m in zip(plain, masked, strict=True))


@pytest.mark.parametrize('missing', [[0], [1], [2, 3], [1, 2, 3]])
@pytest.mark.parametrize('holes', [False, True])
def test_a_missing_modality_has_no_say(missing: list[int], holes: bool) -> None:
    model = CMNeXt(DELIVER, TINY).eval()
    valid = torch.ones(1, 4, 64, 64)
    if holes:
        valid[:, :, 16:48] = 0  # of all modalities: nobody is valid there
    valid[:, missing] = 0
    first = rand(1, 10, 64, 64)
    second, other = first.clone(), 5 * rand(1, 10, 64, 64, seed=5)
    for index in missing:
        name = model.input.layout.names[index]
        place = model.input.layout.value_slice(name)
        second[:, place] = other[:, place]
    with torch.no_grad():
        a, b = (model(torch.cat([x, valid], 1)) for x in (first, second))
        plain = model(second)
    assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))
    assert not torch.equal(plain[0], b[0])


def test_hub_takes_the_maximum_of_valid_streams() -> None:
    hub = SelfQueryHub(4, 3)
    randomise(hub)
    feats = [rand(1, 4, 2, 2, seed=i) for i in range(3)]
    streams, fused = hub(feats)
    for x, net, out in zip(feats, hub.score_nets, streams, strict=True):
        torch.testing.assert_close(out, net(x).sigmoid() * x + x)
    assert torch.equal(fused, torch.stack(streams).amax(0))
    valid = torch.ones(3, 1, 1, 2, 2)
    valid[0, ..., 0, 0] = 0
    valid[:2, ..., 0, 1] = 0
    valid[2] = 0
    fused = hub(feats, list(valid))[1]
    assert torch.equal(fused[..., 0, 0], streams[1][..., 0, 0])
    two = torch.maximum(streams[0], streams[1])
    # No one is valid at (0, 1): those that are valid elsewhere stand in.
    assert torch.equal(fused[..., 0, 1], two[..., 0, 1])
    assert torch.equal(fused[..., 1, :], two[..., 1, :])
    assert torch.equal(hub(feats, list(0 * valid))[1], torch.stack(streams).amax(0))
    with pytest.raises(ValueError, match='built for 3 streams, got 2.*num_streams=2'):
        hub(feats[:2])


@pytest.mark.parametrize('size', [(1, 1), (2, 13), (6, 5), (24, 17)])
def test_mean_pools(size: tuple[int, int]) -> None:
    x = rand(2, 3, *size, dtype=torch.float64).requires_grad_()
    expected = x + sum(
        F.avg_pool2d(x, k, 1, k // 2, count_include_pad=False) for k in (3, 7, 11)
    )
    for given in (x, x.contiguous(memory_format=torch.channels_last)):
        torch.testing.assert_close(add_mean_pools(given), expected)
    half = add_mean_pools(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.double(), expected, rtol=2e-2, atol=3e-2)
    if x.numel() < 100:
        assert torch.autograd.gradcheck(add_mean_pools, x)
        assert torch.autograd.gradgradcheck(add_mean_pools, x)
    traced = torch.jit.trace(add_mean_pools, torch.zeros(1, 2, 3, 3))
    torch.testing.assert_close(traced(x), expected)


def test_mlp_with_hooks_or_own_layers_keeps_its_numbers() -> None:
    class Adapted(torch.nn.Conv2d):
        def forward(self, x):
            return 2 * super().forward(x)

    block = PPXBlock(8, 4).eval()
    randomise(block)
    x = rand(1, 8, 9, 7)
    expected = block(x)
    adapted = deepcopy(block)
    adapted.mlp.fc1 = Adapted(8, 32, 1)
    adapted.mlp.fc1.load_state_dict(
        {k: v / 2 for k, v in block.mlp.fc1.state_dict().items()}
    )
    torch.testing.assert_close(adapted(x), expected)
    seen = []
    block.norm2.register_forward_hook(lambda *args: seen.append(args))
    torch.testing.assert_close(block(x), expected)
    assert len(seen) == 1


def test_drop_path_drops_whole_samples() -> None:
    block = PPXBlock(8, 4, drop_path=0.5).train()
    randomise(block)
    x = rand(1, 8, 4, 4).expand(64, -1, -1, -1)
    values = {round(v, 4) for v in block(x).double().sum((1, 2, 3)).tolist()}
    # Each of the two branches is either dropped or doubled.
    assert len(values) == 4


def test_precision_memory_format_and_copy() -> None:
    model = CMNeXt(DELIVER, dict(TINY, depths=(1, 1, 1, 1))).eval()
    x = rand(2, 10, 40, 56)
    with torch.no_grad():
        expected = model(x)
        others = {
            'channels_last': model(x.contiguous(memory_format=torch.channels_last)),
            'deepcopy': deepcopy(model)(x),
        }
        for name, outs in others.items():
            for ours, out in zip(expected, outs, strict=True):
                torch.testing.assert_close(out, ours, rtol=1e-4, atol=1e-4, msg=name)
        with torch.autocast('cpu', torch.bfloat16):
            half = model(x)
    for ours, out in zip(expected, half, strict=True):
        assert (out - ours).abs().mean() < 0.05 * ours.abs().mean()


@pytest.mark.parametrize('train', [False, True])
def test_compiled_branch_has_the_same_numbers(train: bool) -> None:
    """MiT and the fusion are those of CMX; the rest is captured here."""
    branch = CMNeXt(DELIVER, dict(TINY, depths=(1, 1, 1, 1))).extra[0].train(train)
    extras = [rand(2, c, 40, 56, seed=c).requires_grad_() for c in (1, 3, 3)]
    expected = branch(extras, None)[1]
    compiled = torch.compile(branch, backend='eager', fullgraph=True)(extras, None)[1]
    torch.testing.assert_close(compiled, expected, rtol=1e-4, atol=1e-4)
    (compiled * rand(*expected.shape)).sum().backward()
    assert all((x.grad != 0).any() for x in extras)


def test_bfloat16_autocast_trains() -> None:
    model = _segmentor(modalities=DELIVER, drop_path_rate=0.0)
    model.init_weights()
    with torch.autocast('cpu', torch.bfloat16):
        loss = model(rand(2, 10, 64, 64), mode='tensor').float().square().mean()
    loss.backward()
    assert torch.isfinite(loss)
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_wrong_settings_are_named() -> None:
    modalities = dict(RGB, nir=dict(channels=2))
    with pytest.raises(ValueError, match=r"extra_channels=3.*'nir'.*2 channels.* or 1"):
        CMNeXt(modalities, TINY)
    model = CMNeXt(modalities, TINY, extra_channels=2)
    assert len(model.eval()(rand(1, 5, 32, 32))) == 4
    with pytest.raises(ValueError, match=r"layout='scrambled'.*'official', 'fixed'"):
        CMNeXt(RGBD, TINY, layout='scrambled')
    with pytest.raises(ValueError, match=r"variant='cmnext_b9'.*cmnext_b2"):
        CMNeXt(RGBD, 'cmnext_b9')
    with pytest.raises(ValueError, match='init_cfg=.*pretrained=.*at most one'):
        CMNeXt(RGBD, TINY, pretrained='a.pth', init_cfg=dict(type='Pretrained'))
    with pytest.raises(ValueError, match=r'got 3 channels.*4 \(or 6'):
        CMNeXt(RGBD, TINY)(rand(1, 3, 64, 64))


def test_pretrained_weights_go_into_the_rgb_branch(tmp_path) -> None:
    mit = MixTransformer(TINY)
    randomise(mit)
    torch.save(mit.state_dict(), tmp_path / 'mit.pth')
    model = CMNeXt(DELIVER, TINY, pretrained=str(tmp_path / 'mit.pth'))
    model.init_weights()
    own = model.rgb.state_dict()
    assert all(torch.equal(own[k], v) for k, v in mit.state_dict().items())
    assert model.init_report.loaded == {'rgb': len(own)}
    assert (model.extra[0].blocks[0].layer_scale_1 == 0.01).all()
    # The official rule counts the outputs of all groups of a depth-wise convolution.
    wide = model.extra[3].blocks[0].mlp.dwconv.weight
    assert abs(wide.std() * (9 * 128 / 2) ** 0.5 - 1) < 0.2


@pytest.mark.parametrize('variant', CMNEXT_VARIANTS)
@pytest.mark.parametrize('extras', [0, 1, 3])
def test_official_weights_of_every_size_convert(variant: str, extras: int) -> None:
    with torch.device('meta'):
        places = [[slice(0)]] * (extras + 1)
        official = PublishedCMNeXt(variant, places, num_classes=19)
        state = official.state_dict()
        converted = convert_official(CMNEXT, state)
        config = CMNEXT.config(state)
        MODELS.build(config).load_state_dict(converted, strict=True)
    assert config['backbone']['variant'] == variant
    assert len(config['backbone']['modalities']) == extras + 1
    assert config['decode_head']['num_classes'] == 19
    # RGB alone is the same network in several methods of this code base.
    names = [o.name for o in recognise(state)]
    assert names == ['cmnext'] if extras else 'cmnext' in names


@pytest.mark.parametrize(
    ('extras', 'millions'), [(0, 25.79), (1, 58.69), (2, 58.72), (3, 58.73)]
)
def test_b2_has_the_published_number_of_parameters(extras, millions) -> None:
    """With 25 classes, as the official README states it."""
    with torch.device('meta'):
        state = PublishedCMNeXt('cmnext_b2', [[slice(0)]] * (extras + 1)).state_dict()
        model = MODELS.build(CMNEXT.config(state))
    count = sum(p.numel() for p in model.parameters())
    assert round(count / 1e6, 2) == millions


def test_eighty_extra_modalities_keep_their_order() -> None:
    with torch.device('meta'):
        places = [[slice(0)]] * 81
        state = PublishedCMNeXt('cmnext_b2', places).state_dict()
        model = MODELS.build(CMNEXT.config(state)['backbone'])
    assert model.input.names[1:] == tuple(f'x{i}' for i in range(1, 81))
    assert len(model.extra[3].embed.norms) == 80


@pytest.mark.parametrize(
    'name', ['cmx_mit_b0', 'mmsformer_b2_m3', 'stitchfusion_b2_m3', 'dformer_tiny']
)
def test_checkpoints_of_other_methods_are_refused(name: str) -> None:
    fixture = next(f for f in all_fixtures() if f.name == name)
    shapes = fixture.meta['state_dict']
    state = {k: torch.empty(v, device='meta') for k, v in shapes.items()}
    with pytest.raises(ValueError, match='no official CMNeXt|not official CMNeXt'):
        convert_official(CMNEXT, state)
    assert CMNEXT not in recognise(state)


def test_other_converters_refuse_cmnext() -> None:
    with torch.device('meta'):
        state = PublishedCMNeXt('cmnext_b2', [[slice(0)]] * 2).state_dict()
    for official in OFFICIAL.values():
        if official is not CMNEXT:
            with pytest.raises(ValueError, match=r'looks like official CMNeXt'):
                convert_official(official, state)


def test_base_config_builds() -> None:
    root = Path(__file__).parents[2]
    cfg = Config.fromfile(root / 'configs/_base_/models/cmnext_mit-b2.py').model
    cfg.data_preprocessor.modalities = cfg.backbone.modalities = RGBD
    with torch.device('meta'):
        model = MODELS.build(cfg)
    assert list(model.backbone.out_channels) == cfg.decode_head.in_channels
