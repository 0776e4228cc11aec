from __future__ import annotations

import inspect

import pytest
import torch

from mmseg_xmodal.models.layers.multi_scale_deformable import (
    MultiScaleDeformableAttention,
)
from mmseg_xmodal.registry import MODELS
from tests.reference_forms.multi_scale_deformable import PublishedDeformableLayer

SIZES = [(5, 4), (3, 2)]
ARGUMENTS = dict(embed_dims=16, num_heads=4, num_levels=2, num_points=3, dropout=0.0)


def inputs(corners=2, batch_first=True):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 7, 16, generator=generator)
    value = torch.randn(2, 26, 16, generator=generator)
    points = torch.rand(2, 7, 2, corners, generator=generator)
    if not batch_first:
        query, value = query.transpose(0, 1), value.transpose(0, 1)
    return query, dict(value=value, reference_points=points)


def layer(**changed):
    module = MultiScaleDeformableAttention(**{**ARGUMENTS, **changed})
    generator = torch.Generator().manual_seed(1)
    for p in module.parameters():
        p.data += 0.3 * torch.randn(p.shape, generator=generator)
    return module


def mmcv_class():
    try:
        from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttention
    except ImportError as error:
        pytest.skip(f'mmcv has no compiled operations here ({error})')
    return MultiScaleDeformableAttention


# Of mmcv 2.1.0's layer with ARGUMENTS, as its state_dict() has them.
MMCV_PARAMETERS = {
    'sampling_offsets.weight': (48, 16),
    'sampling_offsets.bias': (48,),
    'attention_weights.weight': (24, 16),
    'attention_weights.bias': (24,),
    'value_proj.weight': (16, 16),
    'value_proj.bias': (16,),
    'output_proj.weight': (16, 16),
    'output_proj.bias': (16,),
}
MMCV_ARGUMENTS = dict(
    embed_dims=256,
    num_heads=8,
    num_levels=4,
    num_points=4,
    im2col_step=64,
    dropout=0.1,
    batch_first=False,
    norm_cfg=None,
    init_cfg=None,
    value_proj_ratio=1.0,
)


def arguments_of(layer_class):
    parameters = inspect.signature(layer_class).parameters
    return {name: p.default for name, p in parameters.items()}


@pytest.mark.parametrize('batch_first', [True, False])
@pytest.mark.parametrize('corners', [2, 4])
@pytest.mark.parametrize('ratio', [1.0, 0.5])
@pytest.mark.parametrize('own_value', [True, False])
def test_is_the_published_form(batch_first, corners, ratio, own_value):
    ours = layer(batch_first=batch_first, value_proj_ratio=ratio)
    published = PublishedDeformableLayer(16, 4, 2, 3, int(16 * ratio))
    published.load_state_dict(ours.state_dict())
    generator = torch.Generator().manual_seed(3)
    query, value, identity, position = torch.randn(4, 2, 26, 16, generator=generator)
    mask = torch.rand(2, 26, generator=generator) > 0.7
    points = torch.rand(2, 26, 2, corners, generator=generator)

    def ordered(x):
        return x if batch_first else x.transpose(0, 1)

    leaves = [x.requires_grad_() for x in (query, value, identity, position, points)]
    got = ours(
        ordered(query),
        value=ordered(value) if own_value else None,
        identity=ordered(identity) if own_value else None,
        query_pos=ordered(position),
        key_padding_mask=mask,
        reference_points=points,
        spatial_shapes=SIZES,
    )
    source, added = (value, identity) if own_value else (query, query)
    want = published(query, source, added, position, mask, points, SIZES)
    torch.testing.assert_close(ordered(got), want)
    weight = torch.randn(want.shape, generator=generator)
    results = [
        torch.autograd.grad((out * weight).sum(), leaves, allow_unused=True)
        for out in (ordered(got), want)
    ]
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_names_and_shapes_are_those_of_mmcv():
    found = {name: tuple(p.shape) for name, p in layer().state_dict().items()}
    assert found == MMCV_PARAMETERS


def test_arguments_are_those_of_mmcv_and_a_back_end():
    """In their order: callers may give them without names."""
    assert list(arguments_of(MultiScaleDeformableAttention).items()) == [
        *MMCV_ARGUMENTS.items(),
        ('backend', 'auto'),
    ]


def test_the_tables_are_mmcvs():
    theirs = mmcv_class()
    assert list(arguments_of(theirs).items()) == list(MMCV_ARGUMENTS.items())
    found = theirs(**ARGUMENTS).state_dict()
    assert {name: tuple(p.shape) for name, p in found.items()} == MMCV_PARAMETERS


def test_a_config_of_mmcv_builds():
    """Ours, by its name and with all that mmcv's takes."""
    cfg = dict(ARGUMENTS, im2col_step=32, norm_cfg=dict(type='LN'), init_cfg=None)
    module = MODELS.build(
        dict(type='mmseg_xmodal.MultiScaleDeformableAttention', **cfg)
    )
    assert type(module) is MultiScaleDeformableAttention
    assert module.dropout.p == 0.0


@pytest.mark.parametrize('batch_first', [True, False])
@pytest.mark.parametrize('corners', [2, 4])
@pytest.mark.parametrize('ratio', [1.0, 0.5])
def test_a_checkpoint_of_mmcv_gives_the_same(batch_first, corners, ratio):
    changed = dict(batch_first=batch_first, value_proj_ratio=ratio)
    theirs = mmcv_class()(**{**ARGUMENTS, **changed})
    ours = layer(**changed)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    query, others = inputs(corners, batch_first)
    mask = torch.rand(2, 26, generator=torch.Generator().manual_seed(2)) > 0.7
    sizes = torch.tensor(SIZES)
    starts = torch.tensor([0, 20])
    others.update(key_padding_mask=mask, query_pos=torch.ones_like(query))
    want = theirs(query, **others, spatial_shapes=sizes, level_start_index=starts)
    torch.testing.assert_close(ours(query, **others, spatial_shapes=SIZES), want)
    torch.testing.assert_close(ours(query, **others, spatial_shapes=sizes), want)


def test_starts_as_mmcv_does():
    torch.manual_seed(0)
    theirs = mmcv_class()(**ARGUMENTS).state_dict()
    torch.manual_seed(0)
    ours = MultiScaleDeformableAttention(**ARGUMENTS).state_dict()
    assert list(ours) == list(theirs)
    for name in ('sampling_offsets', 'attention_weights'):
        for part in ('weight', 'bias'):
            key = f'{name}.{part}'
            torch.testing.assert_close(ours[key], theirs[key])


def test_gradients_reach_every_parameter():
    module = layer(batch_first=True)
    query, others = inputs()
    module(query, **others, spatial_shapes=SIZES).square().sum().backward()
    for name, p in module.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().sum() > 0, name


def test_locations_stay_exact_under_autocast():
    """Float32 and autocast differ by the rounding of offsets and values alone."""
    module = layer(batch_first=True)
    query, others = inputs()
    want = module(query, **others, spatial_shapes=SIZES)
    with torch.autocast('cpu', torch.bfloat16):
        got = module(query, **others, spatial_shapes=SIZES)
    torch.testing.assert_close(got.float(), want, rtol=0.05, atol=0.15)


def test_padding_is_read_as_zero():
    module = layer(batch_first=True)
    query, others = inputs()
    mask = torch.ones(2, 26, dtype=torch.bool)
    out = module(query, **others, spatial_shapes=SIZES, key_padding_mask=mask)
    torch.testing.assert_close(out, query + module.output_proj.bias)


@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        (dict(spatial_shapes=None), 'spatial_shapes got None'),
        (dict(reference_points=None), 'reference_points got the shape None'),
        (dict(reference_points=torch.rand(2, 7, 2, 3)), 'expected .B, Q, 2, 2.'),
        (dict(spatial_shapes=[(5, 4), (3, 3)]), 'value got 26 places, expected 29'),
        (dict(spatial_shapes=[(5, 4)]), r'spatial_shapes got .* expected 2 levels'),
        (dict(spatial_shapes=[5, 4, 3, 2]), 'level_shapes got .* expected one pair'),
        (dict(reference_points=torch.rand(2, 7, 3, 2)), 'expected .B, Q, 2, 2.'),
        (
            dict(key_padding_mask=torch.ones(2, 7, dtype=torch.bool)),
            r'key_padding_mask got torch.bool of the shape \(2, 7\), expected',
        ),
        (
            dict(key_padding_mask=torch.ones(2, 26)),
            'key_padding_mask got torch.float32 .* expected torch.bool',
        ),
    ],
)
def test_bad_input(changed, message):
    query, others = inputs()
    with pytest.raises(ValueError, match=message):
        layer(batch_first=True)(query, **{**others, 'spatial_shapes': SIZES, **changed})


def test_bad_channels():
    with pytest.raises(ValueError, match='embed_dims got 15'):
        MultiScaleDeformableAttention(embed_dims=15, num_heads=4)
