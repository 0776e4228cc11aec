"""CMX-B4 on NYU Depth V2, RGB + HHA.

Command: bash $TOOLS/dist_train.sh THIS_FILE 4 ($TOOLS: see README.md)
Hardware: 4 GPUs, 8 images in all; the authors had 4 RTX 2080 Ti.
Published: mIoU 56.0, with flip and scales .75, 1, 1.25 56.3 (official README, 654
    test images, its own evaluation: docs/datasets.md).
Measured here: not run.
"""

_base_ = [
    '../_base_/models/cmx_mit-b0.py',
    '../_base_/datasets/nyudv2_hha.py',
    '../_base_/schedules/schedule_cmx_500e.py',
    '../_base_/epoch_runtime.py',
]
modalities = _base_.modalities
model = dict(
    data_preprocessor=dict(
        modalities=modalities, size=_base_.crop_size, validity=False
    ),
    backbone=dict(
        modalities=modalities, variant='mit_b4', pretrained='pretrain/mit_b4.pth'
    ),
    decode_head=dict(
        in_channels=[64, 128, 320, 512],
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        loss_decode=dict(avg_non_ignore=True),
        num_classes=_base_.num_classes,
    ),
)
