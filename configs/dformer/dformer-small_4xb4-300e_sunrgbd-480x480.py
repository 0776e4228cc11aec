"""DFormer-S on SUN RGB-D, RGB + depth.

Command: bash $TOOLS/dist_train.sh THIS_FILE 4 ($TOOLS: see README.md)
Hardware: 4 GPUs; official: 16 images in all.
Published: in the paper and the official README; not restated, since not checked here.
Measured here: not run.
"""

_base_ = ['./dformer-tiny_4xb4-300e_sunrgbd-480x480.py']
model = dict(
    backbone=dict(variant='dformer_small', pretrained='pretrain/DFormer_Small.pth.tar'),
    decode_head=dict(in_channels=[128, 256, 512]),
)
