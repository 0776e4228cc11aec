"""GeminiFusion-Swin-L (384) on SUN RGB-D, RGB + depth.

Command: bash $TOOLS/dist_train.sh THIS_FILE 4 ($TOOLS: see README.md)
Hardware: 4 GPUs, 8 images in all, as published.
Published: mIoU 54.8 (official README, 5050 test images, single scale, its own
    evaluation on resized labels with bicubic logits: docs/datasets.md).
Measured here: not run.
"""

_base_ = ['./geminifusion_mit-b3_4xb2-300e_sunrgbd-480x480.py']
model = dict(
    backbone=dict(
        variant='swin_l_384',
        drop_path_rate=0.4,
        pretrained='pretrain/swin_large_patch4_window12_384_22k.pth',
    ),
    decode_head=dict(in_channels=[384, 768, 1536, 3072]),
)
