from __future__ import annotations

import numpy as np
import pytest

from mmseg_xmodal.datasets.transforms import ModalityDropout

from .helpers import load_arrays

MODALITIES = dict(
    rgb=dict(channels=3, order='rgb', may_be_missing=True),
    depth=dict(channels=1, may_be_missing=True),
    nir=dict(channels=2, may_be_missing=True),
)
ARRAYS = dict(
    rgb=np.full((4, 5, 3), 9, np.uint8),
    depth=np.full((4, 5), 2, np.float32),
    nir=np.full((4, 5, 2), 3, np.float32),
)


@pytest.fixture
def sample(tmp_path):
    return load_arrays(tmp_path, MODALITIES, ARRAYS)


def dropped_in(results):
    layout, img = results['modality_layout'], results['img']
    return {n for n in layout.names if not img[..., layout.value_slice(n)].any()}


def test_drops_values_and_validity(sample):
    results = ModalityDropout(dropped=['depth'])(sample)
    layout, img = results['modality_layout'], results['img']
    assert results['dropped_modalities'] == ('depth',)
    assert dropped_in(results) == {'depth'}
    validity = {n: img[..., layout.stack_validity_index(n)] for n in layout.names}
    assert (validity['depth'] == 0).all()
    assert (validity['rgb'] == 1).all()
    assert (validity['nir'] == 1).all()


def test_always_keeps_one(tmp_path):
    kept = set()
    transform = ModalityDropout(prob=1.0, generator=np.random.default_rng(0))
    for _ in range(30):
        results = transform(load_arrays(tmp_path, MODALITIES, ARRAYS))
        left = set(MODALITIES) - dropped_in(results)
        assert len(left) == 1
        assert set(results['dropped_modalities']) == set(MODALITIES) - left
        kept |= left
    assert kept == set(MODALITIES)


def test_a_missing_file_does_not_count_as_kept(tmp_path):
    transform = ModalityDropout(prob=1.0, generator=np.random.default_rng(0))
    for _ in range(10):
        arrays = dict(ARRAYS, rgb=None, nir=None)
        results = transform(load_arrays(tmp_path, MODALITIES, arrays))
        assert results['img'][..., 3].all()


def test_frequencies(sample):
    transform = ModalityDropout(
        prob=dict(rgb=0.2, depth=0.5), generator=np.random.default_rng(1)
    )
    counts = dict.fromkeys(MODALITIES, 0)
    for _ in range(2000):
        names = transform(dict(sample, img=sample['img'].copy()))['dropped_modalities']
        for name in names:
            counts[name] += 1
    # Standard deviation of a share at n = 2000: at most .011.
    assert counts['rgb'] / 2000 == pytest.approx(0.2, abs=0.045)
    assert counts['depth'] / 2000 == pytest.approx(0.5, abs=0.045)
    assert counts['nir'] == 0


def test_the_draw_follows_numpys_global_state(sample):
    def draw(seed):
        np.random.seed(seed)  # noqa: NPY002
        transform = ModalityDropout(prob=0.5)
        copies = [dict(sample, img=sample['img'].copy()) for _ in range(20)]
        return [transform(c)['dropped_modalities'] for c in copies]

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


def test_the_draw_does_not_depend_on_the_order_of_the_dict(sample):
    def draw(names):
        prob = dict.fromkeys(names, 0.5)
        transform = ModalityDropout(prob, generator=np.random.default_rng(0))
        copies = [dict(sample, img=sample['img'].copy()) for _ in range(20)]
        return [transform(c)['dropped_modalities'] for c in copies]

    assert draw(['nir', 'depth']) == draw(['depth', 'nir'])


def test_refuses_to_drop_what_has_no_validity(tmp_path):
    modalities = dict(MODALITIES, rgb=dict(channels=3, order='rgb'))
    sample = load_arrays(tmp_path, modalities, ARRAYS)
    pattern = (
        r"'rgb'.*no validity channel.*modalities\['rgb'\]\['may_be_missing'\]=True"
    )
    for transform in (ModalityDropout(prob=0.3), ModalityDropout(dropped=['rgb'])):
        with pytest.raises(ValueError, match=pattern):
            transform(sample)
    assert ModalityDropout(prob=dict(rgb=0, depth=1.0))(sample)


def test_refuses_to_drop_everything(sample):
    with pytest.raises(ValueError, match='leaves none of'):
        ModalityDropout(dropped=list(MODALITIES))(sample)


def test_refuses_what_is_no_probability():
    with pytest.raises(ValueError, match=r'1\.5.*\[0, 1\]. Change it in the pipeline'):
        ModalityDropout(prob=dict(rgb=1.5))
