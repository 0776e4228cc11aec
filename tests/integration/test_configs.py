"""Every config that we ship loads, builds, and follows the house rules."""

from __future__ import annotations

import ast
import re
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import (
    DATA_SAMPLERS,
    DATASETS,
    HOOKS,
    LOOPS,
    METRICS,
    MODELS,
    VISUALIZERS,
)
from torch.utils.data import ConcatDataset

from mmseg_xmodal.structures import ClassStats
from tests.test_models.helpers import require

from .helpers import ROOT

CONFIGS = ROOT / 'configs'
LEAVES = sorted(
    path.relative_to(CONFIGS).as_posix()
    for path in CONFIGS.rglob('*.py')
    if '_base_' not in path.parts
)
BASES = sorted(
    path.relative_to(CONFIGS).as_posix() for path in (CONFIGS / '_base_').rglob('*.py')
)
# {method}_{backbone}_{gpus}xb{batch}-{schedule}_{dataset}-{crop}.py, where a plain
# backbone has no method.
PATTERN = re.compile(
    r'[a-z0-9.+-]+(_[a-z0-9.+-]+)?_\d+xb\d+-[a-z0-9]+_[a-z0-9.+-]+-\d+x\d+\.py'
)
# What a header says besides its data and weights.
LINES = ('Command', 'Hardware', 'Published', 'Measured(?: here)?')


def test_there_are_configs():
    assert LEAVES


@pytest.mark.parametrize(
    'family', sorted(path.parent.name for path in CONFIGS.glob('*/metafile.yml'))
)
def test_metafiles_list_the_configs_beside_them(family: str):
    models = (CONFIGS / family / 'metafile.yml').read_text().split('Models:')[1]
    listed = re.findall(r'^  - Name: (\S+)$', models, re.MULTILINE)
    leaves = (CONFIGS / family).glob('*.py')
    assert sorted(listed) == sorted(path.stem for path in leaves)


@pytest.mark.parametrize('name', LEAVES)
def test_config_follows_the_house_rules(name: str):
    path = CONFIGS / name
    text = path.read_text()
    assert PATTERN.fullmatch(path.name)
    header = ast.get_docstring(ast.parse(text))
    assert header, 'a header docstring is missing'
    for line in LINES:
        assert re.search(rf'\b{line}:\s+\S', header), f'the header has no {line}:'
    assert len(text.splitlines()) <= 40
    cfg = Config.fromfile(path)
    assert cfg.default_scope == 'mmseg'
    # Stock `init_model`, `--tta` and `--show-dir` look for these at the top.
    assert cfg.test_pipeline
    assert cfg.tta_pipeline
    assert cfg.tta_model.type == 'mmseg_xmodal.XModalTTAModel'
    assert (
        cfg.default_hooks.visualization.type == 'mmseg_xmodal.XModalVisualizationHook'
    )
    seg_task = cfg.model.get('seg_task', 'seg')
    evaluators = _evaluators(cfg)
    # Labels are written of images that have none.
    writes = any(e.type == 'mmseg_xmodal.PseudoLabelWriter' for e in evaluators)
    if seg_task in (cfg.model.get('tasks') or [seg_task]) and not writes:
        measured = [set(e.get('iou_metrics', ())) for e in evaluators]
        assert any(names >= {'mIoU', 'mFscore'} for names in measured)
    assert any(h.type == 'mmseg_xmodal.RandomStateHook' for h in cfg.custom_hooks)


@pytest.mark.parametrize('name', LEAVES)
def test_config_builds(name: str, monkeypatch: pytest.MonkeyPatch):
    # RareClassSampler reads all labels; the data are not here.
    rare = 'mmseg_xmodal.datasets.samplers.rare_class.cached_class_stats'
    monkeypatch.setattr(rare, _class_stats)
    if name.startswith('encoders/'):
        require('timm', 'transformers')
    cfg = Config.fromfile(CONFIGS / name)
    # Sizes and names are what can be wrong; numbers cost minutes. Only mmseg's own MiT
    # reads numbers in its constructor.
    stock = 'MixVisionTransformer' in str(cfg.model)
    with torch.device('cpu' if stock else 'meta'):
        model = MODELS.build(cfg.model)
        # As the runner does for `test.py --tta`.
        tta = dict(cfg.tta_model, module=cfg.model)
        MODELS.build(tta, default_args=_top_level_preprocessor(cfg))
    assert model.decode_head.num_classes == len(_classes(cfg))
    for mode in ('train', 'val', 'test'):
        loader = cfg[f'{mode}_dataloader']
        dataset = DATASETS.build(dict(loader.dataset, lazy_init=True))
        assert dataset.metainfo['classes'] == tuple(_classes(cfg))
        samples = _samples(loader.dataset)
        DATA_SAMPLERS.build(loader.sampler, default_args=dict(dataset=samples, seed=0))
        assert LOOPS.get(cfg[f'{mode}_cfg'].type) is not None
    for hook in (*cfg.default_hooks.values(), *cfg.custom_hooks):
        HOOKS.build(hook)
    for evaluator in _evaluators(cfg):
        METRICS.build(evaluator)
    assert VISUALIZERS.get(cfg.visualizer.type) is not None
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    DATASETS.build(dict(cfg.test_dataloader.dataset, lazy_init=True))


def _samples(dataset: Config) -> range | ConcatDataset:
    """What a sampler needs of a data set: its length, and those of its parts."""
    parts = dataset.get('datasets')
    return range(4) if parts is None else ConcatDataset([range(4) for _ in parts])


def _class_stats(dataset: Any, *args: Any, **kwargs: Any) -> ClassStats:
    """Statistics of a data set with two classes, many pixels of each everywhere."""
    count = len(dataset)
    return ClassStats(
        classes=('a', 'b'),
        files=('',) * count,
        counts=np.full((count, 2), 10**6),
        ignored=np.zeros(count, np.int64),
        digest='',
    )


def _top_level_preprocessor(cfg: Config) -> dict:
    found = cfg.get('data_preprocessor')
    return {} if found is None else dict(data_preprocessor=found)


def _evaluators(cfg: Config) -> list:
    found = cfg.test_evaluator
    return [found] if isinstance(found, dict) else list(found)


def _classes(cfg: Config) -> tuple[str, ...]:
    dataset = dict(cfg.train_dataloader.dataset, lazy_init=True)
    return DATASETS.build(dataset).metainfo['classes']


@pytest.mark.parametrize('name', BASES)
def test_base_config_loads(name: str):
    assert len(Config.fromfile(CONFIGS / name)) > 0
