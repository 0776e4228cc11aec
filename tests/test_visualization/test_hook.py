"""The hook, inside a real runner and by itself."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import mmcv
import numpy as np
import pytest
import torch
from mmengine import Config
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmengine.visualization import Visualizer
from mmseg.structures import SegDataSample
from mmseg.visualization import SegLocalVisualizer

from mmseg_xmodal.engine import XModalVisualizationHook
from mmseg_xmodal.engine.hooks.visualization import batch_views, find_preprocessor
from mmseg_xmodal.models.data_preprocessor import ModalityPreprocessor
from mmseg_xmodal.visualization import XModalVisualizer

CONFIG = Path(__file__).parents[1] / 'configs' / 'cmx_tiny.py'


def tiny_config(root, work_dir, name):
    """The tiny CMX on the synthetic set, panels on, in its own named visualizer."""
    cfg = Config.fromfile(CONFIG)
    for part in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        cfg[part].dataset.data_root = str(root)
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = name
    cfg.visualizer.update(name=name, save_dir=str(work_dir / 'show'))
    cfg.default_hooks.visualization.update(draw=True, interval=1)
    return cfg


def panels(folder):
    return sorted(path.name for path in folder.rglob('*.png'))


def test_test_loop_writes_one_panel_per_sample(rgbd_root, tmp_path):
    cfg = tiny_config(rgbd_root, tmp_path, 'hook_test')
    cfg.default_hooks.visualization.interval = 3
    cfg.test_dataloader.batch_size = 2
    Runner.from_cfg(cfg).test()
    # Samples 0, 3 and 6 of 8, though batches hold two.
    names = ['test_000_0.png', 'test_003_3.png', 'test_006_6.png']
    assert panels(tmp_path / 'show') == names
    (path,) = (tmp_path / 'show').rglob('test_003_3.png')
    panel = mmcv.imread(str(path), channel_order='rgb')
    # rgb, depth, truth, prediction, error: 96 pixels wide, enlarged threefold.
    assert panel.shape[1] == 5 * 288 + 6 * 8
    red = (panel == cfg.palette[2]).all(axis=2)
    truth = slice(8 + 2 * 296, 8 + 2 * 296 + 288)
    label = mmcv.imread(f'{rgbd_root}/labels/val/003.png', 'unchanged')
    assert (red[:, truth].sum() - 9 * (label == 2).sum()) in range(0, 400)  # + legend


def test_tta_draws_the_view_that_is_not_flipped(rgbd_root, tmp_path):
    cfg = tiny_config(rgbd_root, tmp_path, 'hook_tta')
    cfg.default_hooks.visualization.interval = 4
    Runner.from_cfg(cfg).test()
    tta = tiny_config(rgbd_root, tmp_path / 'tta', 'hook_tta_on')
    tta.default_hooks.visualization.interval = 4
    tta.test_dataloader.dataset.pipeline = tta.tta_pipeline
    tta.tta_model.module = tta.model
    tta.model = tta.tta_model
    Runner.from_cfg(tta).test()
    assert panels(tmp_path / 'tta' / 'show') == ['test_000_0.png', 'test_004_4.png']
    (one,) = (tmp_path / 'show').rglob('test_004_4.png')
    (two,) = (tmp_path / 'tta' / 'show').rglob('test_004_4.png')
    rgb = slice(8, 8 + 288)
    one, two = (mmcv.imread(str(p))[:200, rgb].astype(int) for p in (one, two))
    # The TTA view was enlarged and is shrunk again: equal but for resampling.
    assert np.abs(one - two).mean() < 12
    assert np.abs(one - two[:, ::-1]).mean() > np.abs(one - two).mean()


def test_subset_loop_names_the_subset_and_withholds(rgbd_root, tmp_path):
    cfg = tiny_config(rgbd_root, tmp_path, 'hook_subset')
    cfg.default_hooks.visualization.interval = 8
    cfg.test_cfg = dict(
        type='mmseg_xmodal.ModalitySubsetTestLoop', subsets=[['rgb'], ['rgb', 'depth']]
    )
    Runner.from_cfg(cfg).test()
    names = ['test_depth+rgb_000_0.png', 'test_rgb_000_0.png']
    assert panels(tmp_path / 'show') == names
    full, rgb = (
        mmcv.imread(str(next((tmp_path / 'show').rglob(name)))) for name in names
    )
    depth = slice(8 + 296 + 8, 8 + 296 + 80)
    assert set(np.unique(rgb[60:180, depth])) == {80, 160}
    assert len(np.unique(full[60:180, depth])) > 2


def batch(layout_channels=5, n=2, size=(8, 10)):
    samples = []
    for i in range(n):
        sample = SegDataSample(metainfo=dict(img_path=f'x/{i}.png', ori_shape=size))
        sample.pred_sem_seg = PixelData(data=torch.zeros(1, *size, dtype=torch.long))
        samples.append(sample)
    inputs = [torch.zeros(layout_channels, *size, dtype=torch.uint8) for _ in range(n)]
    return dict(inputs=inputs, data_samples=samples)


@pytest.fixture
def runner(modalities):
    preprocessor = ModalityPreprocessor(modalities=modalities)
    return SimpleNamespace(model=torch.nn.Module(), iter=70, preprocessor=preprocessor)


@pytest.fixture
def drawn(runner, monkeypatch):
    """Names and steps that reach the visualizer."""
    runner.model.data_preprocessor = runner.preprocessor
    calls = []
    visualizer = XModalVisualizer.get_instance('hook_calls')
    monkeypatch.setattr(
        visualizer,
        'add_datasample',
        lambda name, views, **kwargs: calls.append((name, kwargs['step'], kwargs)),
    )
    monkeypatch.setattr(Visualizer, 'get_current_instance', lambda: visualizer)
    return calls


def test_validation_draws_the_first_sample_of_every_intervalth_batch(runner, drawn):
    hook = XModalVisualizationHook(draw=True, interval=2, show=True, wait_time=1.5)
    for i in range(4):
        data = batch()
        hook.after_val_iter(runner, i, data, data['data_samples'])
    # Both are called 0: batches of folders with equal stems keep their own panels.
    assert [call[:2] for call in drawn] == [('val_0_0', 70), ('val_2_0', 70)]
    assert drawn[0][2]['show'] is True
    assert drawn[0][2]['wait_time'] == 1.5


def test_test_counts_samples_and_starts_anew_with_each_pass(runner, drawn):
    hook = XModalVisualizationHook(draw=True, interval=3)
    for _ in range(2):
        for i in range(2):
            data = batch()
            hook.after_test_iter(runner, i, data, data['data_samples'])
    expected = [('test_0', 0), ('test_1', 3)] * 2
    assert [call[:2] for call in drawn] == expected


def test_nothing_is_drawn_by_default(runner, drawn):
    data = batch()
    XModalVisualizationHook().after_test_iter(runner, 0, data, data['data_samples'])
    XModalVisualizationHook().after_val_iter(runner, 0, data, data['data_samples'])
    assert drawn == []


def test_stock_visualizer_is_refused_with_the_line_to_write(runner, monkeypatch):
    stock = SegLocalVisualizer(name='stock')
    monkeypatch.setattr(Visualizer, 'get_current_instance', lambda: stock)
    hook = XModalVisualizationHook(draw=True)
    data = batch()
    with pytest.raises(
        TypeError, match=r'SegLocalVisualizer.*mmseg_xmodal\.XModalVisualizer'
    ):
        hook.after_test_iter(runner, 0, data, data['data_samples'])


def test_interval_below_one_is_refused():
    with pytest.raises(ValueError, match=r'interval is 0.*default_hooks'):
        XModalVisualizationHook(interval=0)


def test_flipped_and_resized_inputs_are_shown_as_the_file_was(runner):
    data = batch(n=1)
    data['inputs'][0][2, :, :5] = 200  # red on the left of the flipped image
    data['data_samples'][0].set_metainfo(dict(flip=True, flip_direction='horizontal'))
    views = batch_views(data, 0, runner.preprocessor, (16, 20))
    assert views['rgb'].values.shape == (16, 20, 3)
    assert views['rgb'].values[0, -1].tolist() == [200, 0, 0]
    assert views['rgb'].values[0, 0].tolist() == [0, 0, 0]


def test_ordinary_three_channel_models_are_shown_too():
    data = batch(layout_channels=3, n=1)
    data['inputs'][0][0] = 90  # blue in BGR
    views = batch_views(data, 0, torch.nn.Identity(), (8, 10))
    assert views['image'].values[0, 0].tolist() == [0, 0, 90]
    with pytest.raises(ValueError, match=r'4 channels.*ModalityPreprocessor'):
        batch_views(batch(layout_channels=4), 0, torch.nn.Identity(), (8, 10))


def test_the_preprocessor_is_found_inside_wrappers(runner):
    inner = torch.nn.Module()
    inner.data_preprocessor = runner.preprocessor
    outer = torch.nn.Module()
    outer.data_preprocessor = torch.nn.Identity()
    outer.module = inner
    assert find_preprocessor(outer) is runner.preprocessor
    with pytest.raises(TypeError, match='no data_preprocessor'):
        find_preprocessor(torch.nn.Linear(1, 1))
