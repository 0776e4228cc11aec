"""CMNeXt-B2 on DELIVER, RGB + events.

Command: bash $TOOLS/dist_train.sh THIS_FILE 4 ($TOOLS: see README.md)
Hardware: the authors had 4 A100, 2 images each.
Published: mIoU 57.48 (official README, validation images, its own evaluation on
    resized labels: docs/datasets.md).
Measured here: not run.
"""

_base_ = [
    '../_base_/models/cmnext_mit-b2.py',
    '../_base_/datasets/deliver.py',
    '../_base_/schedules/schedule_cmnext_200e.py',
    '../_base_/epoch_runtime.py',
]
modalities = [_base_.modalities[i] for i in (0, 2)]
model = dict(
    data_preprocessor=dict(
        modalities=modalities, size=_base_.crop_size, validity=False
    ),
    backbone=dict(modalities=modalities, pretrained='pretrain/mit_b2.pth'),
    decode_head=dict(
        loss_decode=dict(_delete_=True, type='mmseg_xmodal.OHEMCrossEntropyLoss'),
        num_classes=_base_.num_classes,
    ),
)
data = dict(dataset=dict(modalities=modalities))
train_dataloader = val_dataloader = test_dataloader = data
