"""The pyramid of plain ViTs: sizes, and pixels that stay where they are."""

import pytest
import torch

from mmseg_xmodal.models.layers.vit_pyramid import STRIDES, ViTPyramid, resample

from .helpers import rand, without_gradient


@pytest.mark.parametrize('patch', [8, 14, 16, 32])
@pytest.mark.parametrize('size', [(1, 1), (15, 33), (61, 45), (64, 96), (224, 113)])
def test_four_strides_from_any_patch_and_size(patch: int, size: tuple[int, int]):
    pyramid = ViTPyramid([12], patch, (8, 10, 12, 14))
    grid = [-(-n // patch) for n in size]
    outs = pyramid([rand(2, 12, *grid)], size)
    expected = [
        (2, width, -(-size[0] // stride), -(-size[1] // stride))
        for width, stride in zip((8, 10, 12, 14), STRIDES, strict=True)
    ]
    assert [tuple(out.shape) for out in outs] == expected
    assert all(out.isfinite().all() for out in outs)


@pytest.mark.parametrize('factor', [3.5 / 4, 28 / 32, 10 / 8])
def test_resampling_keeps_pixel_centres(factor: float):
    """A ramp over the pixels of the image is the same ramp on the new grid."""
    new_stride = 8.0
    stride = new_stride * factor
    ramp = (torch.arange(12.0) + 0.5) * stride
    wanted = int(12 * factor) - 1
    out = resample(ramp.expand(1, 1, 12, 12), factor, (wanted, wanted))
    centres = (torch.arange(float(wanted)) + 0.5) * new_stride
    inside = (centres > stride / 2) & (centres < 11.5 * stride)
    assert inside.sum() > 6
    torch.testing.assert_close(out[0, 0, 0][inside], centres[inside])


def test_nothing_is_resampled_where_strides_are_met():
    assert ViTPyramid([8], 16).factors == [1, 1, 1, 1]
    assert ViTPyramid([8], 14).factors == [14 / 16] * 4
    x = rand(1, 3, 5, 6)
    assert torch.equal(resample(x, 1, (4, 6)), x[:, :, :4])


def test_one_map_for_all_levels_or_one_for_each():
    single, each = ViTPyramid([8], 16, 4), ViTPyramid([8] * 4, 16, 4)
    assert sum(p.numel() for p in single.parameters()) == sum(
        p.numel() for p in each.parameters()
    )
    each.load_state_dict(single.state_dict())
    x = rand(1, 8, 4, 4)
    for a, b in zip(single([x], (64, 64)), each([x] * 4, (64, 64)), strict=True):
        assert torch.equal(a, b)
    maps = [rand(1, 8, 4, 4, seed=i) for i in range(4)]
    outs = each(maps, (64, 64))
    for i in range(4):
        others = [m if j == i else m + 1e3 for j, m in enumerate(maps)]
        assert torch.equal(each(others, (64, 64))[i], outs[i])


def test_gradients_reach_every_parameter():
    pyramid = ViTPyramid([8], 14, 6)
    outs = pyramid([rand(1, 8, 5, 4)], (70, 56))
    sum((o * rand(*o.shape, seed=i)).sum() for i, o in enumerate(outs)).backward()
    # A bias before a norm over one place and all channels still counts.
    assert without_gradient(pyramid) == []


def test_errors():
    with pytest.raises(ValueError, match='got 2 maps.*expected 1 or 4 maps.*out_ind'):
        ViTPyramid([8, 8], 16)
    with pytest.raises(ValueError, match=r'channels \(8, 8\).*pyramid_channels'):
        ViTPyramid([8], 16, (8, 8))
