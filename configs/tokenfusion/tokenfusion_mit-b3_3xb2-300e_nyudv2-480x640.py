"""TokenFusion-B3 on NYU Depth V2, RGB + depth.

Command: bash $TOOLS/dist_train.sh THIS_FILE 3 ($TOOLS: see README.md)
Hardware: 3 GPUs, 6 images in all, as GeminiFusion's code, which continues this one's.
Published: mIoU 54.8 (official README, 654 test images, single scale), with a weight of
    1e-6 of the scores; this network is not proved equal: README.md.
Measured here: not run.
"""

_base_ = [
    '../_base_/models/tokenfusion_mit-b0.py',
    '../_base_/datasets/nyudv2_depth_jitter.py',
    '../_base_/schedules/schedule_tokenfusion_300e.py',
    '../_base_/epoch_runtime.py',
]
modalities = _base_.modalities
model = dict(
    data_preprocessor=dict(
        modalities=modalities, size=_base_.crop_size, validity=False
    ),
    backbone=dict(
        modalities=modalities, variant='mit_b3', pretrained='pretrain/mit_b3.pth'
    ),
    decode_head=dict(
        loss_decode=dict(avg_non_ignore=True), num_classes=_base_.num_classes
    ),
)
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='mmseg_xmodal.FreezeNormStatsHook'),
]
