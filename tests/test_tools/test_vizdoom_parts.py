"""The parts of the ViZDoom converter, without the engine, and what users do wrong."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from mmseg_xmodal.datasets import ViZDoomDataset

FLOOR, LEDGE, PIT, CEILING, SKY = range(1, 6)


def test_missing_engine_names_the_command(
    tool: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    assert tool.main([str(tmp_path / 'x')]) == 1
    assert '`pip install vizdoom`' in capsys.readouterr().err
    assert not (tmp_path / 'x').exists()


def test_engine_without_the_levels_is_named(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = importlib.import_module('doom_engine')
    old = SimpleNamespace(__path__=[str(tmp_path)])
    monkeypatch.setattr(engine, 'require_engine', lambda: old)
    with pytest.raises(RuntimeError, match=r'freedoom2\.wad is missing.*--upgrade'):
        engine.game_file('freedoom2')


def test_missing_sound_library_names_the_command(
    tool: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip('vizdoom')
    engine = importlib.import_module('doom_engine')

    def missing(name: str) -> None:
        raise OSError(f'{name}: cannot open shared object file')

    monkeypatch.setattr(engine.ctypes.util, 'find_library', lambda name: None)
    monkeypatch.setattr(engine.ctypes, 'CDLL', missing)
    assert tool.main([str(tmp_path / 'x'), '--audio']) == 1
    assert '`apt install libopenal1`' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--size', '200', '150'], r'--size is 200 150, expected 640 480 divided by'),
        (['--size', '320', '320'], r'--size is 320 320, expected 640 480 divided by'),
        (['--levels', '2'], r'--levels is 2, expected 3 to 68'),
        (['--levels', '69'], r'--levels is 69, expected 3 to 68'),
        (['--frames', '3', '9', '9'], r'3 train frames of 32 levels.*lower --levels'),
        (['--clip', '0'], r'--clip is 0, expected 1 or more'),
        (['--clip-stride', '0'], r'--clip-stride is 0, expected 1 or more'),
        (['--seed', '-1'], r'--seed is -1, expected 0 or more'),
    ],
)
def test_wrong_options(
    tool: ModuleType, tmp_path: Path, flags: list[str], message: str
) -> None:
    pytest.importorskip('vizdoom')
    args = vars(tool.parse_args([str(tmp_path / 'x'), *flags]))
    args.pop('overwrite')
    with pytest.raises(ValueError, match=message):
        tool.make(tool.Options(**args))
    assert not (tmp_path / 'x').exists()


def test_output_folder_is_not_overwritten(tool: ModuleType, tmp_path: Path) -> None:
    (tmp_path / 'mine.txt').write_text('keep')
    with pytest.raises(FileExistsError, match=r'is not empty.*--overwrite'):
        tool.prepare(tmp_path, overwrite=False)
    with pytest.raises(FileExistsError, match=r'no meta\.json.*delete it yourself'):
        tool.prepare(tmp_path, overwrite=True)
    assert (tmp_path / 'mine.txt').read_text() == 'keep'
    (tmp_path / 'meta.json').write_text('{}')
    tool.prepare(tmp_path, overwrite=True)
    assert not (tmp_path / 'mine.txt').exists()
    assert json.loads((tmp_path / 'meta.json').read_text()) == {'complete': False}


def test_default_levels_are_split_without_overlap(tool: ModuleType) -> None:
    share_out = importlib.import_module('doom_levels').share_out
    default = tool.parse_args(['x']).levels
    for count in (3, 7, 20, default, 68):
        parts = [set(names) for names in share_out(count).values()]
        assert sum(len(names) for names in parts) == count
        assert len(set.union(*parts)) == count
    assert default >= 20
    assert {wad for wad, _ in share_out(default)['val']} == {'freedoom1', 'freedoom2'}


def test_plan_view_of_two_rooms(tool: ModuleType) -> None:
    """A square room with a higher one inside it."""
    module = importlib.import_module('doom_level')

    def square(low: float, high: float) -> list[list[float]]:
        corners = [(low, low), (low, high), (high, high), (high, low)]
        ends = zip(corners, corners[1:] + corners[:1], strict=True)
        return [[*start, *end] for start, end in ends]

    level = module.Level(
        lines=np.array(square(0, 400) + square(200, 300)),
        right=np.array([0] * 4 + [1] * 4),
        left=np.array([-1] * 4 + [0] * 4),
        floor=np.array([0.0, 24.0]),
        ceiling=np.array([128.0, 128.0]),
        things=np.zeros((0, 2)),
    )
    points = np.array([[50.0, 50.0], [250.0, 250.0], [500.0, 50.0], [-1.0, 250.0]])
    assert level.sector_at(points).tolist() == [0, 1, -1, -1]
    assert level.is_clear(np.array([100.0, 100.0]), 99)
    assert not level.is_clear(np.array([100.0, 100.0]), 101)
    start, east = np.array([100.0, 250.0]), np.array([0.0])
    over = level.opaque_lines(start, eye=41, reach=1000)
    assert module.free_distance(start, east, over)[0] == pytest.approx(300)
    against = level.opaque_lines(start, eye=20, reach=1000)
    assert module.free_distance(start, east, against)[0] == pytest.approx(100)


def test_rare_classes_are_named(tool: ModuleType) -> None:
    classes = ViZDoomDataset.METAINFO['classes']
    shares = dict.fromkeys(classes, 0.05)
    statistics = {
        'train': {'pixel_share': {**shares, 'lamp': 0.004}},
        'val': {'frame_share': {**shares, 'tree': 0.04}},
    }
    sentences = tool.too_rare(statistics)
    assert sentences == [
        'tree: in 4.0% of the val frames, wanted 5 %',
        'lamp: 0.40% of the training pixels, wanted 0.5 %',
    ]


def test_the_table_holds_counts_and_shares(tool: ModuleType, tmp_path: Path) -> None:
    module = importlib.import_module('doom_output')
    make = importlib.import_module('doom_frame').Frame
    writer = module.SplitWriter(tmp_path, 'train')
    image, depth = np.zeros((4, 5, 3), np.uint8), np.ones((4, 5), np.uint8)
    for number, ledges in enumerate((0, 5, 0)):
        classes = np.full((4, 5), FLOOR, np.uint8)
        classes[:1, :ledges] = LEDGE
        writer.add(f'{number}', make(image, depth, classes, ()), {})
    statistics = {'train': writer.statistics()}
    names = ViZDoomDataset.METAINFO['classes']
    assert statistics['train']['pixel_count'][names[LEDGE]] == 5
    assert statistics['train']['frame_count'][names[FLOOR]] == 3
    rows = [line.split() for line in tool.table(statistics).splitlines()]
    assert rows[0] == ['train:', '3', 'frames,', '0', 'boxes']
    assert [names[FLOOR], '55', '91.67', '3', '100.0'] in rows
    assert [names[LEDGE], '5', '8.33', '1', '33.3'] in rows


def test_calibration_refuses_another_engine(tool: ModuleType) -> None:
    module = importlib.import_module('doom_calibration')
    z = np.linspace(60, 1000, 400)
    right = (z - module.OFFSET_UNITS) / module.UNITS_PER_STEP
    fit = module.fit(np.stack([z, right], axis=1))
    assert fit.units_per_step == pytest.approx(module.UNITS_PER_STEP)
    with pytest.raises(RuntimeError, match='use vizdoom 1.3'):
        module.fit(np.stack([z, right * 1.2], axis=1))
    with pytest.raises(RuntimeError, match='saw 50 floor pixels, expected at least'):
        module.fit(np.stack([z, right], axis=1)[:50])


def test_frames_of_one_wall_or_sky_are_rejected(tool: ModuleType) -> None:
    module = importlib.import_module('doom_frame')
    scene = np.zeros((120, 160), dtype=np.uint8)
    depth = np.full((120, 160), 9, dtype=np.uint8)

    def why(classes: np.ndarray, depth: np.ndarray) -> str | None:
        return module.shows_little(module.Frame(scene, depth, classes, ()))

    wall = scene.copy()
    wall[-20:] = FLOOR
    assert why(wall, depth) == 'one wall'
    good = scene.copy()
    good[-60:] = FLOOR
    assert why(good, depth) is None
    depth[:90] = 0
    assert why(good, depth) == 'mostly sky'
    view = SimpleNamespace(position=(0.0, 0.0, 8.0), eye=41.0)
    assert not module.misplaced(view, floor=8.0)
    assert module.misplaced(view, floor=0.0)
    view.eye = 20.5
    assert module.misplaced(view, floor=8.0)


def test_ledge_pit_and_ceiling_follow_from_row_and_step(tool: ModuleType) -> None:
    module = importlib.import_module('doom_frame')
    # 41 units below the eye at 41 * 384 / 100.5 = 156.7 units: step 19.9.
    rows = np.array([-100.5, 100.5])
    steps = np.array([[20, 20, 20, 255], [20, 13, 28, 255]], dtype=np.uint8)
    classes = module._flat_classes(rows, steps, eye=41.0)
    assert classes.tolist() == [[CEILING] * 4, [FLOOR, LEDGE, PIT, 255]]
