"""The lines of configs/attention/README.md, on a stock config of mmseg."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

from .helpers import ROOT
from .test_adaptation_recipe import stock_config

STOCK = 'upernet/upernet_r50_*-40k_cityscapes-512x1024.py'
DOCUMENT = ROOT / 'configs/attention/README.md'
BLOCKS = re.findall(r'```python\n(_base_.*?)```', DOCUMENT.read_text(), re.DOTALL)
SEVERAL = ('AdaptiveGateNeck', 'CrossModalAttentionNeck', 'DeformableFusionNeck')
CASES = [(i, re.findall(r'xmodal\.(\w+Neck)', b)[0]) for i, b in enumerate(BLOCKS)]
CASES += [(len(BLOCKS) - 1, name) for name in SEVERAL[1:]]


def test_every_neck_has_its_lines() -> None:
    assert [name for _, name in CASES] == [
        'SelfAttentionNeck',
        'PromptAttentionNeck',
        *SEVERAL,
    ]
    for block in BLOCKS:
        assert len(block.splitlines()) < 10
        (name,) = re.findall(r"_base_ = \['(.*?)'\]", block)
        assert stock_config(f'upernet/{name}').name == name


@pytest.mark.parametrize(('block', 'neck'), CASES, ids=[name for _, name in CASES])
def test_a_stock_model_gets_its_attention_variant(
    block: int, neck: str, tmp_path: Path
) -> None:
    lines = re.sub(
        r"^_base_ = \['.*?'\]",
        f'_base_ = [{str(stock_config(STOCK))!r}]',
        BLOCKS[block],
    )
    path = tmp_path / 'attention.py'
    path.write_text(lines.replace(SEVERAL[0], neck) if neck in SEVERAL else lines)
    cfg = Config.fromfile(path)
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    assert type(model.neck).__name__ == neck
    channels = 6 if neck in SEVERAL else 3  # rgb, depth and their validity
    inputs = torch.rand(2, channels, 64, 64).round(decimals=1).requires_grad_()
    logits = model(inputs)
    assert logits.shape[:2] == (2, 19)
    logits.square().sum().backward()
    assert [n for n, p in model.neck.named_parameters() if p.grad is None] == []
    assert all(inputs.grad[:, i].any() for i in range(3 + (neck in SEVERAL)))
