from __future__ import annotations

import pytest
import torch

from mmseg_xmodal.models.layers.multi_scale_deformable import (
    MultiScaleDeformableAttention,
)

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


def test_the_names_of_the_state_dict():
    names = {name.split('.')[0] for name in layer().state_dict()}
    assert names == {
        'sampling_offsets',
        'attention_weights',
        'value_proj',
        'output_proj',
    }


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
    ],
)
def test_bad_input(changed, message):
    query, others = inputs()
    with pytest.raises(ValueError, match=message):
        layer(batch_first=True)(query, **{**others, 'spatial_shapes': SIZES, **changed})


def test_bad_channels():
    with pytest.raises(ValueError, match='embed_dims got 15'):
        MultiScaleDeformableAttention(embed_dims=15, num_heads=4)
