"""DFormer-B on NYU Depth V2, RGB + depth.

Command: bash $TOOLS/dist_train.sh THIS_FILE 4 ($TOOLS: see README.md)
Hardware: 4 GPUs; official: 8 images in all.
Published: in the paper and the official README; not restated, since not checked here.
Measured here: not run.
"""

_base_ = [
    '../_base_/models/dformer_tiny.py',
    '../_base_/datasets/nyudv2_depth.py',
    '../_base_/schedules/schedule_cmx_500e.py',
    '../_base_/epoch_runtime.py',
]
modalities = _base_.modalities
model = dict(
    data_preprocessor=dict(
        modalities=modalities, size=_base_.crop_size, validity=False
    ),
    backbone=dict(
        modalities=modalities,
        variant='dformer_base',
        drop_path_rate=0.1,
        pretrained='pretrain/DFormer_Base.pth.tar',
    ),
    decode_head=dict(
        in_channels=[128, 256, 512],
        loss_decode=dict(avg_non_ignore=True),
        num_classes=_base_.num_classes,
    ),
)
sync_bn = 'torch'
train_dataloader = dict(batch_size=2)
