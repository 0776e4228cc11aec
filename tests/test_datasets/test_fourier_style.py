"""Images in the style of another domain, stock ones and those of a stack."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from mmcv.transforms.utils import cache_random_params

from mmseg_xmodal.datasets.transforms import FourierStyle, OnModalities

from .helpers import load_arrays, run

SIZE = (20, 28)
BETA = 0.12  # a band of 2
MODALITIES = dict(
    rgb=dict(channels=3, order='rgb'), depth=dict(channels=1, invalid=0, unit='m')
)


def picture(seed: int, size: tuple[int, int] = SIZE, high: int = 256) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, high, (*size, 3), dtype=np.uint8)


@pytest.fixture
def styles(tmp_path: Path) -> Path:
    """Three images, one of them in a subfolder, and a file of another kind."""
    root = tmp_path / 'styles'
    (root / 'night').mkdir(parents=True)
    cv2.imwrite(str(root / 'a.png'), picture(1))
    cv2.imwrite(str(root / 'b.png'), picture(2, high=60))
    cv2.imwrite(str(root / 'night/c.png'), picture(3))
    (root / 'notes.txt').write_text('no image')
    return root


def by_hand(image: np.ndarray, style: np.ndarray, band: int) -> np.ndarray:
    """Shifted spectra: the middle square of 2 * band amplitudes is exchanged."""
    out = np.empty(image.shape)
    rows, columns = (slice(n // 2 - band, n // 2 + band) for n in image.shape[:2])
    for c in range(3):
        own = np.fft.fftshift(np.fft.fft2(image[..., c].astype(float)))
        other = np.fft.fftshift(np.fft.fft2(style[..., c].astype(float)))
        amplitude = np.abs(own)
        amplitude[rows, columns] = np.abs(other)[rows, columns]
        mixed = np.fft.ifftshift(amplitude * np.exp(1j * np.angle(own)))
        out[..., c] = np.fft.ifft2(mixed).real
    return np.clip(np.rint(out), 0, 255).astype(np.uint8)


def test_formula_on_a_stock_image(styles: Path) -> None:
    """Even sides, where the square of the shifted spectrum is the published band."""
    image = picture(9)
    before = image.copy()
    expected = [by_hand(image, picture(i, high=h), 2) for i, h in ((1, 256), (2, 60))]
    expected.append(by_hand(image, picture(3), 2))
    seen = set()
    for seed in range(12):
        out = run(dict(img=image), [FourierStyle(str(styles), beta=BETA)], seed)['img']
        assert out.dtype == np.uint8
        # Single against double precision may round the other way.
        near = [np.abs(out.astype(int) - e).max() <= 1 for e in expected]
        assert sum(near) == 1
        assert (out == expected[near.index(True)]).mean() > 0.99
        seen.add(near.index(True))
    assert seen == {0, 1, 2}
    assert np.array_equal(image, before)


def test_only_the_colour_of_a_stack_changes(styles: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    depth = rng.uniform(1, 9, SIZE).astype(np.float32)
    depth[3:6] = 0
    arrays = dict(rgb=picture(9)[..., ::-1], depth=depth)
    transform = dict(type='mmseg_xmodal.FourierStyle', style_root=str(styles), beta=0.1)
    plain = load_arrays(tmp_path, MODALITIES, arrays)
    done = run(load_arrays(tmp_path, MODALITIES, arrays), [transform], seed=4)
    alone = run(dict(img=picture(9)), [transform], seed=4)
    assert done['img'].dtype == plain['img'].dtype == np.float32
    assert np.array_equal(done['img'][..., :3], alone['img'])
    assert np.array_equal(done['img'][..., 3:], plain['img'][..., 3:])
    assert not np.array_equal(done['img'][..., :3], plain['img'][..., :3])
    nested = run(plain, [OnModalities(['rgb'], [transform])], seed=4)
    assert np.array_equal(nested['img'], done['img'])


def test_styles_of_another_size_are_resized(tmp_path: Path) -> None:
    style = picture(1, (33, 50))
    for name, image in (
        ('large', style),
        ('fits', cv2.resize(style, SIZE[::-1], interpolation=cv2.INTER_LINEAR)),
    ):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / 'x.png'), image)
    large, fits = (
        run(dict(img=picture(9)), [FourierStyle(str(tmp_path / n), beta=BETA)])['img']
        for n in ('large', 'fits')
    )
    assert np.array_equal(large, fits)


def test_kinds_of_files(tmp_path: Path) -> None:
    """RGB in arrays, alpha, and grey."""
    colour = picture(1)
    grey = colour[..., 0]
    kinds = dict(
        colour=colour,
        alpha=np.dstack([colour, grey]),
        grey=grey,
        three=np.repeat(grey[..., None], 3, -1),
    )
    for name, image in kinds.items():
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / 'x.png'), image)
    (tmp_path / 'array').mkdir()
    np.save(tmp_path / 'array/x.npy', colour[..., ::-1])

    def styled(name: str, suffix: str = '.png') -> np.ndarray:
        transform = FourierStyle(str(tmp_path / name), suffix=suffix, beta=BETA)
        return run(dict(img=picture(9)), [transform])['img']

    assert np.array_equal(styled('colour'), styled('alpha'))
    assert np.array_equal(styled('colour'), styled('array', '.npy'))
    assert np.array_equal(styled('grey'), styled('three'))
    assert not np.array_equal(styled('grey'), styled('colour'))


def test_draws(styles: Path) -> None:
    image = picture(9)
    never = FourierStyle(str(styles), beta=BETA, prob=0.0)
    assert run(dict(img=image), [never])['img'] is image
    listed = styles / 'list.txt'
    listed.write_text('night/c\n\n')
    one = FourierStyle(str(styles), '.png', str(listed), beta=BETA)
    outs = [run(dict(img=image), [one], seed)['img'] for seed in range(3)]
    assert all(np.array_equal(out, outs[0]) for out in outs)
    assert np.abs(outs[0].astype(int) - by_hand(image, picture(3), 2)).max() <= 1
    many = FourierStyle(str(styles), beta=BETA)
    np.random.seed(0)  # noqa: NPY002
    free = {many(dict(img=image))['img'].tobytes() for _ in range(12)}
    assert len(free) == 3
    with cache_random_params(many):
        held = {many(dict(img=image))['img'].tobytes() for _ in range(12)}
    assert len(held) == 1
    half = FourierStyle(str(styles), beta=BETA, prob=0.5)
    same = [np.array_equal(half(dict(img=image))['img'], image) for _ in range(60)]
    assert 15 < sum(same) < 45


def test_bad_input_is_named(styles: Path, tmp_path: Path) -> None:
    image = dict(img=picture(9), img_path='x.png')
    with pytest.raises(ValueError, match='FourierStyle has beta=0.6'):
        FourierStyle(str(styles), beta=0.6)
    with pytest.raises(ValueError, match='prob=2'):
        FourierStyle(str(styles), prob=2)
    with pytest.raises(ValueError, match='one suffix'):
        FourierStyle(str(styles), ann_file='list.txt')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty.*none of \['.png'"):
        FourierStyle(str(tmp_path / 'empty'))(dict(image))
    with pytest.raises(FileNotFoundError, match="folder 'nowhere' does not exist"):
        FourierStyle('nowhere')(dict(image))
    with pytest.raises(FileNotFoundError, match="'no.txt' does not exist"):
        FourierStyle(str(styles), '.png', 'no.txt')(dict(image))
    with pytest.raises(ValueError, match=r"'x.png'.*expected \(H, W, 3\)"):
        FourierStyle(str(styles))(dict(image, img=np.zeros((8, 8, 2), np.uint8)))
    (tmp_path / 'deep').mkdir()
    cv2.imwrite(str(tmp_path / 'deep/x.png'), picture(1).astype(np.uint16))
    with pytest.raises(ValueError, match='holds uint16'):
        FourierStyle(str(tmp_path / 'deep'))(dict(image))
    stack = load_arrays(
        tmp_path, MODALITIES, dict(rgb=picture(9), depth=np.ones(SIZE, np.float32))
    )
    with pytest.raises(ValueError, match="'depth' has no order"):
        FourierStyle(str(styles), name='depth')(stack)
