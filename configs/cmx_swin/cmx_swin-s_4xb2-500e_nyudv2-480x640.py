"""CMX with Swin-S streams on NYU Depth V2, RGB + HHA: the recipe of CMX-B2.

Command: bash $TOOLS/dist_train.sh THIS_FILE 4 ($TOOLS: see README.md)
Hardware: 4 GPUs, 8 images in all.
Published: none for this data set that was checked.
Measured here: not run.
"""

_base_ = [
    '../_base_/models/cmx_swin-s.py',
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
        modalities=modalities, pretrained='pretrain/swin_small_patch4_window7_224.pth'
    ),
    decode_head=dict(
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        loss_decode=dict(avg_non_ignore=True),
        num_classes=_base_.num_classes,
    ),
)
