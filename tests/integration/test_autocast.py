"""bfloat16 on the CPU: forward, loss and backward under ``torch.autocast``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import Runner

from .helpers import write_config


@pytest.fixture
def config(tmp_path: Path, rgbd_root: Path) -> Config:
    return Config.fromfile(write_config(tmp_path, 'tiny', rgbd_root))


def test_loss_and_gradients_are_finite(config: Config):
    torch.manual_seed(0)
    model = MODELS.build(config.model).train()
    loader = Runner.build_dataloader(config.train_dataloader, seed=0)
    batch = model.data_preprocessor(next(iter(loader)), training=True)
    with torch.autocast('cpu', torch.bfloat16):
        assert model.backbone(batch['inputs'])[0].dtype == torch.bfloat16
        losses = model(**batch, mode='loss')
    loss, _ = model.parse_losses(losses)
    assert loss.dtype == torch.float32  # mmseg's cross entropy leaves bfloat16
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_prediction_is_close_to_float32(config: Config):
    torch.manual_seed(0)
    model = MODELS.build(config.model).eval()
    loader = Runner.build_dataloader(config.test_dataloader, seed=0)
    batch = model.data_preprocessor(next(iter(loader)), training=False)
    with torch.inference_mode():
        exact = model(**batch, mode='tensor')
        with torch.autocast('cpu', torch.bfloat16):
            rounded = model(**batch, mode='tensor')
    # bfloat16 keeps 8 bits; a few layers add up.
    scale = exact.abs().max()
    assert 0 < (rounded.float() - exact).abs().max() < 0.05 * scale


def test_slide_over_the_whole_image_is_whole_inference(config: Config):
    model = MODELS.build(config.model).eval()
    loader = Runner.build_dataloader(config.test_dataloader, seed=0)
    batch = model.data_preprocessor(next(iter(loader)), training=False)
    metas = [sample.metainfo for sample in batch['data_samples']]
    with torch.inference_mode():
        whole = model.inference(batch['inputs'], metas)
        model.test_cfg.update(mode='slide', crop_size=(64, 96), stride=(64, 96))
        slid = model.inference(batch['inputs'], metas)
    assert torch.equal(whole, slid)
