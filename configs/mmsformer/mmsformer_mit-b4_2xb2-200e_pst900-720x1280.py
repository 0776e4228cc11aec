"""MMSFormer-B4 on PST900, RGB + thermal.

Command: bash $TOOLS/dist_train.sh THIS_FILE 2 ($TOOLS: see README.md)
Hardware: 2 GPUs, 4 images in all, as in the official config.
Published: mIoU 87.45 (official README, 288 test images, its own evaluation on resized
    labels: docs/datasets.md).
Measured here: not run.
"""

_base_ = [
    '../_base_/models/mmsformer_mit-b1.py',
    '../_base_/datasets/pst900.py',
    '../_base_/schedules/schedule_cmnext_200e.py',
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
        channels=512,
        loss_decode=dict(_delete_=True, type='mmseg_xmodal.OHEMCrossEntropyLoss'),
        num_classes=_base_.num_classes,
    ),
)
optim_wrapper = dict(type='AmpOptimWrapper')
