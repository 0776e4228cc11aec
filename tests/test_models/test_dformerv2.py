"""DFormerv2: whole model, sizes, validity, attention in parts, published form."""

import copy
import math

import pytest
import torch

from mmseg_xmodal.models.backbones import DFormerv2
from mmseg_xmodal.models.converters import convert_official, recognise
from mmseg_xmodal.models.converters.dformerv2 import DFORMERV2, find_variant
from mmseg_xmodal.models.layers import decayed_attention as attention
from mmseg_xmodal.models.layers import geometry_attention as geometry
from mmseg_xmodal.models.layers import slices
from mmseg_xmodal.models.layers.dformerv2_sizes import DFORMERV2_VARIANTS
from mmseg_xmodal.registry import MODELS
from tests.reference_forms import PUBLISHED

from .helpers import FOUR, RGBD, rand, randomise, without_gradient

# Like B and L (layer scale in the last two stages), and like S.
TINY = dict(
    embed_dims=(8, 16, 24, 32),
    depths=(1, 2, 1, 1),
    num_heads=(2, 2, 3, 4),
    ranges=(5, 5, 6, 6),
)
PLAIN = dict(TINY, ranges=(4, 4, 6, 6), layer_scale=(False,) * 4)


def _segmentor(**backbone) -> torch.nn.Module:
    backbone = dict(modalities=RGBD, variant=TINY, drop_path_rate=0.0) | backbone
    head = dict(in_channels=TINY['embed_dims'][1:], channels=12, ham_channels=16)
    return MODELS.build(
        dict(
            type='EncoderDecoder',
            data_preprocessor=dict(
                type='mmseg_xmodal.ModalityPreprocessor',
                modalities=backbone['modalities'],
            ),
            backbone=dict(type='mmseg_xmodal.DFormerv2', **backbone),
            decode_head=dict(
                type='mmseg_xmodal.HamHead',
                ham_kwargs=dict(MD_R=4),
                num_classes=3,
                dropout_ratio=0.0,
                **head,
            ),
            test_cfg=dict(mode='whole'),
        )
    )


def _backbone(variant=TINY, **kwargs) -> DFormerv2:
    model = DFormerv2(RGBD, variant, drop_path_rate=0.0, **kwargs)
    randomise(model)
    return model


# ---------------------------------------------------------------- published form


@pytest.mark.parametrize('variant', [TINY, PLAIN], ids=['scaled', 'plain'])
@pytest.mark.parametrize('train', [True, False])
def test_equals_the_published_form(train: bool, variant: dict) -> None:
    """Double precision; train = BN on batch statistics, drop path off."""
    model = _segmentor(variant=variant).double()
    randomise(model)
    published = PUBLISHED['mmseg_xmodal.DFormerv2'](model).double()
    model.train(train), published.train(train)
    x = rand(2, 4, 72, 88, dtype=torch.float64).requires_grad_()
    y = x.detach().clone().requires_grad_()
    ours, expected = model(x, mode='tensor'), published(y)
    torch.testing.assert_close(ours, expected)
    ours.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
    grads = {n: p.grad for n, p in published.named_parameters()}
    own = {n: p.grad for n, p in model.named_parameters()}
    for theirs, name in _names(published).items():
        wanted = grads[theirs].view_as(own[name])
        torch.testing.assert_close(own[name], wanted, msg=lambda t, n=name: f'{n}: {t}')


def _names(published: torch.nn.Module) -> dict[str, str]:
    from mmseg_xmodal.models.converters.dformerv2 import dformerv2_key

    return {n: dformerv2_key(n) for n, _ in published.named_parameters()}


def test_published_form_reads_what_the_streams_say() -> None:
    streams = dict(prior=['dem'], image=['rgb', 'nir', 'swir'])
    model = _segmentor(modalities=FOUR, streams=streams, variant=TINY).double().eval()
    randomise(model)
    published = PUBLISHED['mmseg_xmodal.DFormerv2'](model).double().eval()
    # Streams stand in the order of the layout: dem comes before nir, but after rgb.
    assert model.backbone.input.names == ('image', 'prior')
    x = rand(1, 7, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model(x, mode='tensor'), published(x))


# ---------------------------------------------------------------- sizes, weights


@pytest.mark.parametrize('name', DFORMERV2_VARIANTS)
def test_official_checkpoints_convert(name: str) -> None:
    """Every size, from official names and shapes, constants included."""
    millions = {'dformerv2_s': 26.7, 'dformerv2_b': 53.9, 'dformerv2_l': 95.6}[name]
    dims = DFORMERV2_VARIANTS[name].embed_dims
    channels = 1024 if name == 'dformerv2_l' else 512
    head = dict(type='mmseg_xmodal.HamHead', in_channels=list(dims[1:]))
    with torch.device('meta'):
        model = torch.nn.Module()
        model.backbone = DFormerv2(RGBD, name)
        model.decode_head = MODELS.build(
            dict(**head, channels=channels, num_classes=40)
        )
        count = sum(p.numel() for p in model.parameters())
        assert math.isclose(count / 1e6, millions, abs_tol=0.1)
        model.decode_head.nmf.bases = torch.empty(1, 512, 64)
        model.train(False)
        published = PUBLISHED['mmseg_xmodal.DFormerv2'](model)
        official = dict(published.state_dict())
        official['backbone.layers.0.blocks.0.Geo.angle'] = torch.empty(16)
        official['backbone.layers.3.blocks.0.Geo.decay'] = torch.empty(16)
    config = DFORMERV2.config(official)
    assert config['backbone']['variant'] == name
    assert config['decode_head']['channels'] == channels
    assert convert_official(DFORMERV2, official).keys() == model.state_dict().keys()
    assert [o.name for o in recognise(official)] == ['dformerv2']


def test_other_checkpoints_are_refused() -> None:
    with pytest.raises(ValueError, match=r'no official DFormerv2.*size None.*expected'):
        DFORMERV2.config({'backbone.patch_embed1.proj.weight': torch.empty(1)})
    assert find_variant({}) is None


def test_imagenet_weights(tmp_path, monkeypatch) -> None:
    """The file has a classifier, but no norms of the outputs, and no prefix."""
    from mmseg_xmodal.models.layers import dformerv2_sizes

    size = dformerv2_sizes.dformerv2_variant(PLAIN)
    monkeypatch.setitem(DFORMERV2_VARIANTS, 'tiny', size)
    model = _segmentor(variant=PLAIN)
    randomise(model)
    published = PUBLISHED['mmseg_xmodal.DFormerv2'](model)
    state = {
        name: value
        for name, value in published.backbone.state_dict().items()
        if not name.startswith('extra_norms')
    }
    state['head.weight'] = torch.zeros(2, 2)
    torch.save(dict(model=state), tmp_path / 'pretrained.pth')
    new = DFormerv2(RGBD, 'tiny', pretrained=str(tmp_path / 'pretrained.pth'))
    new.init_weights()
    assert new.init_report.skipped == ('head.weight',)
    norms = {f'norms.{i}.{leaf}' for i in range(3) for leaf in ('weight', 'bias')}
    assert set(new.init_report.new) == norms
    assert new.init_report.loaded['rgb'] == len(new.encoder.state_dict()) - len(norms)
    assert "New, not in the checkpoint: ['norms.0.weight'" in str(new.init_report)
    old, own = model.backbone.encoder.state_dict(), new.encoder.state_dict()
    for name, value in own.items():
        if name.startswith('norms.'):
            assert (value == float(name.endswith('weight'))).all()
        else:
            assert torch.equal(value, old[name])
    wider = DFormerv2(RGBD, dict(PLAIN, embed_dims=(8, 16, 24, 40)))
    wider.pretrained = new.pretrained
    with pytest.raises(ValueError, match=r"other shapes.*fits variant='tiny'"):
        wider.init_weights()
    deeper = DFormerv2(RGBD, dict(PLAIN, depths=(1, 2, 2, 1)))
    deeper.pretrained = new.pretrained
    with pytest.raises(ValueError, match=r"lacks.*fits variant='tiny'"):
        deeper.init_weights()


def test_trained_norms_are_loaded(tmp_path, monkeypatch) -> None:
    from mmseg_xmodal.models.layers import dformerv2_sizes

    size = dformerv2_sizes.dformerv2_variant(PLAIN)
    monkeypatch.setitem(DFORMERV2_VARIANTS, 'tiny', size)
    model = _segmentor(variant=PLAIN)
    randomise(model)
    published = PUBLISHED['mmseg_xmodal.DFormerv2'](model)
    torch.save(published.state_dict(), tmp_path / 'trained.pth')
    new = DFormerv2(RGBD, 'tiny', pretrained=str(tmp_path / 'trained.pth'))
    new.init_weights()
    own = new.encoder.state_dict()
    assert new.init_report.new == ()
    assert 'New' not in str(new.init_report)
    assert new.init_report.loaded['rgb'] == len(own)
    for name, value in model.backbone.encoder.state_dict().items():
        assert torch.equal(value, own[name])


# ---------------------------------------------------------------- inputs


@pytest.mark.parametrize('size', [(64, 96), (45, 61)])
def test_gradients_reach_every_modality(size: tuple[int, int]) -> None:
    model = _backbone()
    x = rand(2, 4, *size).requires_grad_()
    outs = model(x)
    assert [o.shape[1] for o in outs] == list(model.out_channels)
    sum(out.square().mean() for out in outs).backward()
    assert (x.grad.abs().sum((0, 2, 3)) > 0).all()
    # Softmax is blind to what all keys share.
    assert [n for n in without_gradient(model) if not n.endswith('k.bias')] == []


@pytest.mark.parametrize('size', [(1, 1), (3, 5), (33, 2), (70, 41)])
def test_any_size(size: tuple[int, int]) -> None:
    model = _backbone().eval()
    with torch.no_grad():
        outs = model(rand(1, 4, *size))
    for i, out in enumerate(outs):
        step = 4 * 2**i
        assert out.shape[2:] == (-(-size[0] // step), -(-size[1] // step))
        assert torch.isfinite(out).all()


def test_a_prior_of_several_channels_counts_their_mean() -> None:
    one = _backbone().eval()
    many = dict(RGBD, depth=dict(channels=3))
    three = DFormerv2(many, TINY).eval()
    three.load_state_dict(one.state_dict())
    x = rand(1, 4, 64, 64)
    with torch.no_grad():
        a, b = one(x), three(torch.cat([x, x[:, 3:], x[:, 3:]], 1))
    for p, q in zip(a, b, strict=True):
        torch.testing.assert_close(p, q)


# ---------------------------------------------------------------- validity


def test_all_valid_equals_no_validity() -> None:
    model = _backbone().eval()
    x = rand(2, 4, 72, 104)
    with torch.no_grad():
        plain = model(x)
        masked = model(torch.cat([x, torch.ones(2, 2, 72, 104)], 1))
    assert all(torch.equal(p, m) for p, m in zip(plain, masked, strict=True))


def test_invalid_depth_has_no_say() -> None:
    model = _backbone().eval()
    valid = torch.ones(1, 2, 64, 64)
    valid[:, 1, 10:40, :37] = 0
    first, second = rand(1, 4, 64, 64), rand(1, 4, 64, 64)
    second[:, 3] += 50 * (1 - valid[:, 1]) * rand(1, 64, 64, seed=5)
    with torch.no_grad():
        a, b, whole = (
            model(torch.cat([x, v], 1))
            for x, v in ((first, valid), (second, valid), (first, valid * 0 + 1))
        )
    assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))
    assert not torch.allclose(a[0], whole[0])


def test_without_any_depth_only_places_count() -> None:
    model = _backbone().eval()
    x = rand(1, 4, 64, 64)
    missing = torch.cat([torch.ones(1, 1, 64, 64), torch.zeros(1, 1, 64, 64)], 1)
    flat = x.clone()
    flat[:, 3] = 1.0
    with torch.no_grad():
        a, b = model(torch.cat([x, missing], 1)), model(flat)
    for p, q in zip(a, b, strict=True):
        torch.testing.assert_close(p, q)


def test_holes_in_the_prior() -> None:
    """A value comes from valid pixels only; a hole is far from nobody."""
    depth = torch.arange(16.0).view(1, 1, 2, 8).repeat_interleave(2, 2)
    valid = torch.ones_like(depth)
    valid[..., 0] = 0  # half of the first new column
    valid[..., 2:4] = 0  # all of the second
    wrong = torch.where(valid > 0, depth, 99.0)
    resized, known = geometry.resize_depth(wrong, valid, (2, 4))
    assert known[0, 0].tolist() == [[True, False, True, True]] * 2
    assert resized[0, 0, :, 0].tolist() == [1.0, 9.0]
    ((_, rows), (_, columns)) = geometry._distances(resized, known, full=False)
    assert (rows[:, 1] == 0).all()
    assert (rows[:, :, 1] == 0).all()
    assert rows[0, 0, 2] == 3.5
    assert (columns[1] == 0).all()
    assert columns[0, 0, 1] == 8
    ((_, everywhere),) = geometry._distances(resized, known, full=True)
    assert everywhere[0, 0, 4] == 8
    assert (everywhere[0, 1] == 0).all()


# ---------------------------------------------------------------- attention


def _attention_inputs(lines: int = 3, length: int = 7, heads: int = 2):
    shape = (lines, length, heads, 4)
    q, k, v = (rand(*shape, seed=i, dtype=torch.float64) for i in range(3))
    other = rand(lines, length, length, seed=3, dtype=torch.float64).abs()
    place = geometry._places(length, other)
    slopes = torch.tensor([0.7, 1.3], dtype=torch.float64)
    decay = (-0.3, -0.1)
    for t in (q, k, v, other, slopes):
        t.requires_grad_()
    return q, k, v, place, other, slopes, decay


@pytest.mark.parametrize('keep', [0, 4])
@pytest.mark.parametrize('elements', [1, 20, 100, 1 << 19])
def test_attention_in_parts(elements: int, keep: int, monkeypatch) -> None:
    """Single queries, some of a line, some lines, everything; weights kept or not."""
    monkeypatch.setattr(attention, '_KEEP', keep)
    monkeypatch.setattr(attention, '_ELEMENTS', elements)
    inputs = _attention_inputs()
    q, k, v, place, other, slopes, decay = inputs
    scores = torch.einsum('blnd,bmnd->bnlm', q, k) / 2
    distance = slopes[0] * place + slopes[1] * other
    rates = torch.tensor(decay, dtype=torch.float64)[:, None, None]
    weights = (scores + rates * distance[:, None]).softmax(-1)
    expected = torch.einsum('bnlm,bmnd->blnd', weights, v)
    leaves = [q, k, v, other, slopes]
    out = rand(*expected.shape, seed=9, dtype=torch.float64)
    wanted = torch.autograd.grad(expected, leaves, out)
    got = attention.decayed_attention(*inputs)
    torch.testing.assert_close(got, expected)
    found = torch.autograd.grad(got, leaves, out)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_inference_in_slices(monkeypatch) -> None:
    model = _backbone().double().eval()
    x = rand(1, 4, 64, 96, dtype=torch.float64)
    whole = model(x)
    monkeypatch.setattr(slices, '_ELEMENTS', 500)
    monkeypatch.setattr(slices, '_STEP', 4)
    with torch.no_grad():
        sliced = model(x)
    for a, b in zip(sliced, whole, strict=True):
        torch.testing.assert_close(a, b)


def test_captured_graphs_have_the_same_numbers() -> None:
    """Compiled: plain attention and real rotations."""
    model = _backbone().double().eval()
    compiled = torch.compile(copy.deepcopy(model), backend='eager')
    x = rand(1, 4, 40, 56, dtype=torch.float64)
    with torch.no_grad():
        for a, b in zip(compiled(x), model(x), strict=True):
            torch.testing.assert_close(a, b)


def test_channels_last_and_autocast() -> None:
    model = _backbone().eval()
    x = rand(1, 4, 64, 96)
    with torch.no_grad():
        plain = model(x)
        last = model(x.contiguous(memory_format=torch.channels_last))
        with torch.autocast('cpu', torch.bfloat16):
            low = model(x)
    for p, q, r in zip(plain, last, low, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-4)
        assert (r.float() - p).abs().mean() < 0.05 * p.abs().mean()


def test_bfloat16_autocast_trains() -> None:
    model = _segmentor()
    randomise(model)
    with torch.autocast('cpu', torch.bfloat16):
        loss = model(rand(2, 4, 64, 64), mode='tensor').float().square().mean()
    loss.backward()
    assert torch.isfinite(loss)
    assert [n for n in without_gradient(model) if not n.endswith('k.bias')] == []


# ---------------------------------------------------------------- errors


def test_wrong_settings_name_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"variant='b2' is not.*'dformerv2_s'"):
        DFormerv2(RGBD, 'b2')
    with pytest.raises(ValueError, match=r'depths=\(1, 1\), expected four entries'):
        DFormerv2(RGBD, dict(TINY, depths=(1, 1)))
    with pytest.raises(ValueError, match=r'8 is no multiple of 2 \* 3.*`variant`'):
        DFormerv2(RGBD, dict(TINY, num_heads=(3, 2, 3, 4)))
    with pytest.raises(ValueError, match=r'expected 2.*streams=dict'):
        DFormerv2(FOUR, TINY)
    with pytest.raises(ValueError, match=r'init_cfg=.*pretrained=.*at most one'):
        DFormerv2(RGBD, TINY, pretrained='a.pth', init_cfg=dict(type='Xavier'))
    with pytest.raises(ValueError, match=r'got 3 channels.*4 \(or 6'):
        DFormerv2(RGBD, TINY)(rand(1, 3, 64, 64))
