"""Every backbone of ours under heads of mmseg."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mmseg
import pytest
import torch
from mmengine.config import Config
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from tests.test_models.helpers import rand, randomise, require
from tests.test_registered_parts import BACKBONES, NEEDS

COMMON: dict[str, Any] = dict(
    num_classes=3, channels=8, dropout_ratio=0.0, align_corners=False
)
HEADS = {
    'UPerHead': dict(pool_scales=(1, 2)),
    'SegformerHead': dict(),
    'FPNHead': dict(feature_strides=[4, 8, 16, 32]),
}


@pytest.mark.parametrize('head', HEADS)
@pytest.mark.parametrize('name', BACKBONES)
def test_trains_a_stock_head(name: str, head: str):
    require(*NEEDS.get(name, ()))
    torch.manual_seed(0)
    backbone = MODELS.build(dict(type=f'mmseg_xmodal.{name}', **BACKBONES[name]))
    widths = list(backbone.out_channels)
    decoder = dict(type=head, in_channels=widths, in_index=[0, 1, 2, 3])
    norm = dict(norm_cfg=dict(type='GN', num_groups=2))
    stock = MODELS.build(dict(**decoder, **COMMON, **norm, **HEADS[head]))
    x = torch.randn(2, 4, 64, 64, requires_grad=True)
    labels = torch.randint(0, 3, (1, 64, 64))
    sample = SegDataSample(gt_sem_seg=PixelData(data=labels))
    losses = stock.loss(backbone(x), [sample, sample], train_cfg={})
    losses['loss_ce'].backward()
    assert all((x.grad[:, c] != 0).any() for c in range(4))


def test_a_stock_config_whose_head_type_alone_changes():
    """A trained SegFormer loads strictly, and has the same logits."""
    folder = Path(mmseg.__file__).parent / '.mim' / 'configs' / 'segformer'
    cfg = Config.fromfile(folder / 'segformer_mit-b0_8xb2-160k_ade20k-512x512.py')
    # Nothing is downloaded.
    cfg.model.pretrained = cfg.model.backbone.init_cfg = None
    stock = MODELS.build(cfg.model).double().eval()
    assert type(stock.decode_head).__name__ == 'SegformerHead'
    randomise(stock)
    cfg.model.decode_head.type = 'mmseg_xmodal.FastSegformerHead'
    ours = MODELS.build(cfg.model).double().eval()
    assert type(ours.decode_head).__name__ == 'FastSegformerHead'
    ours.load_state_dict(stock.state_dict(), strict=True)
    x = rand(2, 3, 72, 104, dtype=torch.float64)
    with torch.no_grad():
        logits = ours(x, mode='tensor')
        torch.testing.assert_close(logits, stock(x, mode='tensor'))
    assert logits.shape == (2, 150, 18, 26)
    assert logits.std() > 0.1


def test_trains_mask2former():
    """mmseg takes this head from mmdet, which needs mmcv's compiled operators."""
    pytest.importorskip('mmdet.models', exc_type=ImportError)
    folder = Path(mmseg.__file__).parent / '.mim' / 'configs' / 'mask2former'
    cfg = Config.fromfile(folder / 'mask2former_r50_8xb2-90k_cityscapes-512x1024.py')
    decoder = cfg.model.decode_head
    decoder.update(in_channels=[8, 16, 24, 32], num_classes=3, num_queries=5)
    decoder.loss_cls.class_weight = [1.0, 1.0, 1.0, 0.1]
    decoder.pixel_decoder.encoder.num_layers = 1
    decoder.transformer_decoder.num_layers = 1
    decoder.pixel_decoder.num_outs = 3
    torch.manual_seed(0)
    backbone = MODELS.build(dict(type='mmseg_xmodal.CMX', **BACKBONES['CMX']))
    head = MODELS.build(decoder)
    x = torch.randn(2, 4, 64, 64, requires_grad=True)
    labels = torch.arange(3).repeat_interleave(22)[:64].expand(1, 64, 64)
    meta = dict(img_shape=(64, 64), batch_input_shape=(64, 64), pad_shape=(64, 64))
    sample = SegDataSample(gt_sem_seg=PixelData(data=labels), metainfo=meta)
    losses = head.loss(backbone(x), [sample, sample], train_cfg=decoder.train_cfg)
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    assert all((x.grad[:, c] != 0).any() for c in range(4))
