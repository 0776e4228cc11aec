"""CMNeXt-B2 on MCubeS, RGB + angle and degree of polarisation + NIR.

Command: bash $TOOLS/dist_train.sh THIS_FILE 4 ($TOOLS: see README.md)
Hardware: the authors had 4 A100, 4 images each.
Published: mIoU 51.54 (official README, 1024 x 1024 pixels of the test images:
    docs/datasets.md).
Measured here: not run.
"""

_base_ = [
    '../_base_/models/cmnext_mit-b2.py',
    '../_base_/datasets/mcubes.py',
    '../_base_/schedules/schedule_cmnext_500e.py',
    '../_base_/epoch_runtime.py',
]
modalities = _base_.modalities
model = dict(
    data_preprocessor=dict(
        modalities=modalities, size=_base_.crop_size, validity=False
    ),
    backbone=dict(
        modalities=modalities,
        streams=dict(
            rgb=['rgb'],
            aolp=['aolp_sin', 'aolp_cos', 'aolp_sin'],
            dolp=['dolp'],
            nir=['nir'],
        ),
        pretrained='pretrain/mit_b2.pth',
    ),
    decode_head=dict(
        loss_decode=dict(_delete_=True, type='mmseg_xmodal.OHEMCrossEntropyLoss'),
        num_classes=_base_.num_classes,
    ),
)
