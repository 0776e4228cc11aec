"""Every method learns: 20 iterations of stock ``train.py`` on rendered RGB + depth.

Each ViZDoom config that we ship is run, size, batch and data apart as it is. Marked
slow: 10 to 40 seconds each.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import mean

import pytest

from tests.test_models.helpers import require

from .helpers import ROOT, run_tool

# Sizes that only measure speed take minutes here and have the code of the small ones.
LARGE = {'cmx_mit-b2_1xb4-1k_vizdoom-120x160.py'}
# Fewer blocks of the same widths.
SHALLOW = {
    'cmx_swin-s_1xb4-1k_vizdoom-120x160.py': 'swin_t',
    'cmnext_mit-b2_1xb4-1k_vizdoom-120x160.py': 'mit_b1',
}
# Heads of the joint model alone, and balancers that tests of their own train.
PARTS = ('single-', 'uncertainty_', 'aligned-mtl_')
CONFIGS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / 'configs').glob('*/*_vizdoom-120x160.py')
    if path.name not in LARGE and not path.name.startswith(PARTS)
)


@pytest.fixture(scope='session')
def vizdoom_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few rendered frames."""
    pytest.importorskip('vizdoom')
    root = tmp_path_factory.mktemp('doom') / 'data'
    tool = ROOT / 'tools/dataset_converters/vizdoom.py'
    command = [sys.executable, str(tool), str(root), '--frames', '40', '4', '4']
    command += ['--levels', '6', '--size', '160', '120']
    done = subprocess.run(
        command, cwd=root.parent, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return root


def _losses(work_dir: Path) -> list[float]:
    (scalars,) = work_dir.glob('*/vis_data/scalars.json')
    records = [json.loads(line) for line in scalars.read_text().splitlines()]
    return [record['loss'] for record in records if 'loss' in record]


@pytest.mark.slow
@pytest.mark.parametrize('config', CONFIGS)
def test_loss_falls_in_20_iterations(config: str, vizdoom_root: Path, tmp_path: Path):
    encoders = 'encoders/' in config
    if encoders:
        require('timm', 'transformers')
    options = dict.fromkeys(
        (f'{mode}_dataloader.dataset.data_root' for mode in ('train', 'val', 'test')),
        str(vizdoom_root),
    )
    options |= {
        'train_cfg.max_iters': 20,
        'train_cfg.val_interval': 20,
        'default_hooks.logger.interval': 1,
        'log_processor.window_size': 1,
        # Without warm-up: 20 iterations are shorter than that of the configs.
        'param_scheduler': '[]',
        'optim_wrapper.optimizer.lr': 3e-4,
        'train_dataloader.batch_size': 2,
        'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False,
        'val_dataloader.num_workers': 0,
        'val_dataloader.persistent_workers': False,
        'randomness.seed': 0,
    }
    if (name := Path(config).name) in SHALLOW:
        options['model.backbone.variant'] = SHALLOW[name]
    run_tool(
        'train.py',
        ROOT / config,
        '--work-dir',
        tmp_path,
        '--cfg-options',
        *(f'{key}={value}' for key, value in options.items()),
        encoders=encoders,
    )
    losses = _losses(tmp_path)
    assert len(losses) == 20
    assert mean(losses[-5:]) < 0.9 * mean(losses[:5]), losses
