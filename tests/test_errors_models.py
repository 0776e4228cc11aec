"""What the user gets for bad input that only a model can notice.

Every pattern matches the value, the place and the remedy.
"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.structures import PixelData
from mmseg.registry import MODELS as MMSEG_MODELS
from mmseg.structures import SegDataSample

from mmseg_xmodal.registry import MODELS

TINY = Path(__file__).parent / 'configs' / 'cmx_tiny.py'
THREE = dict(rgb=dict(channels=3, order='rgb'), d=dict(channels=1), t=dict(channels=1))


@pytest.fixture
def config() -> dict:
    return copy.deepcopy(Config.fromfile(TINY).model)


# --------------------------------------------------------------------------------------
# Channel mismatch between preprocessor and backbone.
# --------------------------------------------------------------------------------------
def test_preprocessor_and_backbone_with_other_modalities(config):
    config.backbone.modalities.depth.channels = 3
    model = MMSEG_MODELS.build(config)
    with pytest.raises(
        ValueError,
        match=r'got 4 channels.*rgb=3, depth=3\) make 6 .*same `modalities` dict',
    ):
        model.backbone(torch.zeros(1, 4, 64, 96))


# --------------------------------------------------------------------------------------
# First convolution of a backbone that sets its channels by itself.
# --------------------------------------------------------------------------------------
def test_first_convolution_of_another_width():
    modalities = dict(rgb=THREE['rgb'], depth=dict(channels=1))
    backbone = dict(type='mmseg.ResNet', depth=18, in_channels=3)
    pattern = (
        r'backbone config says in_channels=3, but its .*rgb.*depth.*4 channels in all.*'
        r'Remove in_channels .*or change `modalities` or `streams`'
    )
    with pytest.raises(ValueError, match=pattern):
        MODELS.build(
            dict(
                type='mmseg_xmodal.MultiStreamBackbone',
                modalities=modalities,
                streams=dict(early=['rgb', 'depth']),
                backbone=backbone,
            )
        )


# --------------------------------------------------------------------------------------
# A batch whose labels are all ignored: finite zero loss, training goes on.
# --------------------------------------------------------------------------------------
@pytest.mark.parametrize('avg_non_ignore', [False, True])
@pytest.mark.parametrize('head', ['CMXHead', 'FastSegformerHead'])
def test_a_batch_of_ignored_labels(config, avg_non_ignore, head):
    config.decode_head.type = f'mmseg_xmodal.{head}'
    config.decode_head.loss_decode.avg_non_ignore = avg_non_ignore
    model = MMSEG_MODELS.build(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    wrapper = OptimWrapper(optimiser)
    sample = SegDataSample(metainfo=dict(img_shape=(64, 96), ori_shape=(64, 96)))
    sample.gt_sem_seg = PixelData(data=torch.full((1, 64, 96), 255))
    stack = torch.randint(0, 256, (5, 64, 96), dtype=torch.uint8)
    batch = dict(inputs=[stack, stack], data_samples=[sample, sample.clone()])
    logged = model.train_step(batch, wrapper)
    assert logged['loss'].item() == 0
    assert all(torch.isfinite(p).all() for p in model.parameters())
    for other in batch['data_samples']:
        other.gt_sem_seg.data[..., :32] = 1
    assert model.train_step(batch, wrapper)['loss'].item() > 0


# --------------------------------------------------------------------------------------
# Pairwise fusion with three streams.
# --------------------------------------------------------------------------------------
@pytest.mark.parametrize('name', ['FeatureRectifyModule', 'FeatureFusionModule'])
def test_pairwise_fusion_of_three_streams(name):
    fusion = MODELS.build(dict(type=f'mmseg_xmodal.{name}', channels=8))
    feats = [torch.zeros(1, 8, 4, 4)] * 3
    with pytest.raises(ValueError, match=rf'{name}.*3.*streams=.*MeanFusion'):
        fusion(feats, None)


def test_a_pairwise_backbone_of_three_streams():
    with pytest.raises(ValueError, match=r'2 streams, got 3: .*streams=dict\(rgb='):
        MODELS.build(dict(type='mmseg_xmodal.CMX', modalities=THREE, variant='mit_b0'))
