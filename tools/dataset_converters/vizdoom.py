"""Make an RGB-D segmentation data set with a game engine.

Renders scenes of the levels of Freedoom with ViZDoom, headless: image, depth with
calibration, semantic classes, and boxes of the objects. Camera poses and objects are
placed at random, so that every class is frequent; the same seed gives the same bytes.
A wall more than 57 m away, which is rare, cannot be told from the sky.

    pip install 'vizdoom>=1.3'
    python tools/dataset_converters/vizdoom.py data/vizdoom

    OUT/{rgb,depth,labels}/{train,val,test}/STEM.png
    OUT/audio/{train,val,test}/STEM.wav  with --audio: the second before the frame
    OUT/boxes_{train,val,test}.json    COCO, with type and distance (m)
    OUT/frames_{train,val,test}.json   level and camera pose of each frame
    OUT/calibration.json               from the stored depth to metres
    OUT/meta.json                      versions, seed, rejections, class statistics
"""

from __future__ import annotations

import argparse
import importlib.metadata
import shutil
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
# This file has the name of the engine's package, and Python looks beside a script
# first: take that folder off the path, and put the parts of this tool on it.
sys.path[:] = [p for p in sys.path if Path(p or '.').resolve() != _HERE]
sys.path.append(str(_HERE / 'vizdoom_parts'))

import doom_calibration  # noqa: E402
from doom_engine import require_engine  # noqa: E402
from doom_generate import Generator, Options  # noqa: E402
from doom_levels import ALL_LEVELS  # noqa: E402
from doom_output import table, too_rare, write_json  # noqa: E402


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('out', type=Path, help='folder of the data set')
    parser.add_argument(
        '--frames',
        type=int,
        nargs=3,
        default=(1500, 300, 300),
        metavar=('TRAIN', 'VAL', 'TEST'),
    )
    parser.add_argument(
        '--size', type=int, nargs=2, default=(320, 240), metavar=('WIDTH', 'HEIGHT')
    )
    parser.add_argument(
        '--levels', type=int, default=48, help=f'of {len(ALL_LEVELS)}, split by level'
    )
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument(
        '--clip',
        type=int,
        default=1,
        help='consecutive frames of a walk',
    )
    parser.add_argument(
        '--clip-stride', type=int, default=4, help='tics of 1/35 s between two of them'
    )
    parser.add_argument(
        '--audio',
        action='store_true',
        help='also write the last second of sound as wav (needs libopenal1)',
    )
    parser.add_argument(
        '--overwrite', action='store_true', help='delete an earlier data set in OUT'
    )
    return parser.parse_args(argv)


def prepare(out: Path, overwrite: bool) -> None:
    """Make the output folder.

    Raises:
        FileExistsError: If it is not empty and may not be replaced, or holds something
            that this tool has not written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not overwrite:
            raise FileExistsError(
                f'{out} is not empty: choose another folder, or pass --overwrite to '
                'replace the data set in it.'
            )
        if not (out / 'meta.json').is_file():
            raise FileExistsError(
                f'{out} has no meta.json, so it is not a finished data set of this '
                'tool and --overwrite leaves it alone: delete it yourself.'
            )
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / 'meta.json', {'complete': False})


def make(options: Options, overwrite: bool = False) -> dict:
    """Make a data set, print its statistics, return what `meta.json` says.

    Raises:
        ModuleNotFoundError: If the engine is missing.
        ValueError: If an option is wrong.
        FileExistsError: If the output folder is taken.
        RuntimeError: If the levels do not yield the frames.
    """
    require_engine()
    generator = Generator(options)
    prepare(options.out, overwrite)
    result = generator.run()
    calibration = doom_calibration.as_json(result.pop('calibration'), *options.size)
    write_json(options.out / 'calibration.json', calibration)
    rate = result.pop('frames_per_second')
    meta = {
        'complete': True,
        'engine': f'vizdoom {importlib.metadata.version("vizdoom")}',
        'options': {
            'frames': options.frames,
            'size': options.size,
            'levels': options.levels,
            'seed': options.seed,
            'clip': options.clip,
            'clip_stride': options.clip_stride,
            'audio': options.audio,
        },
        **result,
    }
    write_json(options.out / 'meta.json', meta)
    print(table(result['statistics']))
    print(f'rejected: {result["rejected"]}')
    for sentence in too_rare(result['statistics']):
        print(f'rare: {sentence}')
    print(f'{sum(options.frames)} frames at {rate:.0f} frames/s in {options.out}')
    return meta


def main(argv: list[str] | None = None) -> int:
    """Command line entry; user errors are one line on stderr and exit status 1."""
    args = vars(parse_args(argv))
    overwrite = args.pop('overwrite')
    try:
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in args.items()}
        make(Options(**options), overwrite)
    except (ImportError, ValueError, FileExistsError, RuntimeError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
