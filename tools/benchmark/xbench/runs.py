"""One training and test of a config through the stock tools, as two subprocesses."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from .common import child_environment

_SCHEDULE_KEYS = ('begin', 'end', 'T_max', 'total_steps', 'milestones')


@dataclass(frozen=True)
class Run:
    """A variant trained with one seed.

    Args:
        label: Name of the variant.
        config: The resolved config that the stock tools get.
        seed: Seed of the run.
        iters: Training iterations.
        folder: Receives config, logs, checkpoints and results.
    """

    label: str
    config: Config
    seed: int
    iters: int
    folder: Path

    @property
    def title(self) -> str:
        return f'{self.label} seed {self.seed}'

    @property
    def checkpoint(self) -> Path:
        return self.folder / 'train' / f'iter_{self.iters}.pth'

    def metrics(self) -> dict[str, float] | None:
        """Return what the stock ``test.py`` wrote, None before that."""
        written = sorted((self.folder / 'test').glob('*/*.json'))
        if not written:
            return None
        found = json.loads(written[-1].read_text())
        return {k: v for k, v in found.items() if k not in ('time', 'data_time')}

    def device(self) -> str:
        """Return what mmengine logged that it trained on: GPUs, else the CPU."""
        logs = [self.folder / 'train.log', *(self.folder / 'train').glob('*/*.log')]
        texts = [log.read_text(errors='replace') for log in logs if log.is_file()]
        names = re.findall(r'^ +GPU [\d,]+: (.+)$', '\n'.join(texts), re.MULTILINE)
        return ', '.join(dict.fromkeys(names)) or 'CPU'

    def iteration(self) -> int:
        """Return how far the newest training log says that training has come."""
        logs = sorted((self.folder / 'train').glob('*/vis_data/*.json'))
        logs = [log for log in logs if log.name != 'config.json']
        lines = logs[-1].read_text().splitlines() if logs else []
        # The last line may be half written: count whole ones only.
        for line in reversed(lines):
            if line.endswith('}'):
                return int(json.loads(line).get('step', 0))
        return 0


# -------------------------------------------------------------------- config


def resolve(
    path: str,
    seed: int,
    iters: int | None,
    data_root: str | None,
    workers: int | None,
    options: dict[str, Any],
) -> Config:
    """Make the config of a run: budget, seed, data; no validation while it trains.

    A schedule keeps its shape: begins, ends and milestones scale with the budget.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the config does not train by iterations.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'There is no config {path}. Check --configs.')
    cfg = Config.fromfile(path)
    cfg.merge_from_dict(options)
    if 'max_iters' not in (cfg.get('train_cfg') or {}):
        raise ValueError(
            f'{path}: train_cfg has no max_iters. Budgets are compared in iterations: '
            "use train_cfg=dict(type='IterBasedTrainLoop', max_iters=...)."
        )
    if iters is not None:
        _scale_schedule(cfg, iters / cfg.train_cfg.max_iters)
        cfg.train_cfg.max_iters = iters
    cfg.randomness = {**cfg.get('randomness', {}), 'seed': seed}
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    for name in ('train_dataloader', 'test_dataloader'):
        loader = cfg[name]
        if data_root is not None:
            _replace_data_root(loader.dataset, data_root)
        if workers is not None:
            loader.num_workers = workers
            loader.persistent_workers = workers > 0
    _checkpoint_at_end(cfg)
    _report_classes(cfg)
    return cfg


def _scale_schedule(cfg: Config, factor: float) -> None:
    schedulers = cfg.get('param_scheduler') or []
    schedulers = [schedulers] if isinstance(schedulers, dict) else schedulers
    for scheduler in schedulers:
        for key in _SCHEDULE_KEYS:
            value = scheduler.get(key)
            if isinstance(value, list):
                scheduler[key] = [round(v * factor) for v in value]
            elif value is not None:
                scheduler[key] = round(value * factor)
    # A short warm-up can shrink to nothing, which mmengine refuses.
    cfg.param_scheduler = [
        s for s in schedulers if s.get('end') is None or s['end'] > s.get('begin', 0)
    ]


def _replace_data_root(node: Any, data_root: str) -> None:
    if isinstance(node, dict):
        if 'data_root' in node:
            node['data_root'] = data_root
        for value in node.values():
            _replace_data_root(value, data_root)
    elif isinstance(node, (list, tuple)):
        for value in node:
            _replace_data_root(value, data_root)


def _checkpoint_at_end(cfg: Config) -> None:
    hooks = cfg.get('default_hooks') or {}
    hook = {'type': 'CheckpointHook', **hooks.get('checkpoint', {})}
    hook.pop('save_best', None)  # there is no validation to choose by
    interval = min(hook.get('interval', -1), cfg.train_cfg.max_iters)
    hook['interval'] = interval if interval > 0 else cfg.train_cfg.max_iters
    hook.update(by_epoch=False, save_last=True, max_keep_ckpts=1)
    cfg.default_hooks = {**hooks, 'checkpoint': hook}


def _report_classes(cfg: Config) -> None:
    evaluator = cfg.test_evaluator
    if not isinstance(evaluator, dict) or evaluator.get('type') not in (
        'IoUMetric',
        'mmseg.IoUMetric',
    ):
        return  # another metric reports what it reports
    evaluator['type'] = 'mmseg.ClassIoUMetric'
    imports = cfg.get('custom_imports') or dict(imports=[])
    names = imports['imports']
    names = [names] if isinstance(names, str) else list(names)
    cfg.custom_imports = {**imports, 'imports': [*names, 'xbench.class_iou']}


# ------------------------------------------------------------------- running


def prepare(run: Run) -> None:
    """Write the run's config, or accept the folder of an interrupted same run.

    Raises:
        ValueError: If the folder holds a run of another config.
    """
    text = run.config.pretty_text
    digest = hashlib.sha256(text.encode()).hexdigest()
    stamp = run.folder / 'config.sha256'
    if stamp.is_file() and stamp.read_text().strip() != digest:
        raise ValueError(
            f'{run.folder} holds a run of another config or budget. Use another --name '
            'or --work-dir, or remove the folder.'
        )
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / 'config.py').write_text(text)
    stamp.write_text(digest + '\n')


def stock_tool(name: str) -> Path:
    """Return the path of a script of the installed mmseg.

    Raises:
        FileNotFoundError: If the installation brought no tools.
    """
    import mmseg

    package = Path(mmseg.__file__).parent
    for folder in (package / '.mim' / 'tools', package.parent / 'tools'):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        f'the installed mmseg ({mmseg.__version__}) has no tools/{name} in {package}. '
        'Reinstall it from a wheel or a source tree.'
    )


class Stopped(RuntimeError):
    """A tool was ended because another run failed or the user interrupted."""


class Executor:
    """Runs stock tools; ``stop`` ends those under way."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen] = set()
        self._stopped = False

    def execute(self, run: Run) -> dict[str, float]:
        """Train (or resume) and test a run, unless its result is there.

        Raises:
            RuntimeError: If a tool fails; with the end of its output.
        """
        prepare(run)
        metrics = run.metrics()
        if metrics is not None:
            return metrics
        config = str(run.folder / 'config.py')
        if not run.checkpoint.is_file():
            train = ['--work-dir', str(run.folder / 'train'), '--resume']
            self._call('train.py', [config, *train], run.folder / 'train.log')
        test = [str(run.checkpoint), '--work-dir', str(run.folder / 'test')]
        self._call('test.py', [config, *test], run.folder / 'test.log')
        metrics = run.metrics()
        if metrics is None:
            raise RuntimeError(f'test.py wrote no JSON below {run.folder / "test"}.')
        return metrics

    def stop(self) -> None:
        """End the processes under way; start no further ones."""
        with self._lock:
            self._stopped = True
            for process in self._processes:
                process.terminate()

    def _call(self, tool: str, arguments: list[str], log: Path) -> None:
        environment = child_environment(self.threads)
        command = [sys.executable, str(stock_tool(tool)), *arguments]
        with log.open('w') as output:
            with self._lock:
                if self._stopped:
                    raise Stopped(f'{tool} was not started')
                process = subprocess.Popen(
                    command, env=environment, stdout=output, stderr=subprocess.STDOUT
                )
                self._processes.add(process)
            status = process.wait()
        with self._lock:
            self._processes.discard(process)
            if self._stopped and status != 0:
                raise Stopped(f'{tool} was ended; start again to resume')
        if status != 0:
            tail = '\n'.join(log.read_text(errors='replace').splitlines()[-20:])
            raise RuntimeError(f'{tool} ended with status {status} ({log}):\n{tail}')
