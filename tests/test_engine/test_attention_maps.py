"""The hook that draws attention and gate maps, inside a real runner and by itself."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import mmcv
import numpy as np
import pytest
import torch
from mmengine import Config
from mmengine.runner import Runner
from mmengine.visualization import Visualizer
from mmseg.visualization import SegLocalVisualizer

from mmseg_xmodal.engine import AttentionMapHook
from mmseg_xmodal.engine.hooks.attention_maps import sample_maps
from mmseg_xmodal.models.layers.map_probe import MapProbe
from mmseg_xmodal.registry import MODELS
from mmseg_xmodal.visualization import XModalVisualizer
from mmseg_xmodal.visualization.colours import viridis
from mmseg_xmodal.visualization.maps import map_tile

CONFIG = Path(__file__).parents[1] / 'configs' / 'cmx_tiny.py'
WIDTHS = [8, 16, 24, 32]
MIT = dict(embed_dims=WIDTHS, depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4))


def network_config(modalities: dict, neck: dict | None = None, **settings) -> dict:
    fusion = 'MeanFusion' if neck is None else 'StackStreams'
    cfg = dict(
        type='EncoderDecoder',
        data_preprocessor=dict(
            type='mmseg_xmodal.ModalityPreprocessor',
            modalities=modalities,
            validity=True,
            test_cfg=dict(size_divisor=32),
        ),
        backbone=dict(
            type='mmseg_xmodal.MultiStreamBackbone',
            modalities=modalities,
            backbone=dict(type='mmseg_xmodal.MixTransformer', variant=MIT),
            fusion=dict(type=f'mmseg_xmodal.{fusion}'),
        ),
        decode_head=dict(
            type='mmseg_xmodal.FastSegformerHead',
            in_channels=WIDTHS,
            in_index=[0, 1, 2, 3],
            channels=16,
            num_classes=4,
        ),
        test_cfg=dict(mode='whole'),
    )
    if neck is not None:
        cfg['neck'] = dict(in_channels=WIDTHS, **neck)
    return cfg | settings


GATE = dict(type='mmseg_xmodal.AdaptiveGateNeck', threshold=0.0)


def runner_config(root, work_dir, name, neck=GATE, **hook) -> Config:
    cfg = Config.fromfile(CONFIG)
    for part in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        cfg[part].dataset.data_root = str(root)
    cfg.model = network_config(cfg.modalities, neck)
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = name
    cfg.visualizer.update(name=name, save_dir=str(work_dir / 'show'))
    cfg.custom_hooks.append(dict(type='mmseg_xmodal.AttentionMapHook', **hook))
    return cfg


def panels(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob('*.png'))


@pytest.fixture
def network(modalities):
    torch.manual_seed(0)
    return MODELS.build(network_config(modalities, GATE)).eval()


def stack(depth_missing: slice | None = None, size=(64, 96)) -> torch.Tensor:
    """RGB, depth and the validity of depth, as the pipeline stacks them."""
    torch.manual_seed(1)
    values = torch.randint(1, 255, (5, *size), dtype=torch.uint8)
    values[4] = 255
    if depth_missing is not None:
        values[3:, :, depth_missing] = 0
    return values


META = dict(ori_shape=(64, 96), img_path='x/a.png')


def test_test_loop_writes_panels_with_every_map(rgbd_root, tmp_path):
    Runner.from_cfg(runner_config(rgbd_root, tmp_path, 'maps', interval=3)).test()
    names = ['test_maps_000_0.png', 'test_maps_003_3.png', 'test_maps_006_6.png']
    assert panels(tmp_path / 'show') == names
    (path,) = (tmp_path / 'show').rglob(names[1])
    panel = mmcv.imread(str(path))
    # rgb, depth and 4 levels x 2 gates in two rows: 96 pixels wide, enlarged threefold.
    assert panel.shape[1] == 5 * 288 + 6 * 8
    assert panel.shape[0] > 2 * 192


def test_levels_and_validation_and_slide_and_subsets(rgbd_root, tmp_path):
    cfg = runner_config(rgbd_root, tmp_path, 'maps_some', interval=8, levels=[1])
    cfg.model.test_cfg = dict(mode='slide', crop_size=(64, 64), stride=(64, 32))
    cfg.test_cfg = dict(
        type='mmseg_xmodal.ModalitySubsetTestLoop', subsets=[['rgb'], ['rgb', 'depth']]
    )
    runner = Runner.from_cfg(cfg)
    runner.test()
    runner.val()
    names = [
        'test_maps_depth+rgb_000_0.png',
        'test_maps_rgb_000_0.png',
        'val_maps_000_0.png',
    ]
    assert panels(tmp_path / 'show') == names
    full, rgb = (
        mmcv.imread(str(next((tmp_path / 'show').rglob(name))), channel_order='rgb')
        for name in names[:2]
    )
    assert rgb.shape[1] == 4 * 288 + 5 * 8  # one level: rgb, depth and two gates
    # Without depth the gate of RGB is 1 and that of depth 0 everywhere.
    ends = viridis(np.array([[1.0, 0.0]]))[0]
    for end, left in zip(ends, (8 + 2 * 296, 8 + 3 * 296), strict=True):
        assert (rgb[80:180, left + 10 : left + 270] == end).all()
        assert not (full[80:180, left + 10 : left + 270] == end).all()


def test_tta_draws_once_per_sample(rgbd_root, tmp_path):
    cfg = runner_config(rgbd_root, tmp_path, 'maps_tta', interval=4)
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    cfg.tta_model.module = cfg.model
    cfg.model = cfg.tta_model
    Runner.from_cfg(cfg).test()
    names = ['test_maps_000_0.png', 'test_maps_004_4.png']
    assert panels(tmp_path / 'show') == names


def test_maps_name_the_streams_and_leave_the_padding_out(network):
    images = stack(size=(56, 80))  # padded to 64 x 96
    maps = sample_maps(network, network.data_preprocessor, images, META)['neck']
    assert [m.title for m in maps[:3]] == [
        'level 0: gate of rgb',
        'level 0: gate of depth',
        'level 1: gate of rgb',
    ]
    assert [tuple(m.values.shape) for m in maps[::2]] == [
        (1, 14, 20),
        (1, 7, 10),
        (1, 4, 5),
        (1, 2, 3),
    ]


def test_looking_leaves_nothing_behind(network):
    network.train()
    images = stack()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    sample_maps(network, network.data_preprocessor, images, META)
    assert network.training
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    probes = [m for m in network.modules() if isinstance(m, MapProbe)]
    assert len(probes) == 1
    assert not probes[0].is_watched


def test_the_gate_of_rgb_rises_where_depth_is_missing(network):
    images = stack(depth_missing=slice(48, None))
    maps = sample_maps(network, network.data_preprocessor, images, META)['neck']
    for shown in (m for m in maps if m.title.endswith('of rgb')):
        gates = shown.values[0]
        left, right = gates.split(gates.shape[1] // 2 + gates.shape[1] % 2, 1)
        assert right.mean() >= left.mean() + 0.2, shown.title


@pytest.mark.parametrize(
    'neck',
    [
        dict(type='mmseg_xmodal.CrossModalAttentionNeck'),
        dict(type='mmseg_xmodal.DeformableFusionNeck', embed_dims=16),
    ],
    ids=['cross', 'deformable'],
)
def test_other_necks_are_drawn_too(modalities, neck):
    network = MODELS.build(network_config(modalities, neck)).eval()
    maps = sample_maps(network, network.data_preprocessor, stack(), META)['neck']
    assert 'level 3: attention to depth' in [m.title for m in maps]


def test_a_map_is_drawn_in_cells_on_its_scale():
    values = np.array([[0.0, 0.5], [1.0, 2.0]], np.float32)
    tile = map_tile('gate', values, (4, 6), (0.0, 1.0))
    assert tile.image.shape == (4, 6, 3)
    assert tile.limits == (0.0, 1.0)
    assert tile.caption == 'gate, mean 0.875'
    expected = viridis(np.array([[0.0, 0.5], [1.0, 1.0]]))
    assert (tile.image[::2, ::3] == expected).all()
    assert map_tile('own range', values, (4, 6)).limits[1] > 1.9


def _hook_on(model, monkeypatch, visualizer, **settings):
    monkeypatch.setattr(Visualizer, 'get_current_instance', lambda: visualizer)
    runner = SimpleNamespace(model=model, iter=3)
    batch = dict(inputs=[stack()], data_samples=[SimpleNamespace(metainfo=dict(META))])
    AttentionMapHook(**settings).after_test_iter(runner, 0, batch, None)


def test_what_cannot_be_drawn_is_refused(modalities, network, monkeypatch):
    ours = XModalVisualizer(name='maps_refused')
    plain = MODELS.build(network_config(modalities))
    with pytest.raises(ValueError, match='no module that shows.*AdaptiveGateNeck'):
        _hook_on(plain, monkeypatch, ours)
    with pytest.raises(ValueError, match=r"modules=\('head',\).*\['neck'\]"):
        _hook_on(network, monkeypatch, ours, modules=['head'])
    stock = SegLocalVisualizer(name='maps_stock')
    with pytest.raises(TypeError, match=r'SegLocalVisualizer.*XModalVisualizer'):
        _hook_on(network, monkeypatch, stock)
    with pytest.raises(ValueError, match='interval is 0, expected 1'):
        AttentionMapHook(interval=0)


def test_switched_off_it_does_nothing(modalities, monkeypatch):
    plain = MODELS.build(network_config(modalities))
    _hook_on(plain, monkeypatch, None, draw=False)
