"""TokenFusion: plain form, scores, exchange, loss, validity, initialisation."""

import copy
from pathlib import Path

import pytest
import torch
from mmengine import Config
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

from mmseg_xmodal.models.backbones import TokenFusion
from mmseg_xmodal.models.backbones.tokenfusion import ScoreNet, exchange
from mmseg_xmodal.models.layers.mit import MIT_VARIANTS, MixTransformer
from mmseg_xmodal.registry import MODELS
from tests.reference_forms import PUBLISHED

from .helpers import FOUR, RGBD, rand, randomise, without_gradient

TINY = dict(embed_dims=(8, 16, 24, 32), depths=(1, 2, 1, 1), num_heads=(1, 2, 3, 4))


def _segmentor(head: dict | None = None, **backbone) -> nn.Module:
    backbone = dict(modalities=RGBD, variant=TINY, drop_path_rate=0.0) | backbone
    model = MODELS.build(
        dict(
            type='EncoderDecoder',
            data_preprocessor=dict(
                type='mmseg_xmodal.ModalityPreprocessor', modalities=RGBD
            ),
            backbone=dict(type='mmseg_xmodal.TokenFusion', **backbone),
            decode_head=dict(
                type='mmseg_xmodal.TokenFusionHead',
                in_channels=[2 * dim for dim in TINY['embed_dims']],
                channels=16,
                num_classes=3,
                dropout_ratio=0.0,
            )
            | (head or {}),
            test_cfg=dict(mode='whole'),
        )
    )
    randomise(model)
    return model


def _samples(count: int, *size: int) -> list[SegDataSample]:
    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(count):
        labels = torch.randint(3, (1, *size), generator=generator)
        samples.append(SegDataSample(gt_sem_seg=PixelData(data=labels)))
    return samples


def _losses(model: nn.Module, x: torch.Tensor) -> dict:
    return model(x, _samples(len(x), *x.shape[2:]), mode='loss')


@pytest.mark.parametrize('threshold', [0.0, 0.5, 0.99])
@pytest.mark.parametrize('train', [True, False])
def test_equals_the_plain_form(train: bool, threshold: float) -> None:
    """In double precision: logits, score norm, gradients; half or all are exchanged."""
    model = _segmentor(threshold=threshold).double().train(train)
    plain = PUBLISHED['mmseg_xmodal.TokenFusion'](model).double().train(train)
    x = rand(2, 4, 72, 104, dtype=torch.float64)
    ours, expected = model(x, mode='tensor'), plain(x)
    torch.testing.assert_close(ours, expected)
    norm = model.backbone(x)[4].flatten()
    torch.testing.assert_close(norm, plain.outputs(x)[2])
    ours.square().sum().backward()
    expected.square().sum().backward()
    pairs = [
        (model.backbone.scores[1][0].fc1, plain.stages[1][0].score.fc1),
        (model.backbone.scores[3][0].norm[1], plain.stages[3][0].score.norm.ln_1),
        (model.backbone.encoder.stages[2].blocks[0].attn.kv, _kv(plain)),
    ]
    for own, theirs in pairs:
        assert theirs.weight.grad.abs().sum() > 0
        torch.testing.assert_close(own.weight.grad, theirs.weight.grad)


def _kv(plain: nn.Module) -> nn.Linear:
    return plain.stages[2][0].attn.kv.module


def test_the_threshold_decides_what_is_exchanged() -> None:
    x, takes = rand(4, 5, 3), rand(4, 5, 1) > 0
    out = exchange(x, takes)
    partner = x.roll(2, 0)
    for sample in range(4):
        for token in range(5):
            source = partner if takes[sample, token] else x
            assert torch.equal(out[sample, token], source[sample, token])
    shares = {}
    for threshold in (0.0, 0.99):
        model = TokenFusion(RGBD, TINY, threshold=threshold).eval()
        model.init_weights()
        first = model(rand(1, 4, 64, 64))
        # The other modality is another image: below the threshold of 0 nothing passes.
        other = rand(1, 4, 64, 64)
        other[:, 3:] = rand(1, 1, 64, 64, seed=3)
        second = model(other)
        shares[threshold] = torch.equal(first[0][:, :8], second[0][:, :8])
    assert shares == {0.0: True, 0.99: False}


def test_scores_lie_between_0_and_1_and_start_near_1() -> None:
    net = ScoreNet(16, 1e-6)
    net.init_weights()
    scores = net(rand(2, 50, 16))
    assert scores.shape == (2, 50, 1)
    assert (scores > 0.8).all()
    assert (scores < 1).all()


def test_the_scores_are_in_the_loss() -> None:
    model = _segmentor(head=dict(score_weight=0.01))
    x = rand(2, 4, 64, 64)
    losses = _losses(model, x)
    norm = model.backbone(x)[4]
    assert norm.shape == (2, 1, 1, 1)
    torch.testing.assert_close(losses['decode.loss_scores'], 0.01 * norm.mean())
    parts = ('first.loss_ce', 'second.loss_ce', 'ensemble.loss_ce', 'loss_scores')
    names = {f'decode.{part}' for part in parts}
    assert {name for name in losses if 'loss' in name} == names
    losses['decode.loss_scores'].backward()
    for stage in model.backbone.scores:
        for net in stage:
            assert net.fc2.bias.grad > 0
    without = _losses(_segmentor(head=dict(score_weight=0.0)), x)
    assert 'decode.loss_scores' not in without


def test_gradients_reach_every_parameter_without_the_score_loss() -> None:
    """No parameter is unused, so DDP needs no search for unused ones."""
    for weight in (1e-6, 0.0):
        model = _segmentor(head=dict(score_weight=weight), score_norm=weight > 0)
        losses = _losses(model, rand(2, 4, 64, 64))
        model.parse_losses(losses)[0].backward()
        unreached = without_gradient(model)
        # Attention forgets the bias of keys; rounding may leave nothing of it.
        assert [n for n in unreached if not n.endswith('kv.bias')] == []
        assert model.decode_head.alpha.grad.abs().sum() > 0


def test_a_lacking_score_norm_names_the_remedy() -> None:
    model = _segmentor(score_norm=False)
    assert len(model.backbone(rand(1, 4, 64, 64))) == 4
    with pytest.raises(ValueError, match=r'score_weight=1e-06.*score_norm=True'):
        _losses(model, rand(2, 4, 64, 64))


@pytest.mark.parametrize('size', [(64, 96), (45, 61), (1, 1)])
def test_any_size(size: tuple[int, int]) -> None:
    model = TokenFusion(RGBD, TINY, drop_path_rate=0.0)
    x = rand(2, 4, *size).requires_grad_()
    outs = model(x)
    assert [o.shape[1] for o in outs[:4]] == list(model.out_channels)
    expected = [-(-size[0] // 2**i) for i in (2, 3, 4, 5)]
    assert [o.shape[2] for o in outs[:4]] == expected
    sum((out * rand(*out.shape)).sum() for out in outs).backward()
    assert (x.grad.abs().sum((0, 2, 3)) > 0).all()


def test_all_valid_equals_no_validity() -> None:
    model = TokenFusion(RGBD, TINY, threshold=0.9).eval()
    x = rand(2, 4, 72, 104)
    with torch.no_grad():
        plain = model(x)
        masked = model(torch.cat([x, torch.ones(2, 2, 72, 104)], 1))
    assert all(torch.equal(p, m) for p, m in zip(plain, masked, strict=True))


@pytest.mark.parametrize('missing', [0, 1])
def test_a_missing_modality_has_no_say(missing: int) -> None:
    model = TokenFusion(RGBD, TINY, threshold=0.9).eval()
    valid = torch.ones(1, 2, 64, 64)
    valid[:, missing] = 0
    first, second = rand(1, 4, 64, 64), rand(1, 4, 64, 64)
    place = slice(0, 3) if missing == 0 else slice(3, 4)
    second[:, place] = 5 * rand(1, 4, 64, 64, seed=5)[:, place]
    with torch.no_grad():
        a, b = (model(torch.cat([x, valid], 1)) for x in (first, second))
    assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


def test_autocast_channels_last_and_compiled_numbers() -> None:
    model = _segmentor().eval()
    x = rand(2, 4, 64, 64)
    expected = model(x, mode='tensor')
    for got in (
        model(x.to(memory_format=torch.channels_last), mode='tensor'),
        torch.compile(copy.deepcopy(model), backend='eager')(x, mode='tensor'),
    ):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    model.train()
    with torch.autocast('cpu', torch.bfloat16):
        losses = _losses(model, x)
        norm = model.backbone(x)[4]
    assert norm.dtype == torch.float32  # a sum over all tokens
    model.parse_losses(losses)[0].backward()
    unreached = without_gradient(model)
    assert [n for n in unreached if not n.endswith('kv.bias')] == []


def test_imagenet_weights_go_into_both_norms(tmp_path: Path) -> None:
    mit = MixTransformer(TINY)
    randomise(mit)
    torch.save(mit.state_dict(), tmp_path / 'mit.pth')
    model = TokenFusion(RGBD, TINY, pretrained=str(tmp_path / 'mit.pth'))
    model.init_weights()
    block, ours = mit.stages[1].blocks[0], model.encoder.stages[1].blocks[0]
    assert torch.equal(ours.attn.q.weight, block.attn.q.weight)
    for norm in ours.norm1:
        assert torch.equal(norm.weight, block.norm1.weight)
    assert model.init_report.loaded == {'rgb+depth': len(model.encoder.state_dict())}


@pytest.mark.parametrize('name', MIT_VARIANTS)
def test_every_variant_builds(name: str) -> None:
    with torch.device('meta'):
        model = TokenFusion(RGBD, name)
    size = MIT_VARIANTS[name]
    assert model.out_channels == tuple(2 * dim for dim in size.embed_dims)
    assert [len(stage) for stage in model.scores] == list(size.depths)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(modalities=FOUR), r'exactly 2 streams, got 4.*streams=dict'),
        (
            dict(modalities=FOUR, streams=dict(rgb=['rgb'], x=['swir'])),
            r"2 channels in stream 'x'.*expected 3 or 1",
        ),
        (dict(modalities=RGBD, threshold=1.5), r'threshold=1.5.*\[0, 1\)'),
        (dict(modalities=RGBD, variant='mit_b9'), "variant='mit_b9'"),
        (dict(modalities=RGBD, pretrained='a', init_cfg=dict()), 'at most one'),
    ],
)
def test_errors(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenFusion(**arguments)


def test_base_config_builds() -> None:
    root = Path(__file__).parents[2]
    cfg = Config.fromfile(root / 'configs/_base_/models/tokenfusion_mit-b0.py').model
    cfg.data_preprocessor.modalities = cfg.backbone.modalities = RGBD
    with torch.device('meta'):
        model = MODELS.build(cfg)
    assert cfg.decode_head.in_channels == list(model.backbone.out_channels)
