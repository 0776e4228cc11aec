"""The tests of the published forms also run on fixtures that come from elsewhere.

``$XMODAL_PARITY_FIXTURES`` may hold other sizes, cases and blocks than the fixtures
here. Such ones are made of the published forms with tiny sizes, see ``make_fixtures``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mmseg_xmodal.models.converters.mmsformer import mmsformer_key
from mmseg_xmodal.models.converters.stitchfusion import stitchfusion_key
from mmseg_xmodal.models.layers.mit import MIT_VARIANTS, MiTVariant, mit_variant
from mmseg_xmodal.models.layers.swin_sizes import SwinVariant
from tests.reference_forms.cmnext import PublishedCMNeXt
from tests.reference_forms.geminifusion import (
    PublishedGeminiFusion,
    PublishedGeminiSwin,
)
from tests.reference_forms.mix_se import Published
from tests.reference_forms.mmsformer import MMSFormer
from tests.reference_forms.stitchfusion import StitchFusion

from . import test_published_cmnext as cmnext
from . import test_published_geminifusion as gemini
from . import test_published_mmsformer as mmsformer
from . import test_published_stitchfusion as stitchfusion
from .fixture import Fixture, logits_cases
from .make_fixtures import make_fixture, make_meta
from .runners import run

DELIVER = 'https://github.com/InSAI-Lab/DELIVER'
MMSFORMER = 'https://github.com/CSIPlab/MMSFormer'
STITCHFUSION = 'https://github.com/LiBingyu01/StitchFusion'
NAMES = ('img', 'depth', 'event')


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The official depths, small widths (the SE gate divides them by 16)."""
    widths = (16, 16, 80, 128)
    monkeypatch.setitem(MIT_VARIANTS, 'mit_b1', MiTVariant(widths, (2, 2, 2, 2)))


def _cmnext(folder: Path, **more) -> Fixture:
    places = [[slice(0, 3)], [slice(3, 6)], [slice(6, 9)]]
    form = PublishedCMNeXt('mit_b1', places, embed_dim=16, num_classes=5)
    meta = make_meta(form, DELIVER, dict(backbone='CMNeXt-B1') | more, NAMES)
    return make_fixture(folder, form, meta)


def _mmsformer(folder: Path, name='MMSFormer-B1') -> Fixture:
    sizes = [mit_variant('mit_b1')] * 2
    rates = [[[0.0] * depth for depth in size.depths] for size in sizes]
    backbone = MMSFormer(sizes, (3, 3), rates)
    form = Published(backbone, None, sizes[0].embed_dims, mmsformer_key, 16, 5)
    meta = make_meta(form, MMSFORMER, dict(backbone=name), NAMES[:2])
    return make_fixture(folder, form, meta)


def _stitchfusion(folder: Path, sharing='pair', name='stitchfusion-B1') -> Fixture:
    size = mit_variant('mit_b1')
    rates = [[0.0] * depth for depth in size.depths]
    backbone = StitchFusion(size, 3, rates, sharing, 0.0)
    form = Published(backbone, None, size.embed_dims, stitchfusion_key, 16, 5)
    meta = make_meta(form, STITCHFUSION, dict(backbone=name), NAMES)
    return make_fixture(folder, form, meta)


def _check(tests, fixture: Fixture, output: str = 'logits') -> None:
    """Run our model and the test of the published form, as pytest would."""
    assert logits_cases([fixture], output) == [(fixture, 'c')]
    fixture.compare(run(fixture))
    tests.test_published_form_has_the_official_numbers(fixture, 'c')
    # It does compare, every number.
    arrays = dict(fixture.arrays())
    arrays[f'c_{output}'][0, -1, -1, -1] += 1e-2
    np.savez(fixture.path.with_suffix('.npz'), **arrays)
    with pytest.raises(AssertionError, match='Mismatched elements: 1 '):
        tests.test_published_form_has_the_official_numbers(fixture, 'c')


def _skips(tests, fixture: Fixture, reason: str) -> None:
    with pytest.raises(pytest.skip.Exception, match=reason):
        tests.test_published_form_has_the_official_numbers(fixture, 'c')


def test_cmnext(tmp_path) -> None:
    _check(cmnext, _cmnext(tmp_path, num_classes=5))
    # The repository has other networks too.
    _skips(cmnext, _cmnext(tmp_path, backbone='CMX-B2'), 'CMX-B2')


NAMES_OF_B1 = ['{}-B1', 'MiT-B1', '{} (MiT-B1)', 'b1']


@pytest.mark.parametrize('name', NAMES_OF_B1)
def test_mmsformer(name: str, tmp_path) -> None:
    _check(mmsformer, _mmsformer(tmp_path, name.format('MMSFormer')))


def test_mmsformer_of_another_kind_is_skipped(tmp_path) -> None:
    _skips(mmsformer, _mmsformer(tmp_path, 'TokenFusion-B2'), 'TokenFusion-B2')


@pytest.mark.parametrize('sharing', ['pair', 'direction', 'all'])
def test_stitchfusion(sharing: str, tmp_path) -> None:
    _check(stitchfusion, _stitchfusion(tmp_path, sharing))


@pytest.mark.parametrize('name', NAMES_OF_B1)
def test_stitchfusion_however_it_is_called(name: str, tmp_path) -> None:
    _check(stitchfusion, _stitchfusion(tmp_path, name=name.format('StitchFusion')))


@pytest.mark.parametrize('make', [_mmsformer, _stitchfusion])
def test_the_name_is_that_of_the_weights(make, tmp_path) -> None:
    """Official code builds no other size than that of the name."""
    fixture = make(tmp_path, name='MiT-B2')
    with pytest.raises(AssertionError, match='mit_b1.*mit_b2'):
        run(fixture)


def test_stitchfusion_of_another_kind_is_skipped(tmp_path) -> None:
    _skips(stitchfusion, _stitchfusion(tmp_path, name='CMNeXt-B2'), 'CMNeXt-B2')


@pytest.mark.parametrize('name', ['mit_b1', 'swin_tiny', 'Swin-L', 'mit_b9'])
def test_geminifusion(name: str, tmp_path) -> None:
    variant: object = 'mit_b1'
    kind, heads = PublishedGeminiFusion, 4
    if 'win' in name:
        # An official Swin has 8 heads of fusion, whatever n_heads says.
        variant = SwinVariant(24, (2, 2, 2, 2), (3, 6, 12, 24))
        kind, heads = PublishedGeminiSwin, 8
    form = kind(variant, cross_heads=heads, embed_dim=16, num_classes=5)
    constructor = dict(backbone=name, num_classes=5, n_heads=4)
    constructor['decoder_embedding_dim'] = 16
    meta = make_meta(form, gemini.REPOSITORY, constructor, ('img', 'depth'))

    def outputs(net, inputs):
        stack = torch.cat(inputs, 1)
        rgb, depth = net.outputs(stack)
        return dict(logits_rgb=rgb, logits_depth=depth, logits_ens=net(stack))

    fixture = make_fixture(tmp_path, form, meta, outputs)
    if name == 'mit_b9':
        _skips(gemini, fixture, name)
    else:
        _check(gemini, fixture, 'logits_ens')
