"""gates.py: which half is missing, and what is averaged."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from tests.benchmark_scripts import load_script
from tests.integration.helpers import TINY

GATES = load_script('gates')
MODEL = dict(
    data_preprocessor=dict(validity=True),
    backbone=dict(
        _delete_=True,
        type='mmseg_xmodal.MultiStreamBackbone',
        modalities=dict(
            rgb=dict(channels=3, order='rgb', mean=[120.0], std=[60.0]),
            depth=dict(channels=1, mean=[120.0], std=[60.0], dtype='uint8', invalid=0),
        ),
        backbone=dict(
            type='mmseg_xmodal.MixTransformer',
            variant=dict(
                embed_dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4)
            ),
        ),
        fusion=dict(type='mmseg_xmodal.StackStreams'),
    ),
    neck=dict(type='mmseg_xmodal.AdaptiveGateNeck', in_channels=[8, 16, 24, 32]),
)


def test_halves():
    gates = np.zeros((2, 4, 6))
    gates[0, :, 3:] = 1
    gates[1, :, :3] = 1
    assert GATES.halves(gates).tolist() == [[0, 1], [1, 0]]


def test_a_model_without_gates_is_refused():
    with pytest.raises(
        ValueError, match=r'Linear has no mmseg_xmodal.AdaptiveGateNeck'
    ):
        GATES.find_neck(torch.nn.Linear(1, 1))


@pytest.mark.slow
def test_the_gate_of_depth_is_shut_where_depth_is_missing(rgbd_root, tmp_path):
    config = tmp_path / 'gate.py'
    config.write_text(f"_base_ = ['{TINY}']\nmodel = {MODEL!r}\n")
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(config).model)
    checkpoint = tmp_path / 'weights.pth'
    torch.save(dict(state_dict=model.state_dict()), checkpoint)
    out, panel = tmp_path / 'gates.json', tmp_path / 'gates.png'
    threads = torch.get_num_threads()
    arguments = [str(config), str(checkpoint), '--missing', 'depth']
    arguments += ['--data-root', str(rgbd_root), '--panel', str(panel)]
    GATES.main([*arguments, '--out', str(out)])
    torch.set_num_threads(threads)
    result = json.loads(out.read_text())
    assert result['header'] == [
        'level',
        'rgb, present',
        'rgb, missing',
        'depth, present',
        'depth, missing',
    ]
    mean = dict(zip(result['header'], result['rows'][-1], strict=True))
    assert float(mean['rgb, missing']) > float(mean['rgb, present']) + 0.2
    assert panel.stat().st_size > 1000
    args = GATES.parse_args([*arguments, '--missing', 'rgb'])
    with pytest.raises(ValueError, match=r"'rgb' has no validity channel"):
        GATES.run(args)
