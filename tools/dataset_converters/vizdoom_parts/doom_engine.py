"""The game engine behind a small interface: poses, summoning, one rendered view."""

from __future__ import annotations

import ctypes.util
import dataclasses
import importlib
import importlib.util
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from doom_level import PLAYER_RADIUS

# Below this size the engine clips the depth of walls: at 63 steps in 160x120 and 127
# in 320x240. So every frame is rendered at 640x480 and then reduced.
RENDER_WIDTH, RENDER_HEIGHT = 640, 480
# Three tics for the eye to rise to its height after a warp, four for a summoned
# object to fall the 8 units from which it is dropped.
SETTLE_TICS = 4
TICS_PER_SECOND = 35
# The player does not react before that.
_START_TICS = 20
# Length of the sound that belongs to a view.
AUDIO_TICS = TICS_PER_SECOND
_NOT_RENDERED = (
    'hud',
    'weapon',
    'crosshair',
    'messages',
    'particles',
    'decals',
    'screen_flashes',
)
_VARIABLES = ('POSITION_X', 'POSITION_Y', 'POSITION_Z', 'ANGLE', 'CAMERA_POSITION_Z')


def require_engine() -> Any:
    """Import the `vizdoom` package.

    Raises:
        ModuleNotFoundError: If it is not installed; names the command.
    """
    if importlib.util.find_spec('vizdoom') is None:
        raise ModuleNotFoundError(
            'The game engine is missing: no package `vizdoom`. Install it with '
            '`pip install vizdoom`, version 1.3 or later.'
        )
    return importlib.import_module('vizdoom')


def require_openal() -> None:
    """See that the engine will find the sound library.

    Raises:
        RuntimeError: If not; names the command.
    """
    if ctypes.util.find_library('openal'):
        return
    try:
        ctypes.CDLL('libopenal.so.1')
    except OSError as error:
        raise RuntimeError(
            '--audio needs the system library OpenAL, which is not found: install it '
            'with `apt install libopenal1`, or leave --audio out.'
        ) from error


def game_file(name: str) -> Path:
    """Path of a game file that comes with the engine (`freedoom1`, `freedoom2`).

    Raises:
        RuntimeError: If this version of the engine comes without it.
    """
    path = Path(require_engine().__path__[0]) / f'{name}.wad'
    if not path.is_file():
        raise RuntimeError(
            f'{path} is missing, which comes with vizdoom 1.3 and later: '
            '`pip install --upgrade vizdoom`.'
        )
    return path


def summon_distance(radius: float) -> float:
    """How far before the player the engine puts a summoned object, map units."""
    return 2 * radius + PLAYER_RADIUS


@dataclasses.dataclass(frozen=True)
class Seen:
    """An object in view: type name, the engine's category, place in map units."""

    name: str
    category: str
    x: float
    y: float


@dataclasses.dataclass(frozen=True)
class View:
    """One rendered frame at 640x480.

    Attributes:
        bgr: uint8 (480, 640, 3).
        depth: uint8 (480, 640), raw steps of the engine.
        labels: uint8 (480, 640): 0 wall and sky, 1 floor and ceiling, else an object.
        objects: value in `labels` to the object.
        position: x, y and z of the player's feet, map units.
        angle: degrees, anticlockwise from east.
        eye: height of the eye above the feet, map units.
    """

    bgr: np.ndarray
    depth: np.ndarray
    labels: np.ndarray
    objects: dict[int, Seen]
    position: tuple[float, float, float]
    angle: float
    eye: float

    def distance(self, x: float, y: float) -> float:
        """Distance of a place along the viewing direction, map units."""
        angle = np.deg2rad(self.angle)
        forward = (x - self.position[0]) * np.cos(angle)
        return float(forward + (y - self.position[1]) * np.sin(angle))


class Engine:
    """A running game.

    Args:
        wad: `freedoom1` or `freedoom2`.
        seed: Seed of the engine's own random numbers.
        sound: Whether to render sound.

    Raises:
        ModuleNotFoundError: If the engine is missing.
        RuntimeError: If sound is wanted and libopenal1 is missing.
    """

    def __init__(self, wad: str, seed: int, sound: bool = False) -> None:
        vzd = require_engine()
        if sound:
            require_openal()
        game = vzd.DoomGame()
        game.set_doom_game_path(str(game_file(wad)))
        game.set_doom_skill(3)
        game.set_mode(vzd.Mode.PLAYER)
        game.set_window_visible(False)
        game.set_screen_resolution(vzd.ScreenResolution.RES_640X480)
        game.set_screen_format(vzd.ScreenFormat.BGR24)
        game.set_depth_buffer_enabled(True)
        game.set_labels_buffer_enabled(True)
        for part in _NOT_RENDERED:
            getattr(game, f'set_render_{part}')(False)
        buttons = (vzd.Button.TURN_LEFT_RIGHT_DELTA, vzd.Button.MOVE_FORWARD)
        game.set_available_buttons(list(buttons))
        game.set_available_game_variables(
            [getattr(vzd.GameVariable, name) for name in _VARIABLES]
        )
        # Messages of the game are drawn into image and depth; walking moves the eye.
        game.add_game_args('+cl_showsecretmessage 0 +con_midtime 0 +movebob 0')
        game.set_sound_enabled(sound)
        if sound:
            game.set_audio_buffer_enabled(True)
            game.set_audio_sampling_rate(vzd.SamplingRate.SR_22050)
            game.set_audio_buffer_size(AUDIO_TICS)
            # The sound effects of OpenAL crash without a sound card.
            game.add_game_args('+snd_efx 0')
        else:
            game.add_game_args('-nosound')
        self._game, self._seed, self._sound = game, seed, sound
        self._home = tempfile.TemporaryDirectory(prefix='vizdoom_')
        self._angle = 0.0

    def open(self, level: str) -> None:
        """Start a level anew. The first one also starts the engine.

        Raises:
            RuntimeError: If the engine does not start.
        """
        game = self._game
        game.set_seed(self._seed)
        # In a running game this loads the level; `new_episode` would load it again.
        game.set_doom_map(level)
        if not game.is_running():
            self._start()
        # Nothing hurts the player. Without sound nobody wakes up and walks away.
        for command in (
            'god',
            'remove Spectre',
            *([] if self._sound else ['notarget']),
        ):
            game.send_game_command(command)
        self.tics(_START_TICS, render=True)
        self._angle = float(game.get_state().game_variables[3])

    def _start(self) -> None:
        vzd = require_engine()
        # The engine writes its settings and folders to where it is started.
        here = os.getcwd()
        os.chdir(self._home.name)
        try:
            self._game.init()
        except (
            vzd.ViZDoomErrorException,
            vzd.ViZDoomUnexpectedExitException,
            vzd.MessageQueueException,
            vzd.SharedMemoryException,
        ) as error:
            raise RuntimeError(
                f'The game engine did not start: {error} It needs shared memory: see '
                'that /dev/shm is there and writable and has 16 MB free.'
            ) from error
        finally:
            os.chdir(here)

    def close(self) -> None:
        """End the game."""
        self._game.close()
        self._home.cleanup()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def tics(
        self,
        count: int,
        turn: float = 0.0,
        forward: bool = False,
        render: bool = False,
    ) -> None:
        """Let time pass; `turn` degrees to the left in the first tic."""
        self._game.set_action([-turn, float(forward)])
        self._game.advance_action(1, render and count == 1)
        if count > 1:
            self._game.set_action([0.0, float(forward)])
            self._game.advance_action(count - 1, render)

    def turn_to(self, angle: float) -> None:
        """Face a direction, in degrees."""
        self.tics(1, turn=(angle - self._angle + 180.0) % 360.0 - 180.0)
        self._angle = angle

    def warp(self, x: float, y: float) -> None:
        """Go to a place; takes effect with the next tic."""
        self._game.send_game_command(f'warp {x:.0f} {y:.0f}')

    def summon(self, name: str, x: float, y: float, radius: float, facing: int) -> None:
        """Put an object near a place. Takes two tics, the player is moved.

        Args:
            name: Type name of the engine.
            radius: Radius of that type, map units.
            facing: Direction in which the object looks, degrees.
        """
        distance = summon_distance(radius)
        angle = np.deg2rad(self._angle)
        self.warp(x - distance * np.cos(angle), y - distance * np.sin(angle))
        self.tics(1)
        self._game.send_game_command(f'summon {name} {facing}')
        self.tics(1)

    def view(self, x: float, y: float) -> View:
        """Go to a place, let everything settle and render."""
        self.warp(x, y)
        self.tics(AUDIO_TICS if self._sound else SETTLE_TICS, render=True)
        return self.look()

    def look(self) -> View:
        """The view of the last rendered tic."""
        state = self._game.get_state()
        x, y, z, angle, camera = (float(v) for v in state.game_variables)
        self._angle = angle
        return View(
            bgr=state.screen_buffer,
            depth=state.depth_buffer,
            labels=state.labels_buffer,
            objects={
                label.value: Seen(
                    label.object_name,
                    label.object_category,
                    label.object_position_x,
                    label.object_position_y,
                )
                for label in state.labels
            },
            position=(x, y, z),
            angle=angle,
            eye=camera - z,
        )

    def audio(self) -> np.ndarray:
        """The sound up to the last tic, int16 (samples, 2), 22,050 a second."""
        return self._game.get_state().audio_buffer
