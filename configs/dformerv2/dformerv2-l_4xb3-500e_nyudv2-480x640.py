"""DFormerv2-L on NYU Depth V2, RGB + depth.

Command: bash $TOOLS/dist_train.sh THIS_FILE 4 ($TOOLS: see README.md)
Hardware: 4 GPUs; official: 12 images in all.
Published: in the paper and the official README; not restated, since not checked here.
Measured here: not run.
"""

_base_ = ['./dformerv2-s_4xb4-500e_nyudv2-480x640.py']
model = dict(
    backbone=dict(
        variant='dformerv2_l',
        drop_path_rate=0.3,
        pretrained='pretrain/DFormerv2_Large_pretrained.pth',
    ),
    decode_head=dict(in_channels=[224, 448, 640], channels=1024),
)
train_dataloader = dict(batch_size=3)
