"""CMNeXt-B4 on MFNet, RGB + thermal.

Command: bash $TOOLS/dist_train.sh THIS_FILE 4 ($TOOLS: see README.md)
Hardware: the authors had 4 A100, 4 images each.
Published: mIoU 59.9 (official README, test images, its own evaluation on resized
    labels: docs/datasets.md).
Measured here: not run.
"""

_base_ = [
    '../_base_/models/cmnext_mit-b2.py',
    '../_base_/datasets/mfnet_jitter.py',
    '../_base_/schedules/schedule_cmnext_500e.py',
    '../_base_/epoch_runtime.py',
]
modalities = _base_.modalities
model = dict(
    data_preprocessor=dict(
        modalities=modalities, size=_base_.crop_size, validity=False
    ),
    backbone=dict(
        modalities=modalities, variant='cmnext_b4', pretrained='pretrain/mit_b4.pth'
    ),
    decode_head=dict(
        loss_decode=dict(avg_non_ignore=True), num_classes=_base_.num_classes
    ),
)
