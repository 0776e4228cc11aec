"""StitchFusion-B4 on NYU Depth V2, RGB + HHA.

Command: bash $TOOLS/dist_train.sh THIS_FILE 2 ($TOOLS: see README.md)
Hardware: 2 GPUs, 4 images in all, as in the official config.
Published: none that was checked here.
Measured here: not run.
"""

_base_ = [
    '../_base_/models/stitchfusion_mit-b0.py',
    '../_base_/datasets/nyudv2_hha_jitter.py',
    '../_base_/schedules/schedule_cmnext_400e.py',
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
        channels=512,
        loss_decode=dict(_delete_=True, type='mmseg_xmodal.OHEMCrossEntropyLoss'),
        num_classes=_base_.num_classes,
    ),
)
train_dataloader = dict(batch_size=2)
optim_wrapper = dict(type='AmpOptimWrapper', optimizer=dict(lr=8e-5))
