"""Runners of DAFormer and HRDA on variants that the official fixtures do not have."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.reference_forms.daformer_head import PublishedDAFormerHead

from .fill import checksum, fill_state, make_input, make_uniform
from .fixture import NoRunner
from .make_fixtures import fill_parts, fuse, write_fixture
from .runners import run, run_and_compare

WIDTHS = (8, 12)


def _feats(stem: str, batch: int = 2, size: tuple = (6, 10)) -> list[dict]:
    shapes = [(batch, w, size[0] >> i, size[1] >> i) for i, w in enumerate(WIDTHS)]
    return [dict(name=f'{stem}{i}', shape=s) for i, s in enumerate(shapes)]


def _inputs(specs: list[dict]) -> list[Tensor]:
    return [make_input(i['name'], i['shape']) for i in specs]


def head_fixture(folder, batch: int = 2, settings: dict | None = None, **form: Any):
    """A fixture of a head whose numbers are those of the published form."""
    head = PublishedDAFormerHead(WIDTHS, 16, 10, 7, **form)
    meta = fill_parts({'decode_head.': head})
    specs = _feats('daformer.c', batch)
    feats, arrays = _inputs(specs), {}
    with torch.no_grad():
        arrays['logits_eval'] = head(feats)
        embeds = []
        for x, layer in zip(feats, head.embed_layers, strict=True):
            embeds.append(layer.proj(x.flatten(2).transpose(1, 2)))
            arrays[f'embed{len(embeds)}'] = embeds[-1][:, :8, :16]
        maps = [
            F.interpolate(
                e.transpose(1, 2).unflatten(2, x.shape[2:]),
                feats[0].shape[2:],
                mode='bilinear',
                align_corners=head.align_corners,
            )
            for e, x in zip(embeds, feats, strict=True)
        ]
        arrays['fused_first4'] = head.fuse_layer(torch.cat(maps, 1))[:, :4]
        head.train()
        arrays['logits_train_bn'] = head(feats)
    norm = head.fuse_layer
    norm = (norm if hasattr(norm, 'bn') else norm.bottleneck).bn
    arrays['running_mean_after_train'] = norm.running_mean
    arrays['running_var_after_train'] = norm.running_var
    stated = dict(align_corners=head.align_corners) | (settings or {})
    return write_fixture(folder, arrays, settings=stated, inputs=specs, **meta)


@pytest.mark.parametrize(
    ('form', 'settings'),
    [
        (dict(fusion='conv1'), {}),
        (dict(fusion='conv1', align_corners=True), {}),
        (dict(fusion='aspp'), dict(dilations=[1, 6, 12, 18], separable=False)),
        (dict(dilations=(1, 2, 3, 5)), dict(dilations=[1, 2, 3, 5])),
        (dict(dilations=(2, 3)), dict(dilations=[2, 3])),
        (dict(fusion='aspp', dilations=(1, 4, 7)), dict(dilations=[1, 4, 7])),
    ],
    ids=str,
)
def test_head(tmp_path, form: dict, settings: dict) -> None:
    fixture = head_fixture(tmp_path, settings=settings, **form)
    assert set(run_and_compare(fixture)) >= {'embed2', 'fused_first4'}


def test_head_of_one_image(tmp_path) -> None:
    fixture = head_fixture(tmp_path, batch=1)
    run_and_compare(fixture)


def test_other_dilations_than_stated_are_seen(tmp_path) -> None:
    form = dict(dilations=(1, 2, 3, 5))
    fixture = head_fixture(tmp_path, settings=dict(dilations=[1, 2, 3, 4]), **form)
    with pytest.raises(AssertionError, match='logits_eval'):
        run_and_compare(fixture)


@pytest.mark.parametrize(
    ('key', 'name'),
    [
        ('fuse_layer.isa.query_conv.weight', 'isa'),
        ('fuse_layer.1.aspp_modules.0.conv.weight', 'sepaspp_bottleneck'),
        ('fuse_layer.odd.weight', 'fuse_layer.odd.weight'),
    ],
)
def test_fusions_without_a_runner_are_named(tmp_path, key: str, name: str) -> None:
    shapes = {
        'decode_head.conv_seg.weight': [3, 4, 1, 1],
        'decode_head.embed_layers.0.proj.weight': [4, 8],
        f'decode_head.{key}': [4, 4, 1, 1],
    }
    proof = checksum(fill_state(shapes))
    fixture = write_fixture(
        tmp_path, {}, state_dict=shapes, fill_checksum=proof, settings={}
    )
    with pytest.raises(NoRunner, match=f'variant.*{name}'):
        run(fixture)


def test_a_regression_of_the_converter_is_no_expected_failure(tmp_path) -> None:
    shapes = {
        'decode_head.embed_layers.0.proj.weight': [4, 8],
        'decode_head.fuse_layer.conv.weight': [4, 4, 1, 1],
    }
    proof = checksum(fill_state(shapes))
    fixture = write_fixture(tmp_path, {}, state_dict=shapes, fill_checksum=proof)
    with pytest.raises(ValueError, match='conv_seg'):
        run(fixture)


def test_what_is_recorded_of_a_head_at_one_tolerance(tmp_path) -> None:
    """One tolerance for all, texts for the outputs, and some of them not recorded."""
    fixture = head_fixture(tmp_path, fusion='conv1')
    fixture.meta['arrays'] = {}
    words = dict(tolerance='rtol 1e-4, atol 2e-5', outputs=dict(a='eval mode'))
    fixture.meta.update(words)
    arrays = dict(fixture.arrays())
    del arrays['running_mean_after_train'], arrays['embed1']
    np.savez(fixture.path.with_suffix('.npz'), **arrays)
    assert set(run_and_compare(fixture)) == set(arrays)
    np.savez(fixture.path.with_suffix('.npz'), **arrays, attention=np.zeros(3))
    with pytest.raises(AssertionError, match='attention'):
        run_and_compare(fixture)


# HRDA


def _losses(case: dict[str, Tensor], label: Tensor, box: list, share: float) -> dict:
    """As published: means over all pixels, of which ignored ones add 0."""
    weight = make_uniform('hrda.weight', [len(label), *label.shape[2:]])

    def mean(logits: Tensor, truth: Tensor, own: Tensor) -> Tensor:
        logits = F.interpolate(logits, scale_factor=4, mode='bilinear')
        each = F.cross_entropy(logits, truth, ignore_index=255, reduction='none')
        return (each * own).mean()

    y1, y2, x1, x2 = box
    truth = label[:, 0].long()
    crop = (slice(None), slice(y1, y2), slice(x1, x2))
    return dict(
        loss_seg=(1 - share) * mean(case['fused'], truth, weight),
        hr_loss_seg=share * mean(case['hr'], truth[crop], weight[crop]),
    )


def _logits(batch: int, windows: int = 0) -> dict[str, Tensor]:
    """Logits by name, for pictures of 64 x 96 and crops of 32 x 48."""
    shapes = dict(lr_logits=(5, 8, 12), hr_logits=(5, 8, 12), att_logits=(5, 8, 12))
    shapes |= dict(att1_logits=(1, 8, 12), hr_full_logits=(5, 16, 24))
    names = {f'hrda.{name}': (batch, *shape) for name, shape in shapes.items()}
    names['hrda.slide_logits'] = (windows * batch, 5, 8, 12)
    return {n: make_input(n, s) for n, s in names.items() if 0 not in s}


def _stated(given: dict[str, Tensor], settings: dict | None = None) -> dict[str, Any]:
    inputs = [dict(name=n, shape=list(x.shape)) for n, x in given.items()]
    stated = dict(output_stride=4, hr_loss_weight=0.1) | (settings or {})
    return dict(inputs=inputs, settings=stated)


def _named(name: str, values: dict[str, Tensor], *skipped: str) -> dict[str, Tensor]:
    return {f'{name}.{k}': v for k, v in values.items() if k not in skipped}


@pytest.mark.parametrize('batch', [1, 3])
def test_hrda_crop(tmp_path, batch: int) -> None:
    given, box = _logits(batch), [16, 48, 40, 88]
    names = [f'hrda.{n}_logits' for n in ('lr', 'hr', 'att')]
    rng = np.random.RandomState(0)
    label = torch.from_numpy(rng.randint(0, 6, (batch, 1, 64, 96)).astype(np.uint8))
    label[label == 5] = 255
    values = fuse(*(given[n] for n in names), box)
    arrays = _named('crop', values | _losses(values, label, box, 0.2), 'attention')
    cases = dict(crop=dict(crop_box_y1y2x1x2=box, full_size=[64, 96]))
    stated = _stated({n: given[n] for n in names}, dict(hr_loss_weight=0.2))
    fixture = write_fixture(tmp_path, arrays | dict(label=label), cases=cases, **stated)
    assert len(run_and_compare(fixture)) == 6


def test_hrda_one_attention_without_the_other_cases(tmp_path) -> None:
    given, box = _logits(1), [0, 32, 48, 96]
    names = [f'hrda.{n}_logits' for n in ('lr', 'hr', 'att1')]
    values = fuse(*(given[n] for n in names), box)
    # Its box is that of the case that nothing is recorded of.
    cases = dict(crop=dict(crop_box_y1y2x1x2=box), crop_scalar_att={})
    arrays = {'crop_scalar_att.fused': values['fused']}
    fixture = write_fixture(tmp_path, arrays, cases=cases, **_stated(given))
    assert list(run_and_compare(fixture)) == ['crop_scalar_att.fused']


def test_hrda_crop_without_a_box_is_named(tmp_path) -> None:
    arrays = {'crop_scalar_att.fused': np.zeros((1, 5, 16, 24), np.float32)}
    cases = dict(crop_scalar_att={})
    fixture = write_fixture(tmp_path, arrays, cases=cases, **_stated(_logits(1)))
    with pytest.raises(NoRunner, match="variant.*'crop_scalar_att' without crop_box"):
        run(fixture)


def _nocrop() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    given = _logits(1)
    names = [f'hrda.{n}_logits' for n in ('lr', 'hr_full', 'att')]
    return given, fuse(*(given[n] for n in names))


def test_hrda_nocrop(tmp_path) -> None:
    given, values = _nocrop()
    arrays = _named('nocrop', values, 'attention', 'hr')
    fixture = write_fixture(tmp_path, arrays, cases=dict(nocrop={}), **_stated(given))
    assert len(run_and_compare(fixture)) == 2


@pytest.mark.parametrize('stride', [(16, 24), (32, 24), (24, 48)])
def test_hrda_slide(tmp_path, stride: tuple[int, int]) -> None:
    ends = [(64, 32), (96, 48)]
    starts = [
        sorted({min(i * s, end - crop) for i in range(9)})
        for s, (end, crop) in zip(stride, ends, strict=True)
    ]
    boxes = [(y, y + 32, x, x + 48) for y, x in itertools.product(*starts)]
    given = _logits(2, len(boxes))
    canvas, count = torch.zeros(2, 5, 16, 24), torch.zeros(16, 24)
    for logits, box in zip(given['hrda.slide_logits'].split(2), boxes, strict=True):
        y1, y2, x1, x2 = (edge // 4 for edge in box)
        canvas[..., y1:y2, x1:x2] += logits
        count[y1:y2, x1:x2] += 1
    canvas = canvas / count
    fused = fuse(given['hrda.lr_logits'], canvas, given['hrda.att_logits'])['fused']
    arrays = {'slide.fused': fused, 'slide.hr_canvas': canvas}
    cases = dict(slide=dict(boxes=boxes))
    fixture = write_fixture(tmp_path, arrays, cases=cases, **_stated(given))
    assert len(run_and_compare(fixture)) == 2


@pytest.mark.parametrize(('batch', 'shares'), [(1, 1), (3, 7)])
def test_hrda_whole_head(tmp_path, batch: int, shares: int) -> None:
    """A picture of 96 x 160, with one share for all classes and one for each."""
    head = PublishedDAFormerHead(WIDTHS, 16, 10, 7, dilations=(1, 2, 4))
    attention = PublishedDAFormerHead(WIDTHS, 16, 10, shares, fusion='conv1')
    parts = {'decode_head.head.': head, 'decode_head.scale_attention.': attention}
    meta = fill_parts(parts)
    context = _feats('hrda.lr_c', batch, (12, 20))
    detail = _feats('hrda.hr_c', batch, (8, 16))
    box = [32, 64, 64, 128]
    small = _inputs(context)
    with torch.no_grad():
        logits = head(small), head(_inputs(detail)), attention(small)
        arrays = _named('full', fuse(*logits, box))
    case = dict(crop_box_y1y2x1x2=box, inputs=context + detail, mode='eval')
    stated = _stated({}, dict(dilations=[1, 2, 4]))
    fixture = write_fixture(tmp_path, arrays, cases=dict(full=case), **stated, **meta)
    assert len(run_and_compare(fixture)) == 4


def test_hrda_drawn_crops(tmp_path) -> None:
    rng, boxes = np.random.RandomState(5), []
    for _ in range(4):
        top, left = (rng.randint(0, (m + 1) // 16) * 16 for m in (128, 256))
        boxes.append([top, top + 128, left, left + 256])
    spec = dict(numpy_seed=5, image=[256, 512], crop=[128, 256], divisible=16)
    arrays = dict(crop_boxes_seed5=np.array(boxes))
    cases = dict(crop_sampling=spec)
    words = dict(tolerance='rtol 1e-4')  # nothing here has one
    fixture = write_fixture(tmp_path, arrays, cases=cases, **words, **_stated({}))
    assert len(run_and_compare(fixture)) == 1


def test_hrda_of_unknown_cases_is_named(tmp_path) -> None:
    for cases in ({}, dict(rotated=dict(angle=3))):
        arrays = {'rotated.fused': np.zeros(1)}
        fixture = write_fixture(tmp_path, arrays, cases=cases, **_stated(_logits(1)))
        with pytest.raises(NoRunner, match='variant.*rotated'):
            run(fixture)


def test_an_unknown_hrda_case_hides_no_other(tmp_path) -> None:
    given, values = _nocrop()
    others = {'rotated.fused': np.zeros(1), 'crop.fused': np.zeros((1, 5, 16, 24))}
    cases = dict(nocrop={}, rotated={}, crop=dict(full_size=[64, 96]))
    for change, error in ((0, NoRunner), (1e-3, AssertionError)):
        arrays = {'nocrop.fused': values['fused'] + change} | others
        fixture = write_fixture(tmp_path, arrays, cases=cases, **_stated(given))
        with pytest.raises(error, match='nocrop|crop_box.*rotated'):
            run_and_compare(fixture)


def test_what_is_recorded_of_hrda_at_one_tolerance(tmp_path) -> None:
    given, values = _nocrop()
    words = dict(in_words=True, tolerance=dict(rtol=1e-4, atol=1e-5))
    for more in ({}, {'nocrop.canvas': np.zeros(3)}):
        arrays = {'nocrop.fused': values['fused']} | more
        fixture = write_fixture(
            tmp_path, arrays, cases=dict(nocrop={}), **words, **_stated(given)
        )
        if more:
            with pytest.raises(AssertionError, match='nocrop.canvas'):
                run_and_compare(fixture)
        else:
            assert set(run_and_compare(fixture)) == {'nocrop.fused'}
