"""Runners build variants, spellings and streams that no fixture here has.

The fixtures are made of the published forms with tiny sizes, see ``make_fixtures``.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mmseg_xmodal.models.layers.dformer_sizes import DFORMER_VARIANTS, DFormerVariant
from mmseg_xmodal.models.layers.dformerv2_sizes import (
    DFORMERV2_VARIANTS,
    DFormerv2Variant,
)
from mmseg_xmodal.models.layers.mit import MIT_VARIANTS, MiTVariant
from mmseg_xmodal.models.layers.swin_sizes import SwinVariant
from mmseg_xmodal.registry import MODELS
from tests.reference_forms.cmx import PublishedCMX
from tests.reference_forms.cmx_swin import PublishedCMXSwin
from tests.reference_forms.dformer import PublishedDFormer
from tests.reference_forms.dformerv2 import PublishedDFormerv2
from tests.reference_forms.geminifusion import (
    PublishedGeminiFusion,
    PublishedGeminiSwin,
)
from tests.reference_forms.ham_head import published_ham_head

from .fixture import Fixture, NoRunner
from .make_fixtures import make_fixture, make_meta
from .runners import run
from .runners.dformer import nmf_bases
from .runners.norms import check_eps

CMX = 'https://github.com/huaaaliu/RGBX_Semantic_Segmentation'
DFORMER = 'https://github.com/VCIP-RGBD/DFormer'
GEMINI = 'https://github.com/JiaDingCN/GeminiFusion'
SWIN = SwinVariant(24, (2, 2, 2, 2), (3, 6, 12, 24))


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sizes with the official depths, if small ones, and little widths."""
    widths = (8, 16, 40, 64)
    for name, depths in {'mit_b1': (2, 2, 2, 2), 'mit_b2': (3, 4, 6, 3)}.items():
        monkeypatch.setitem(MIT_VARIANTS, name, MiTVariant(widths, depths))
    monkeypatch.setitem(
        DFORMER_VARIANTS, 'dformer_tiny', DFormerVariant((8, 16, 32, 64), (1, 1, 2, 1))
    )
    monkeypatch.setitem(
        DFORMERV2_VARIANTS,
        'dformerv2_s',
        DFormerv2Variant((16, 16, 32, 32), (1, 1, 2, 1), (2, 2, 4, 4), (4, 4, 6, 6)),
    )


def _cmx(folder: Path, streams=('rgb', 'x'), eps=1e-5, swin=False, **more) -> Fixture:
    settings = dict(embed_dim=16, num_classes=5, eps=eps)
    form: nn.Module
    if swin:
        form = PublishedCMXSwin(SWIN, **settings)
    else:
        form = PublishedCMX('mit_b2', **settings)
    constructor = dict(
        backbone='swin_s' if swin else 'mit_b2',
        decoder='MLPDecoder',
        num_classes=5,
        decoder_embed_dim=16,
    )
    return make_fixture(folder, form, make_meta(form, CMX, constructor | more, streams))


@pytest.mark.parametrize('name', ['mit_b3', 'MiT-B2', 'CMX-B2', 'CMX (MiT-B2)'])
def test_cmx_has_the_size_that_the_weights_have(name: str, tmp_path) -> None:
    """The official builder has no ``mit_b3`` and falls back to B2."""
    fixture = _cmx(tmp_path, backbone=name)
    fixture.compare(run(fixture))


@pytest.mark.parametrize('swin', [False, True])
def test_cmx_decoder_may_have_a_comment(swin: bool, tmp_path) -> None:
    fixture = _cmx(tmp_path, swin=swin, decoder='MLPDecoder (embed 512)')
    fixture.compare(run(fixture))


@pytest.mark.parametrize('swin', [False, True])
@pytest.mark.parametrize('stated', [dict(bn_eps=1e-3), {}])
def test_cmx_has_the_eps_of_training(swin: bool, stated: dict, tmp_path) -> None:
    fixture = _cmx(tmp_path, eps=1e-3, swin=swin, **stated)
    fixture.compare(run(fixture))


def test_cmx_eps_of_the_layers_is_that_of_evaluation(tmp_path) -> None:
    """The official config has 1e-3, which a network without criterion never reads."""
    fixture = _cmx(tmp_path, bn_eps=1e-3, criterion=None)
    fixture.compare(run(fixture))


def test_cmx_eps_is_stated_where_no_layer_is(tmp_path) -> None:
    fixture = _cmx(tmp_path, eps=1e-3, bn_eps=1e-3)
    del fixture.meta['norm_eps']
    fixture.compare(run(fixture))
    del fixture.meta['constructor']['bn_eps']
    with pytest.raises(AssertionError, match='c_logits'):
        fixture.compare(run(fixture))


@pytest.mark.parametrize('swin', [False, True])
def test_cmx_takes_the_streams_in_order(swin: bool, tmp_path) -> None:
    fixture = _cmx(tmp_path, streams=('img', 'thermal'), swin=swin)
    outputs = run(fixture)
    fixture.compare(outputs)
    # Under the names of the fixture, and under those of the official code.
    for name, official in (('img', 'rgb'), ('thermal', 'x')):
        ours = outputs[f'c_rect1_{name}']
        torch.testing.assert_close(ours, outputs[f'c_rect1_{official}'])


@pytest.mark.parametrize('name', ['resnet101', 'CMNeXt-B2'])
def test_cmx_of_another_kind_has_no_runner(name: str, tmp_path) -> None:
    with pytest.raises(NoRunner, match=name):
        run(_cmx(tmp_path, backbone=name))


def test_a_wrong_weight_of_a_known_size_is_no_expected_failure(tmp_path) -> None:
    fixture = _cmx(tmp_path)
    del fixture.meta['state_dict']['decode_head.linear_pred.bias']
    with pytest.raises(ValueError, match='linear_pred'):
        run(fixture)


def _gemini_outputs(form: nn.Module, inputs: list[Tensor]) -> dict[str, Tensor]:
    stack = torch.cat(inputs, 1)
    logits = dict(zip(('rgb', 'depth'), form.outputs(stack), strict=True))
    return {f'logits_{k}': v for k, v in logits.items()} | dict(logits_ens=form(stack))


def _gemini(
    folder: Path, streams=('rgb', 'depth'), name='mit_b2', heads=8, width=16, swin=False
) -> Fixture:
    kind = PublishedGeminiSwin if swin else PublishedGeminiFusion
    variant = SWIN if swin else 'mit_b2'
    form = kind(variant, cross_heads=heads, embed_dim=width, num_classes=5)
    constructor = dict(
        backbone=name, num_classes=5, n_heads=heads, decoder_embedding_dim=width
    )
    meta = make_meta(form, GEMINI, constructor, streams)
    return make_fixture(folder, form, meta, _gemini_outputs)


SWINS = ['swin_tiny', 'Swin-T', 'swin_t', 'Swin-Large', 'GeminiFusion (Swin-S)']


@pytest.mark.parametrize('name', SWINS)
def test_geminifusion_swin_is_found_however_it_is_spelled(name: str, tmp_path) -> None:
    fixture = _gemini(tmp_path, name=name, swin=True)
    fixture.compare(run(fixture))


@pytest.mark.parametrize('name', ['mit_b3', 'MiT-B2', 'GeminiFusion-MiT-B2'])
def test_geminifusion_has_the_size_that_the_weights_have(name: str, tmp_path) -> None:
    fixture = _gemini(tmp_path, name=name, heads=4, width=24)
    fixture.compare(run(fixture))


@pytest.mark.parametrize('streams', [('img', 'depth'), ('thermal', 'depth')])
def test_geminifusion_takes_the_streams_in_order(streams, tmp_path) -> None:
    fixture = _gemini(tmp_path, streams=streams)
    outputs = run(fixture)
    fixture.compare(outputs)
    for name, official in zip(streams, ('rgb', 'depth'), strict=True):
        ours = outputs[f'c_logits_{name}']
        torch.testing.assert_close(ours, outputs[f'c_logits_{official}'])


def test_geminifusion_of_another_branch_has_no_runner(tmp_path) -> None:
    """Branch ``DeLiVER`` has other keys and up to four modalities; none is known."""
    fixture = _gemini(tmp_path)
    shapes = fixture.meta['state_dict']
    other = {
        k.replace('encoder.', 'backbone.').replace('decoder.', 'decode_head.'): v
        for k, v in shapes.items()
    }
    fixture.meta['state_dict'] = other
    with pytest.raises(NoRunner, match='mit_b2.*DeLiVER'):
        run(fixture)
    fixture.meta['state_dict'] = shapes
    inputs = fixture.meta['cases']['c']['inputs']
    inputs.append(dict(inputs[1], stream='event'))
    with pytest.raises(NoRunner, match="mit_b2.*'event'"):
        run(fixture)
    for name in ('swin_base', 'Swin-B', 'resnet50'):
        with pytest.raises(NoRunner, match=name):
            run(_gemini(tmp_path, name=name))


# Of an auxiliary head, a plain FCN, which only training runs.
AUX = {
    'aux_head.conv.0.weight': [4, 32, 3, 3],
    'aux_head.conv.1.weight': [4],
    'aux_head.conv.1.bias': [4],
    'aux_head.classifier.weight': [5, 4, 1, 1],
}


def _ham_head(widths: tuple[int, ...]):
    head = MODELS.build(
        dict(
            type='mmseg_xmodal.HamHead',
            in_channels=list(widths[1:]),
            in_index=[1, 2, 3],
            ham_channels=16,
            channels=16,
            num_classes=5,
            norm_cfg=dict(type='BN', eps=1e-3),
        )
    )
    head.nmf.set_bases(nmf_bases(16, head.nmf.rank))
    return head


def _dformer(folder: Path, v2: bool, streams=('rgb', 'depth'), aux=False) -> Fixture:
    form: nn.Module
    if v2:
        size = DFORMERV2_VARIANTS['dformerv2_s']
        head = published_ham_head(_ham_head(size.embed_dims))
        form = PublishedDFormerv2('dformerv2_s', head)
    else:
        dims, depths = (
            DFORMER_VARIANTS['dformer_tiny'].embed_dims,
            DFORMER_VARIANTS['dformer_tiny'].depths,
        )
        places = [[slice(0, 3)], [slice(3, 4)]]
        rates = [[0.0] * depth for depth in depths]
        form = PublishedDFormer('dformer_tiny', (3, 1), places, rates, _ham_head(dims))
    constructor = dict(
        backbone='DFormerv2_S' if v2 else 'DFormer-Tiny',
        decoder='LightHamHead',
        decoder_embed_dim=16,
        num_classes=5,
        bn_eps=1e-3,
        aux_rate=0.4 if aux else 0.0,
    )
    meta = make_meta(form, DFORMER, constructor, streams)
    if aux:
        meta['state_dict'] |= AUX
        meta['norm_eps']['0.001'].append('aux_head.conv.1')
    return make_fixture(folder, form, meta)


@pytest.mark.parametrize('v2', [False, True])
def test_dformer_streams_and_head_are_found_however_they_are_called(
    v2: bool, tmp_path
) -> None:
    fixture = _dformer(tmp_path, v2, streams=('img', 'thermal'))
    fixture.compare(run(fixture))


@pytest.mark.parametrize('v2', [False, True])
def test_dformer_with_an_auxiliary_head_is_run(v2: bool, tmp_path) -> None:
    fixture = _dformer(tmp_path, v2, aux=True)
    fixture.compare(run(fixture))
    fixture.meta['constructor']['decoder'] = 'UPernet'
    with pytest.raises(NoRunner, match='UPernet'):
        run(fixture)


def test_every_listed_norm_has_its_eps() -> None:
    model = nn.ModuleDict(dict(norm=nn.LayerNorm(2, eps=1e-6)))
    names = ['official.norm', 'official.aux']

    def fixture(eps: str) -> Fixture:
        return Fixture('made', dict(norm_eps={eps: names}), Path('made.json'))

    def rename(key: str) -> str | None:
        return 'norm.weight' if key == 'official.norm.weight' else None

    def skip(key: str) -> bool:
        return key == 'official.aux.weight'

    check_eps(model, fixture('1e-06'), rename, skip)
    with pytest.raises(AssertionError, match='official.norm'):
        check_eps(model, fixture('1e-05'), rename, skip)
    # A layer that ours lack is not passed over by itself.
    with pytest.raises(AssertionError, match='official.aux'):
        check_eps(model, fixture('1e-06'), rename)
