"""mmseg's geometric transforms treat 4 to 12 channels alike, uint8 and float32."""

from __future__ import annotations

import numpy as np
import pytest

from .helpers import run

TRANSFORMS = [
    dict(type='Resize', scale=(31, 23), keep_ratio=False),
    dict(type='Resize', scale_factor=0.5),
    dict(type='RandomResize', scale=(20, 16), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(11, 13)),
    dict(type='RandomFlip', prob=1.0, direction='horizontal'),
    dict(type='RandomFlip', prob=1.0, direction='diagonal'),
    dict(type='RandomRotate', prob=1.0, degree=30.0),
    dict(type='RandomRotate', prob=1.0, degree=30.0, auto_bound=True),
]


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
@pytest.mark.parametrize('channels', range(4, 13))
@pytest.mark.parametrize('transform', TRANSFORMS, ids=lambda t: t['type'])
def test_channels_are_treated_alike(transform, channels, dtype):
    """Equal channels stay equal, a channel of zeros stays zero, nothing is dropped."""
    rng = np.random.default_rng(channels)
    raster = rng.integers(1, 250, (20, 24)).astype(dtype)
    img = np.stack([raster] * (channels - 1) + [np.zeros_like(raster)], -1)
    labels = rng.integers(0, 4, (20, 24)).astype(np.uint8)
    results = run(
        dict(img=img, gt_seg_map=labels, seg_fields=['gt_seg_map']), [transform], 5
    )
    out = results['img']
    assert out.dtype == dtype
    assert out.shape == (*results['gt_seg_map'].shape, channels)
    for c in range(1, channels - 1):
        assert np.array_equal(out[..., c], out[..., 0])
    assert (out[..., -1] == 0).all()
    assert out[..., 0].max() > 0
