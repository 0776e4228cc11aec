"""The runner of whole networks of DAFormer and HRDA."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.reference_forms.daformer_head import PublishedDAFormerHead

from .fill import make_input
from .fixture import Fixture, NoRunner
from .make_fixtures import PublishedMiT, fill_parts, fuse, write_fixture
from .runners import run, run_and_compare

MIT_WIDTHS = (32, 64, 160, 256)


def _network(**parts: Any) -> tuple[PublishedMiT, dict]:
    backbone = PublishedMiT()
    heads = {f'decode_head.{name}': part for name, part in parts.items()}
    return backbone, fill_parts({'backbone.': backbone} | heads)


def _image(name: str, batch: int, size: tuple[int, int]) -> dict[str, Any]:
    return dict(stream='rgb', name=name, shape=[batch, 3, *size])


def _network_fixture(folder, arrays: dict, cases: dict, **meta: Any) -> Fixture:
    return write_fixture(folder, arrays, cases=cases, variant='mit_b0', **meta)


def test_daformer_network(tmp_path) -> None:
    head = PublishedDAFormerHead(MIT_WIDTHS, 16, 10, 7, dilations=(1, 2, 3))
    backbone, meta = _network(**{'': head})
    spec, arrays = _image('a.rgb', 1, (64, 96)), {}
    with torch.no_grad():
        maps = backbone(make_input(spec['name'], spec['shape']))
        arrays['a_logits'] = head(maps)
    arrays |= {f'a_stage{i}': x for i, x in enumerate(maps, 1)}
    cases = dict(a=dict(small=False, inputs=[spec]))
    settings = dict(dilations=[1, 2, 3])
    fixture = _network_fixture(tmp_path, arrays, cases, settings=settings, **meta)
    assert len(run_and_compare(fixture)) == 5


def test_hrda_network(tmp_path) -> None:
    head = PublishedDAFormerHead(MIT_WIDTHS, 16, 10, 7, fusion='conv1')
    attention = PublishedDAFormerHead(MIT_WIDTHS, 16, 10, 7, fusion='conv1')
    backbone, meta = _network(**{'head.': head, 'scale_attention.': attention})
    spec, box = _image('a.rgb', 2, (128, 128)), [32, 96, 64, 128]
    image = make_input(spec['name'], spec['shape'])
    small = F.interpolate(image, scale_factor=0.5, mode='bilinear')
    with torch.no_grad():
        maps = backbone(small)
        crop = head(backbone(image[..., 32:96, 64:128]))
        values = fuse(head(maps), crop, attention(maps), box)
    arrays = {f'a_{name}': value for name, value in values.items()}
    arrays['a_logits'] = arrays['a_fused']
    case = dict(small=False, inputs=[spec], crop_box_y1y2x1x2=box)
    fixture = _network_fixture(tmp_path, arrays, dict(a=case), **meta)
    assert len(run_and_compare(fixture)) == 5


def test_hrda_network_in_windows(tmp_path) -> None:
    head = PublishedDAFormerHead(MIT_WIDTHS, 16, 10, 7, fusion='conv1')
    attention = PublishedDAFormerHead(MIT_WIDTHS, 16, 10, 7, fusion='conv1')
    backbone, meta = _network(**{'head.': head, 'scale_attention.': attention})
    spec = _image('a.rgb', 1, (64, 96))
    image = make_input(spec['name'], spec['shape'])
    small = F.interpolate(image, scale_factor=0.5, mode='bilinear')
    canvas, count = torch.zeros(1, 7, 16, 24), torch.zeros(16, 24)
    with torch.no_grad():
        for x in (0, 8):
            crop = image[..., 4 * x : 4 * x + 64]
            canvas[..., x : x + 16] += head(backbone(crop))
            count[:, x : x + 16] += 1
        maps = backbone(small)
        values = fuse(head(maps), canvas / count, attention(maps))
    arrays = dict(a_logits=values['fused'])
    case = dict(small=False, inputs=[spec])
    settings = dict(hr_crop_size=[64, 64])
    fixture = _network_fixture(
        tmp_path, arrays, dict(a=case), settings=settings, **meta
    )
    assert len(run_and_compare(fixture)) == 1
    del fixture.meta['settings']
    with pytest.raises(NoRunner, match="variant.*'a'.*hr_crop_size"):
        run(fixture)
    # A case with a crop of its own is compared all the same.
    fixture.meta['cases']['b'] = case | dict(crop_box_y1y2x1x2=[0, 64, 0, 64])
    np.savez(fixture.path.with_suffix('.npz'), **arrays, b_logits=values['fused'])
    fixture.meta['arrays']['b_logits'] = fixture.meta['arrays']['a_logits']
    with pytest.raises(AssertionError, match='b_logits'):
        run_and_compare(fixture)


def test_networks_with_other_fusions_are_named(tmp_path) -> None:
    shapes = {k: list(v.shape) for k, v in PublishedMiT().state_dict().items()}
    shapes = {f'backbone.{k}': shape for k, shape in shapes.items()}
    shapes['decode_head.embed_layers.0.proj.weight'] = [4, 32]
    shapes['decode_head.fuse_layer.isa.weight'] = [4, 4]
    fixture = _network_fixture(tmp_path, {}, {}, state_dict=shapes)
    with pytest.raises(NoRunner, match="variant.*'isa'"):
        run(fixture)


def test_a_regression_of_the_converter_is_no_expected_failure(tmp_path) -> None:
    shapes = {k: list(v.shape) for k, v in PublishedMiT().state_dict().items()}
    shapes = {f'backbone.{k}': shape for k, shape in shapes.items()}
    shapes['decode_head.embed_layers.0.proj.weight'] = [4, 32]
    shapes['decode_head.fuse_layer.conv.weight'] = [4, 4, 1, 1]
    fixture = _network_fixture(tmp_path, {}, {}, state_dict=shapes)
    with pytest.raises(ValueError, match='conv_seg'):
        run(fixture)


@pytest.mark.parametrize('whole', [False, True])
def test_what_is_recorded_of_a_network_at_one_tolerance(tmp_path, whole: bool) -> None:
    head = PublishedDAFormerHead(MIT_WIDTHS, 16, 10, 7, fusion='conv1')
    backbone, meta = _network(**{'': head})
    spec = _image('a.rgb', 1, (64, 64))
    with torch.no_grad():
        maps = backbone(make_input(spec['name'], spec['shape']))
        logits = head(maps)
    arrays = dict(a_logits=logits) if whole else dict(a_stage2=maps[1], a_shares=logits)
    cases = dict(a=dict(small=False, inputs=[spec]))
    words = dict(in_words=True, tolerance='rtol 1e-4, atol 2e-5')
    fixture = _network_fixture(tmp_path, arrays, cases, **words, **meta)
    if whole:
        assert set(run_and_compare(fixture)) == {'a_logits'}
        return
    with pytest.raises(AssertionError, match='a_shares'):
        run_and_compare(fixture)


def test_networks_of_other_backbones_are_named(tmp_path) -> None:
    shapes = {
        'backbone.layer1.0.conv1.weight': [4, 4, 1, 1],
        'decode_head.embed_layers.0.proj.weight': [4, 4],
    }
    cases = dict(a=dict(small=False, inputs=[_image('a', 1, (8, 8))]))
    fixture = _network_fixture(tmp_path, {}, cases, state_dict=shapes)
    with pytest.raises(NoRunner, match='variant.*DAFormer'):
        run(fixture)
