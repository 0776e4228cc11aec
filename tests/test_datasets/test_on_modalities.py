from __future__ import annotations

import numpy as np
import pytest
from mmseg.registry import TRANSFORMS as MMSEG_TRANSFORMS

from mmseg_xmodal.datasets.transforms import OnModalities

from .helpers import load_arrays, run

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (12, 16, 3), dtype=np.uint8)
RGB = dict(channels=3, order='rgb')
DEPTH8 = dict(channels=1, dtype='uint8', invalid=0)
METRES = dict(channels=1, dtype='uint16', scale=0.001, invalid=0)


class Add:
    """Adds in the storage type, and keeps what it was given."""

    def __init__(self, amount):
        self.amount = amount

    def __call__(self, results):
        self.given = results['img']
        self.seen = results['img'].copy()
        results['img'] += np.array(self.amount, results['img'].dtype)
        return results


@pytest.mark.parametrize(
    'stock',
    [
        dict(type='PhotoMetricDistortion'),
        dict(type='CLAHE'),
        dict(type='AdjustGamma', gamma=1.4),
    ],
    ids=lambda cfg: cfg['type'],
)
@pytest.mark.parametrize('other', [DEPTH8, METRES], ids=['uint8', 'float'])
def test_equals_the_stock_transform(tmp_path, stock, other):
    dtype = np.dtype(other['dtype'])
    depth = RNG.integers(0, 200, (12, 16)).astype(dtype)
    modalities = dict(rgb=RGB, depth=other)
    before = load_arrays(tmp_path, modalities, dict(rgb=COLOUR, depth=depth))
    layout = before['modality_layout']
    image = np.ascontiguousarray(
        before['img'][..., layout.value_slice('rgb')].astype(np.uint8)
    )
    want = run(dict(img=image), [dict(stock)], seed=7)['img']
    rest = before['img'][..., 3:].copy()
    results = run(
        before,
        [dict(type='mmseg_xmodal.OnModalities', names=['rgb'], transforms=[stock])],
        7,
    )
    got = results['img'][..., layout.value_slice('rgb')]
    assert got.dtype == layout.stack_dtype
    assert np.array_equal(got, want)
    assert np.array_equal(results['img'][..., 3:], rest)


def test_hands_over_the_storage_type_rounded(tmp_path):
    results = load_arrays(
        tmp_path,
        dict(rgb=RGB, depth=METRES),
        dict(rgb=COLOUR, depth=np.full((12, 16), 1500, np.uint16)),
    )
    results['img'][..., :3] += 0.4
    add_colour, add_depth = Add(0), Add(7)
    results = OnModalities(['rgb'], [add_colour])(results)
    results = OnModalities(['depth'], [add_depth])(results)
    assert add_colour.seen.dtype == np.uint8
    assert np.array_equal(add_colour.seen, COLOUR[..., ::-1])
    assert add_depth.seen.dtype == np.uint16
    assert (add_depth.seen == 1500).all()
    np.testing.assert_allclose(results['img'][..., 3], 1.507, rtol=1e-6)


def test_values_are_divided_by_validity_and_stay_out_of_holes(tmp_path):
    depth = np.full((12, 16), 2000, np.uint16)
    depth[4:6, 4:6] = 0
    results = load_arrays(tmp_path, dict(depth=METRES), dict(depth=depth))
    results = run(results, [dict(type='Resize', scale=(24, 18))])
    weight = results['img'][..., 1].copy()
    assert ((weight > 0) & (weight < 1)).any()
    add = Add(500)
    img = OnModalities(['depth'], [add])(results)['img']
    assert set(np.unique(add.seen)) == {0, 2000}
    assert np.array_equal(img[..., 1], weight)
    np.testing.assert_allclose(img[..., 0], 2.5 * weight, rtol=1e-5)


def test_a_group_is_one_image(tmp_path):
    modalities = dict(rgb=RGB, nir=dict(channels=1, dtype='uint8'))
    results = load_arrays(
        tmp_path, modalities, dict(rgb=COLOUR, nir=COLOUR[..., 0] // 2)
    )
    add = Add(1)
    img = OnModalities(['nir', 'rgb'], [add])(results)['img']
    assert add.seen.shape == (12, 16, 4)
    assert np.array_equal(img[..., 3], COLOUR[..., 0] // 2 + 1)
    assert np.array_equal(img[..., :3], COLOUR[..., ::-1] + np.uint8(1))


def test_float_results_are_rounded_and_clipped(tmp_path):
    results = load_arrays(tmp_path, dict(rgb=RGB), dict(rgb=COLOUR))

    def brighter(part):
        return {**part, 'img': part['img'].astype(np.float32) * 2 + 0.4}

    img = OnModalities(['rgb'], [brighter])(results)['img']
    want = np.minimum(COLOUR[..., ::-1].astype(int) * 2, 255)
    assert img.dtype == np.uint8
    assert np.array_equal(img, want)


def test_nested_transforms_get_a_contiguous_image_of_their_own(tmp_path):
    results = load_arrays(tmp_path, dict(rgb=RGB), dict(rgb=COLOUR))
    results = run(results, [dict(type='RandomFlip', prob=1.0)])
    add = Add(1)
    OnModalities(['rgb'], [add])(results)
    assert add.given.flags.c_contiguous
    assert not np.may_share_memory(add.given, results['img'])


def test_none_is_passed_on(tmp_path):
    results = load_arrays(tmp_path, dict(rgb=RGB), dict(rgb=COLOUR))
    assert OnModalities(['rgb'], [lambda part: None]).transform(results) is None


@pytest.mark.parametrize(
    ('transform', 'pattern'),
    [
        (dict(type='Resize', scale=(8, 6)), r'Resize.*\(12, 16, 3\).*\(6, 8, 3\)'),
        (dict(type='RGB2Gray', out_channels=1), r'RGB2Gray.*\(12, 16, 1\).*keep'),
        (dict(type='RandomFlip', prob=1.0), r"RandomFlip changed \['flip'.*outside"),
    ],
    ids=['resize', 'gray', 'flip'],
)
def test_refuses_geometry_and_other_channel_counts(tmp_path, transform, pattern):
    results = load_arrays(tmp_path, dict(rgb=RGB), dict(rgb=COLOUR))
    with pytest.raises(ValueError, match=pattern):
        OnModalities(['rgb'], [transform])(results)


def test_refuses_a_group_of_different_types(tmp_path):
    results = load_arrays(
        tmp_path,
        dict(rgb=RGB, depth=METRES),
        dict(rgb=COLOUR, depth=np.ones((12, 16), np.uint16)),
    )
    with pytest.raises(
        ValueError, match=r"'uint8'.*'uint16'.*one OnModalities for each"
    ):
        OnModalities(['rgb', 'depth'], [Add(1)])(results)


def test_refuses_a_name_instead_of_a_list():
    with pytest.raises(ValueError, match=r"names is 'rgb'.*\['rgb'\]"):
        OnModalities('rgb', [Add(1)])


def test_needs_a_layout():
    with pytest.raises(ValueError, match='modality_layout.*LoadModalities'):
        OnModalities(['rgb'], [Add(1)])(dict(img=COLOUR))


def test_takes_a_layout_of_its_own():
    transform = MMSEG_TRANSFORMS.build(
        dict(
            type='mmseg_xmodal.OnModalities',
            names=['rgb'],
            transforms=[Add(0)],
            modalities=dict(rgb=RGB),
        )
    )
    assert np.array_equal(transform(dict(img=COLOUR.copy()))['img'], COLOUR)
