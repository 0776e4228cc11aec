"""StitchFusion-B2 on DELIVER, RGB + HHA + events + LiDAR.

Command: bash $TOOLS/dist_train.sh THIS_FILE 8 ($TOOLS: see README.md)
Hardware: 8 GPUs, 8 images in all.
Published: mIoU 68.18 (official README, split not stated, its own evaluation on
    resized labels: docs/datasets.md).
Measured here: not run.
"""

_base_ = [
    '../_base_/models/stitchfusion_mit-b0.py',
    '../_base_/datasets/deliver.py',
    '../_base_/schedules/schedule_cmnext_200e.py',
    '../_base_/epoch_runtime.py',
]
modalities = _base_.modalities
model = dict(
    data_preprocessor=dict(
        modalities=modalities, size=_base_.crop_size, validity=False
    ),
    backbone=dict(
        modalities=modalities, variant='mit_b2', pretrained='pretrain/mit_b2.pth'
    ),
    decode_head=dict(
        in_channels=[64, 128, 320, 512],
        channels=512,
        loss_decode=dict(_delete_=True, type='mmseg_xmodal.OHEMCrossEntropyLoss'),
        num_classes=_base_.num_classes,
    ),
)
train_dataloader = dict(batch_size=1)
optim_wrapper = dict(type='AmpOptimWrapper')
