"""The run: levels, scenes, rejections, files."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import doom_calibration
import numpy as np
from doom_classes import CLASSES, OBJECT_CLASSES
from doom_engine import Engine, View, game_file
from doom_frame import make_frame, misplaced, reduction, shows_little
from doom_level import Level
from doom_levels import ALL_LEVELS, GAMES, SPLITS, share_out
from doom_output import Progress, SplitWriter
from doom_scene import Scene, SceneSampler

# Object pixels aimed at, relative to each other: what is small stays small.
_WANTED = dict(monster=2.0, tree=1.6, pillar=1.2, lamp=1.0, barrel=1.0, item=0.9)
_TRIES_PER_FRAME = 12
# Per level; about a hundred floor pixels in each.
_CALIBRATION_VIEWS = 2


@dataclasses.dataclass(frozen=True)
class Options:
    """What to make; see the command line of `vizdoom.py`."""

    out: Path
    frames: tuple[int, int, int] = (1500, 300, 300)
    size: tuple[int, int] = (320, 240)
    levels: int = 48
    seed: int = 0
    clip: int = 1
    clip_stride: int = 4
    audio: bool = False

    def check(self) -> None:
        """Refuse what cannot be made.

        Raises:
            ValueError: With the option, its value and what is expected.
        """
        reduction(*self.size)
        levels = share_out(self.levels)
        for split, count in zip(SPLITS, self.frames, strict=True):
            if count < len(levels[split]):
                raise ValueError(
                    f'--frames asks for {count} {split} frames of {len(levels[split])} '
                    'levels, expected at least one a level: lower --levels.'
                )
        for name in ('clip', 'clip_stride'):
            if getattr(self, name) < 1:
                raise ValueError(
                    f'--{name.replace("_", "-")} is {getattr(self, name)}, expected 1 '
                    'or more.'
                )
        if self.seed < 0:
            raise ValueError(f'--seed is {self.seed}, expected 0 or more.')


class Generator:
    """Makes a data set.

    Args:
        options: What to make.
    """

    def __init__(self, options: Options) -> None:
        options.check()
        self._options = options
        self._factor = reduction(*options.size)
        self._rejected: Counter[str] = Counter()
        self._engines: dict[str, Engine] = {}
        self._floor: list[np.ndarray] = []
        self._wanted = np.array([_WANTED[name] for name in OBJECT_CLASSES])

    def run(self) -> dict[str, Any]:
        """Render and write all splits.

        Returns:
            The content of `meta.json` without versions: levels, rejections, statistics,
            `calibration` (a `doom_calibration.Fit`) and `frames_per_second`.

        Raises:
            RuntimeError: If the levels do not yield the frames, or the depth does not
                fit its calibration.
        """
        with contextlib.ExitStack() as stack:
            for wad in GAMES:
                engine = Engine(wad, self._options.seed, self._options.audio)
                self._engines[wad] = stack.enter_context(engine)
            return self._run()

    def _run(self) -> dict[str, Any]:
        levels = share_out(self._options.levels)
        self._progress = Progress(sum(self._options.frames))
        statistics = {}
        for split, count in zip(SPLITS, self._options.frames, strict=True):
            writer = SplitWriter(self._options.out, split, self._options.audio)
            # What one level does not yield, the next ones make up for.
            for done, (wad, name) in enumerate(levels[split]):
                left = len(levels[split]) - done
                quota = -(-(count - len(writer.frames)) // left)
                self._level(wad, name, quota, writer)
            writer.close()
            if len(writer.frames) < count:
                raise RuntimeError(
                    f'The {split} levels gave {len(writer.frames)} of {count} frames '
                    f'(rejected so far: {dict(self._rejected)}): raise --levels or '
                    'lower --frames.'
                )
            statistics[split] = writer.statistics()
        rate = self._progress.close()
        return {
            'levels': {s: ['_'.join(pair) for pair in levels[s]] for s in SPLITS},
            'rejected': dict(sorted(self._rejected.items())),
            'statistics': statistics,
            'calibration': doom_calibration.fit(np.concatenate(self._floor)),
            'frames_per_second': rate,
        }

    def _level(self, wad: str, name: str, quota: int, writer: SplitWriter) -> None:
        """Take up to `quota` frames of one level."""
        level = Level.from_wad(game_file(wad), name)
        # By the level's own number: another choice of levels draws the same poses.
        number = ALL_LEVELS.index((wad, name))
        rng = np.random.default_rng([self._options.seed, number])
        engine = self._engines[wad]
        engine.open(name)
        scenes = SceneSampler(level, rng)
        target = len(writer.frames) + quota
        calibrated = 0
        for _ in range(quota * _TRIES_PER_FRAME):
            if len(writer.frames) == target:
                return
            seen = writer.pixels[CLASSES.index(OBJECT_CLASSES[0]) : len(CLASSES)]
            scene = scenes.sample((seen + 1) / self._wanted)
            view = self._shoot(engine, scene)
            if misplaced(view, float(level.floor[scene.sector])):
                self._rejected['outside or stuck'] += 1
                continue
            if calibrated < _CALIBRATION_VIEWS:
                calibrated += 1
                self._floor.append(
                    doom_calibration.floor_samples(view, level, scene.sector)
                )
            most = min(self._options.clip, target - len(writer.frames))
            self._clip(engine, f'{wad}_{name}', view, most, writer)

    def _shoot(self, engine: Engine, scene: Scene) -> View:
        engine.turn_to(scene.angle)
        for item in scene.objects:
            engine.summon(item.name, item.x, item.y, item.radius, item.facing)
        return engine.view(scene.x, scene.y)

    def _clip(
        self,
        engine: Engine,
        place: str,
        view: View,
        length: int,
        writer: SplitWriter,
    ) -> None:
        """Write a view and, for clips, the following ones of a walk forward."""
        stem = f'{place}_{len(writer.frames):05d}'
        for time in range(length):
            if time:
                engine.tics(self._options.clip_stride, forward=True, render=True)
                view = engine.look()
            frame = make_frame(view, self._factor)
            why = shows_little(frame)
            if why:
                self._rejected[why] += 1
                return
            facts = {'level': place, **pose(view)}
            name = stem
            if self._options.clip > 1:
                name = f'{stem}_t{time:02d}'
                facts.update(clip=stem, time=time)
            writer.add(name, frame, facts)
            if self._options.audio:
                writer.add_audio(name, engine.audio())
            self._progress.step(place)


def pose(view: View) -> dict[str, Any]:
    """The camera pose as `frames_{split}.json` states it, in map units and degrees."""
    return {
        'position': [round(v, 2) for v in view.position],
        'angle': round(view.angle, 2),
        'eye': round(view.eye, 2),
    }
