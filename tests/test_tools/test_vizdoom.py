"""The ViZDoom converter: alignment, calibration, statistics, determinism, errors."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import wave
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from mmseg_xmodal.datasets import ViZDoomDataset
from mmseg_xmodal.registry import DATASETS

REPO = Path(__file__).resolve().parents[2]
TOOL = REPO / 'tools/dataset_converters/vizdoom.py'
CONFIG = REPO / 'configs/_base_/datasets/vizdoom_rgbd.py'
SIZE = ['--size', '160', '120']
FLAGS = ['--frames', '14', '5', '5', '--levels', '6', '--seed', '3', *SIZE]
SPLITS = ('train', 'val', 'test')
FLOOR, LEDGE, PIT, CEILING, SKY = range(1, 6)


@pytest.fixture(scope='module')
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set, made as a user does."""
    pytest.importorskip('vizdoom')
    out = tmp_path_factory.mktemp('doom') / 'set'
    command = [sys.executable, str(TOOL), str(out), *FLAGS]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=out.parent
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in out.parent.iterdir()] == ['set']
    assert '24/24 frames' in done.stderr
    assert 'monster' in done.stdout
    return out


def read(root: Path, part: str, split: str, stem: str) -> np.ndarray:
    image = cv2.imread(str(root / part / split / f'{stem}.png'), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return image


def samples(root: Path) -> list[tuple[str, dict]]:
    return [
        (split, frame)
        for split in SPLITS
        for frame in json.loads((root / f'frames_{split}.json').read_text())
    ]


def metres(root: Path, stored: np.ndarray) -> np.ndarray:
    calibration = json.loads((root / 'calibration.json').read_text())
    return stored * calibration['scale'] + calibration['offset']


def test_files_and_splits(made: Path) -> None:
    meta = json.loads((made / 'meta.json').read_text())
    assert meta['complete'] is True
    levels = [set(meta['levels'][split]) for split in SPLITS]
    assert [len(names) for names in levels] == [4, 1, 1]
    assert not levels[0] & levels[1]
    assert not (levels[0] | levels[1]) & levels[2]
    for split, names, count in zip(SPLITS, levels, (14, 5, 5), strict=True):
        for part in ('rgb', 'depth', 'labels'):
            assert len(list((made / part / split).glob('*.png'))) == count
        frames = json.loads((made / f'frames_{split}.json').read_text())
        assert {frame['level'] for frame in frames} <= names
    assert not (made / 'audio').exists()


def test_same_seed_gives_the_same_bytes(
    made: Path, tool: ModuleType, tmp_path: Path
) -> None:
    assert tool.main([str(tmp_path / 'again'), *FLAGS]) == 0
    files = sorted(p.relative_to(made) for p in made.rglob('*') if p.is_file())
    again = sorted(
        p.relative_to(tmp_path / 'again')
        for p in (tmp_path / 'again').rglob('*')
        if p.is_file()
    )
    assert files == again
    assert len(files) == 3 * 24 + 3 + 3 + 2
    for name in files:
        assert (made / name).read_bytes() == (tmp_path / 'again' / name).read_bytes()


def test_level_camera_tells_floor_from_ceiling(made: Path) -> None:
    above = below = 0
    for split, frame in samples(made):
        labels = read(made, 'labels', split, frame['stem'])
        assert not (labels[60:] == CEILING).any()
        assert not np.isin(labels[:60], [FLOOR, LEDGE, PIT]).any()
        above += (labels == CEILING).sum()
        below += (labels == FLOOR).sum()
    assert above > 1000
    assert below > 1000


def test_floor_depth_follows_from_the_row(made: Path) -> None:
    """With the eye 41 units up, row and focal length give the distance of the floor."""
    camera = json.loads((made / 'calibration.json').read_text())['camera']
    rows = np.arange(90, 120)
    expected = camera['eye_height'] * camera['fy'] / (rows + 0.5 - camera['cy'])
    close = []
    for split, frame in samples(made):
        depth = read(made, 'depth', split, frame['stem'])[90:]
        labels = read(made, 'labels', split, frame['stem'])[90:]
        error = np.abs(metres(made, depth) - expected[:, None])
        close.append((error < 0.25)[labels == FLOOR])
    # The rest are floors of other heights.
    assert np.concatenate(close).mean() > 0.7


def test_heights_are_those_of_the_map(made: Path, tool: ModuleType) -> None:
    """Floor, ledge and pit against the map's floor under the pixel."""
    level_type = importlib.import_module('doom_level').Level
    game_file = importlib.import_module('doom_engine').game_file
    calibration = json.loads((made / 'calibration.json').read_text())
    camera, metre = calibration['camera'], calibration['units_per_metre']
    right, counts = [], np.zeros(3, dtype=int)
    for split, frame in samples(made):
        level = level_type.from_wad(*locate(frame['level'], game_file))
        labels = read(made, 'labels', split, frame['stem'])
        z = metres(made, read(made, 'depth', split, frame['stem'])) * metre
        rows, columns = np.nonzero(np.isin(labels, [FLOOR, LEDGE, PIT]))
        rows, columns = rows[::7], columns[::7]
        angle = np.deg2rad(frame['angle'])
        side = (columns + 0.5 - camera['cx']) / camera['fx']
        ahead = np.array([np.cos(angle), np.sin(angle)])
        across = np.array([np.sin(angle), -np.cos(angle)])
        places = z[rows, columns, None] * (ahead + side[:, None] * across)
        sector = level.sector_at(places + np.array(frame['position'][:2]))
        height = level.floor[sector] - frame['position'][2]
        expected = np.select([height > 12, height < -12], [LEDGE, PIT], FLOOR)
        # The edges themselves are as uncertain as the depth.
        right.append((expected == labels[rows, columns])[sector >= 0])
        counts += [np.sum(labels == n) for n in (FLOOR, LEDGE, PIT)]
    assert np.concatenate(right).mean() > 0.95
    assert counts.min() > 200


def locate(level: str, game_file: Callable[[str], Path]) -> tuple[Path, str]:
    game, name = level.split('_')
    return game_file(game), name


def test_objects_stand_where_depth_says(made: Path) -> None:
    """The engine's position of an object against the depth under its label."""
    errors = []
    for split in SPLITS:
        content = json.loads((made / f'boxes_{split}.json').read_text())
        stems = {i['id']: Path(i['file_name']).stem for i in content['images']}
        for box in content['annotations']:
            labels = read(made, 'labels', split, stems[box['image_id']])
            depth = read(made, 'depth', split, stems[box['image_id']])
            x, y, w, h = box['bbox']
            part = (slice(y, y + h), slice(x, x + w))
            mask = (labels[part] == box['category_id']) & (depth[part] > 0)
            assert (labels[part] == box['category_id']).sum() >= box['area'] > 0
            if box['area'] < 60 or box['distance'] > 20:
                continue
            found = np.abs(metres(made, depth[part][mask]) - box['distance'])
            errors.append(np.median(found) / box['distance'])
    assert len(errors) > 30
    # Another object of the class may stand in the same box, hence not the maximum.
    assert np.quantile(errors, 0.8) < 0.12


def test_boxes_are_tight_around_their_class(made: Path) -> None:
    content = json.loads((made / 'boxes_train.json').read_text())
    names = {c['id']: c['name'] for c in content['categories']}
    classes = ViZDoomDataset.METAINFO['classes']
    assert names == {i: n for i, n in enumerate(classes) if i > SKY}
    stems = {i['id']: Path(i['file_name']).stem for i in content['images']}
    for box in content['annotations']:
        labels = read(made, 'labels', 'train', stems[box['image_id']])
        mask = labels == box['category_id']
        x, y, w, h = box['bbox']
        for edge in (
            mask[y, x : x + w],
            mask[y + h - 1, x : x + w],
            mask[y : y + h, x],
            mask[y : y + h, x + w - 1],
        ):
            assert edge.any()


def test_sky_and_far_end_have_no_depth(made: Path) -> None:
    sky = 0
    for split, frame in samples(made):
        labels = read(made, 'labels', split, frame['stem'])
        depth = read(made, 'depth', split, frame['stem'])
        assert (depth < 255).all()
        assert (depth[labels == SKY] == 0).all()
        sky += (labels == SKY).sum()
    assert sky > 1000


def test_statistics_are_those_of_the_files(made: Path) -> None:
    meta = json.loads((made / 'meta.json').read_text())
    classes = ViZDoomDataset.METAINFO['classes']
    for split in SPLITS:
        stems = [f['stem'] for s, f in samples(made) if s == split]
        labels = np.stack([read(made, 'labels', split, stem) for stem in stems])
        assert set(np.unique(labels)) <= {*range(len(classes)), 255}
        said = meta['statistics'][split]
        for number, name in enumerate(classes):
            share = (labels == number).mean()
            assert said['pixel_share'][name] == pytest.approx(share, abs=1e-5)
            frames = (labels == number).any(axis=(1, 2)).mean()
            assert said['frame_share'][name] == pytest.approx(frames, abs=1e-5)
    assert set(meta['rejected']) <= {'outside or stuck', 'one wall', 'mostly sky'}


def test_config_and_data_set_agree_with_the_converter(
    made: Path, tool: ModuleType
) -> None:
    calibration = json.loads((made / 'calibration.json').read_text())
    config = Config.fromfile(CONFIG)
    depth = config.modalities.depth
    for key in ('scale', 'offset', 'invalid', 'unit'):
        assert depth[key] == calibration[key]
    measured = calibration['measured_on_floor']
    scale = measured['units_per_step'] / calibration['units_per_metre']
    assert scale == pytest.approx(depth['scale'], rel=0.01)
    offset = measured['offset_units'] / calibration['units_per_metre']
    assert offset == pytest.approx(depth['offset'], abs=depth['scale'] / 2)
    assert measured['samples'] > 1000
    classes = importlib.import_module('doom_classes').CLASSES
    assert ViZDoomDataset.METAINFO['classes'] == classes
    assert config.num_classes == len(classes) == len(ViZDoomDataset.METAINFO['palette'])


@pytest.mark.parametrize(('split', 'count'), [('train', 14), ('val', 5), ('test', 5)])
def test_config_builds_the_data_set(made: Path, split: str, count: int) -> None:
    config = Config.fromfile(CONFIG)[f'{split}_dataloader'].dataset
    dataset = DATASETS.build({**config, 'data_root': str(made)})
    assert len(dataset) == count
    sample = dataset[0]
    depth = sample['inputs'][3]
    # Metres from the near end to the far end; invalid places are 0.
    assert depth.max() > 2
    assert depth.max() < 57.6
    labels = sample['data_samples'].gt_sem_seg.data
    assert labels.shape[-2:] == sample['inputs'].shape[-2:]


def test_clip_walks_forward_and_another_seed_gives_other_frames(
    made: Path, tool: ModuleType, tmp_path: Path
) -> None:
    flags = ['--frames', '6', '3', '3', '--levels', '3', '--clip', '3', *SIZE]
    assert tool.main([str(tmp_path / 'clips'), *flags]) == 0
    frames = [frame for _, frame in samples(tmp_path / 'clips')]
    moved = 0
    for first, second in zip(frames[:-1], frames[1:], strict=True):
        if second['time']:
            assert second['clip'] == first['clip']
            assert second['time'] == first['time'] + 1
            assert second['angle'] == pytest.approx(first['angle'], abs=0.01)
            moved += second['position'] != first['position']
    assert moved >= 3
    seen = {path.read_bytes() for path in made.rglob('rgb/*/*.png')}
    assert not {path.read_bytes() for path in tmp_path.rglob('rgb/*/*.png')} & seen


def has_openal(tool: ModuleType) -> bool:
    try:
        importlib.import_module('doom_engine').require_openal()
    except RuntimeError:
        return False
    return True


def test_audio_belongs_to_each_frame(tool: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip('vizdoom')
    if not has_openal(tool):
        pytest.skip('libopenal1 is not installed')
    flags = ['--frames', '2', '1', '1', '--levels', '3', '--audio', *SIZE]
    assert tool.main([str(tmp_path / 'set'), *flags]) == 0
    loud = 0
    for split, frame in samples(tmp_path / 'set'):
        path = tmp_path / 'set/audio' / split / f'{frame["stem"]}.wav'
        with wave.open(str(path)) as file:
            assert file.getframerate() == 22050
            assert file.getnframes() == 22050
            sound = np.frombuffer(file.readframes(22050), dtype='<i2')
        loud += np.abs(sound.astype(int)).max() > 100
    assert loud >= 1
