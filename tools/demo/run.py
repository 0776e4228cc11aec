"""The demo: make an RGB-D data set, train three models on it, compare and show them.

    python tools/demo/run.py --iters 700

Renders frames of a game (ViZDoom), trains CMX-B0 on RGB + depth and one encoder each on
RGB and on depth alone, with mmseg's own train.py and test.py, at equal budgets and one
seed; prints the table and writes panels to work_dirs/demo/panels.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import mmseg

ROOT = Path(__file__).resolve().parents[2]
MMSEG_TOOLS = Path(mmseg.__file__).parent / '.mim' / 'tools'
CONFIGS = {
    'RGB+D': 'configs/cmx/cmx_mit-b0_1xb4-1k_vizdoom-120x160.py',
    'RGB': 'configs/cmx/mit-b0-rgb_1xb4-1k_vizdoom-120x160.py',
    'D': 'configs/cmx/mit-b0-depth_1xb4-1k_vizdoom-120x160.py',
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--iters', type=int, default=700)
    parser.add_argument('--frames', type=int, nargs=3, default=(600, 60, 120))
    parser.add_argument('--panels', type=int, default=12)
    parser.add_argument('--data', type=Path, help='default: data/vizdoom_demo_FRAMES')
    parser.add_argument('--out', type=Path, default=ROOT / 'work_dirs' / 'demo')
    return parser.parse_args()


def step(title: str) -> None:
    print(f'\n[demo] {title}', flush=True)


def call(*command: object) -> None:
    """Run a command in the repository and show its output; end with its exit status."""
    words = [sys.executable, *map(str, command)]
    # One thread a process: two of them run side by side.
    threads = {'OMP_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1'}
    done = subprocess.run(words, cwd=ROOT, env={**os.environ, **threads}, check=False)
    if done.returncode:
        sys.exit(f'[demo] failed (exit status {done.returncode}): {" ".join(words)}')


def make_data(out: Path, frames: tuple[int, int, int]) -> None:
    """Render the data set, unless it is there."""
    meta = out / 'meta.json'
    if meta.exists() and json.loads(meta.read_text()).get('complete', True):
        step(f'data set: {out} (made before)')
        return
    step(f'data set: {sum(frames)} frames of 160 x 120 into {out}')
    call(
        *('tools/dataset_converters/vizdoom.py', out, '--overwrite'),
        *('--size', 160, 120, '--frames', *frames),
    )


def train_and_test(iters: int, data: Path, out: Path, name: str) -> Path:
    step(f'three models, {iters} iterations each, two at a time')
    result = out / f'{name}.json'
    call(
        *('tools/benchmark/experiment.py', '--name', name),
        *('--configs', *(f'{label}={path}' for label, path in CONFIGS.items())),
        *('--iters', iters, '--data-root', data, '--workers', 0, '--jobs', 2),
        *('--work-dir', out, '--out', result),
    )
    return result


def draw_panels(iters: int, data: Path, out: Path, name: str, count: int) -> list[Path]:
    """Draw RGB, depth, truth, prediction and error of frames spread over the test."""
    step(f'{count} panels of the RGB+D model')
    run = out / name / 'RGB+D' / 'seed_0'
    frames = len(list((data / 'labels' / 'test').glob('*.png')))
    chosen = [i * frames // count for i in range(count)]
    before = panel_files(out)
    call(
        *(MMSEG_TOOLS / 'test.py', ROOT / CONFIGS['RGB+D']),
        *(run / 'train' / f'iter_{iters}.pth', '--show-dir', out / 'panels'),
        *('--work-dir', out / 'panels_log', '--cfg-options'),
        *(f'test_dataloader.dataset.data_root={data}', 'test_dataloader.num_workers=0'),
        *('test_dataloader.persistent_workers=False', 'log_level=WARNING'),
        'default_hooks.visualization.interval=1',
        f'test_dataloader.dataset.indices={chosen}'.replace(' ', ''),
    )
    # Runs of other lengths leave their panels there.
    return sorted(p for p, time in panel_files(out).items() if before.get(p) != time)


def panel_files(out: Path) -> dict[Path, int]:
    """Panels in the folder of the demo, and when each was written, in ns."""
    return {p: p.stat().st_mtime_ns for p in (out / 'panels').rglob('*.png')}


def main() -> None:
    args = parse_args()
    started = time.monotonic()
    # Named after the frames: runs on other data are other runs.
    frames = '_'.join(map(str, args.frames))
    data = (args.data or ROOT / 'data' / f'vizdoom_demo_{frames}').resolve()
    out = args.out.resolve()
    name = f'{args.iters}_iterations_{frames}'
    make_data(data, tuple(args.frames))
    result = train_and_test(args.iters, data, out, name)
    panels = draw_panels(args.iters, data, out, name, args.panels)
    minutes = (time.monotonic() - started) / 60
    miou = {
        r['label']: r['metrics']['mIoU'] for r in json.loads(result.read_text())['runs']
    }
    step('done: ' + ', '.join(f'{label} {miou[label]:.1f} mIoU' for label in CONFIGS))
    print(f'[demo] {len(panels)} panels, for example {panels[0] if panels else "none"}')
    print(f'[demo] {minutes:.1f} minutes without set-up and downloads')


if __name__ == '__main__':
    main()
