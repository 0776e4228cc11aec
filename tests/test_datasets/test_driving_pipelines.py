"""Pipelines of the adaptation configs on made-up files, and pseudo-label margins."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.runner import Runner
from mmseg.registry import MODELS

from mmseg_xmodal.datasets import cached_class_stats
from mmseg_xmodal.datasets.transforms import PseudoLabelMargins

from .helpers import run
from .labelled import QUICK, write_image
from .test_driving import build, write_gta

BASES = Path(__file__).resolve().parents[2] / 'configs/_base_/datasets'
CROP = (24, 24)


def write(path: Path, height: int, width: int, rare: int) -> None:
    """A label map of road and sky with a block of a rare class in a corner."""
    labels = np.zeros((height, width), np.uint8)
    labels[: height // 2] = 10
    labels[:10, :10] = rare
    write_image(path, labels)


def write_data(root: Path) -> None:
    """GTA5 and Cityscapes at a fortieth of their size, two images each."""
    for number in range(2):
        image = np.full((26, 48, 3), 100 + number, np.uint8)
        write_image(root / f'gta/images/{number}.png', image)
        write(root / f'gta/labels/{number}_labelTrainIds.png', 26, 48, 16)
        for split in ('train', 'val'):
            end = f'{split}/bonn/bonn_{number}'
            image = np.full((26, 52, 3), 50 + number, np.uint8)
            write_image(root / f'cs/leftImg8bit/{end}_leftImg8bit.png', image)
            write(root / f'cs/gtFine/{end}_gtFine_labelTrainIds.png', 26, 52, 17)


def small(name: str, root: Path) -> Config:
    """A base config with the sizes of :func:`write_data`."""
    cfg = Config.fromfile(BASES / f'{name}.py')
    source, target = cfg.train_dataloader.dataset.datasets
    source.update(data_root=str(root / 'gta'), **QUICK)
    target.update(data_root=str(root / 'cs'), **QUICK)
    source.pipeline[2].scale = (64, 36)
    source.pipeline[3].update(crop_size=CROP, min_pixels=50, max_tries=500)
    for step in target.pipeline:
        if step.type == 'Resize':
            step.scale = (52, 26)
        elif step.type == 'RandomCrop':
            step.crop_size = CROP
        elif step.type == 'mmseg_xmodal.PseudoLabelMargins':
            step.update(top=2, bottom=6, left=1, right=1)
    cfg.train_dataloader.sampler.samplers[0].min_pixels = 50
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.train_dataloader.collate_fn = dict(type='pseudo_collate')
    return cfg


@pytest.mark.parametrize('name', ['gta2cityscapes', 'gta2cityscapes_hr'])
def test_batches_of_both_domains(name, tmp_path):
    write_data(tmp_path)
    cfg = small(name, tmp_path)
    batches = iter(Runner.build_dataloader(cfg.train_dataloader, seed=0))
    preprocessor = MODELS.build(
        dict(
            type='mmseg_xmodal.ModalityPreprocessor',
            modalities=cfg.modalities,
            size=CROP,
        )
    )
    seen = []
    for _ in range(20):
        batch = preprocessor(next(batches), training=True)
        assert batch['inputs'].shape == (4, 3, *CROP)
        samples = batch['data_samples']
        names = [s.metainfo['source'] for s in samples]
        assert names == ['source'] * 2 + ['target'] * 2
        assert all('gt_sem_seg' in s for s in samples[:2])
        assert all('gt_sem_seg' not in s for s in samples[2:])
        # Every source image was drawn for the rarest class, and shows it.
        assert all((s.gt_sem_seg.data == 16).sum() > 50 for s in samples[:2])
        margins = [s.get('gt_pseudo_valid') for s in samples]
        assert margins[:2] == [None, None]
        assert (margins[2] is not None) == name.endswith('_hr')
        seen += [m.data[0] for m in margins[2:] if m is not None]
    if not seen:
        return
    counts = {tuple(rows.any(1).tolist()) for rows in seen}
    # Crops of 24 of 26 rows without the first 2 and the last 6.
    for top in range(3):
        kept = [2 <= top + row < 20 for row in range(24)]
        assert tuple(kept) in counts
    assert len(counts) == 3


def test_margins_move_with_the_image():
    image = np.zeros((20, 30, 3), np.uint8)
    image[3:14, 1:25] = 9
    results = dict(img=image, img_shape=(20, 30), img_path='a.png', seg_fields=[])
    moved = run(
        results,
        [
            PseudoLabelMargins(top=3, bottom=6, left=1, right=5),
            dict(type='RandomFlip', prob=1.0, direction='horizontal'),
            dict(type='RandomCrop', crop_size=(12, 17)),
        ],
    )
    assert moved['gt_pseudo_valid'].dtype == np.uint8
    expected = (moved['img'][..., 0] == 9).astype(np.uint8)
    assert 0 < expected.mean() < 1
    assert np.array_equal(moved['gt_pseudo_valid'], expected)


def test_margins_that_cannot_be():
    with pytest.raises(ValueError, match='expected 0 or more pixels'):
        PseudoLabelMargins(top=-1)
    image = np.zeros((20, 30, 3), np.uint8)
    for wrong in (dict(top=12, bottom=8), dict(left=30)):
        with pytest.raises(ValueError, match=r"nothing of 'a.png', 20 x 30"):
            PseudoLabelMargins(**wrong)(dict(img=image, img_path='a.png'))


def test_statistics_notice_an_ontology(tmp_path):
    write_gta(tmp_path)
    path = str(tmp_path / 'stats.json')
    whole = cached_class_stats(build('GTA5', tmp_path), path)
    assert whole.pixels[[0, 9, 10]].tolist() == [4, 4, 4]
    reduced = build('GTA5', tmp_path, ontology='synthia16')
    stats = cached_class_stats(reduced, path)
    assert stats.classes == reduced.metainfo['classes']
    assert stats.pixels.sum() == 16
    assert stats.ignored.tolist() == [8]
    # Two classes change places under the same names and number of pixels: a stale
    # file would pass a comparison of the class list alone.
    swapped = dict(classes=stats.classes, map=dict(road='sky', sky='road'))
    swapped['map'] |= dict.fromkeys(('terrain', 'truck', 'train'))
    swapped['map']['rider'] = None
    again = cached_class_stats(build('GTA5', tmp_path, ontology=swapped), path)
    assert again.classes == stats.classes
    assert again.ignored.tolist() == [12]
