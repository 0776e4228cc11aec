"""DFormer-L on NYU Depth V2, RGB + depth.

Command: bash $TOOLS/dist_train.sh THIS_FILE 4 ($TOOLS: see README.md)
Hardware: 4 GPUs; official: 8 images in all.
Published: in the paper and the official README; not restated, since not checked here.
Measured here: not run.
"""

_base_ = ['./dformer-tiny_4xb2-500e_nyudv2-480x640.py']
model = dict(
    backbone=dict(
        variant='dformer_large',
        drop_path_rate=0.15,
        pretrained='pretrain/DFormer_Large.pth.tar',
    ),
    decode_head=dict(in_channels=[192, 288, 576]),
)
