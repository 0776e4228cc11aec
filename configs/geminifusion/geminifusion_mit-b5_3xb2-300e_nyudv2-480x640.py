"""GeminiFusion-B5 on NYU Depth V2, RGB + depth.

Command: bash $TOOLS/dist_train.sh THIS_FILE 3 ($TOOLS: see README.md)
Hardware: 3 GPUs, 6 images in all, as published.
Published: mIoU 57.7 (official README, 654 test images, single scale, its own
    evaluation on resized labels with bicubic logits: docs/datasets.md).
Measured here: not run.
"""

_base_ = ['./geminifusion_mit-b3_3xb2-300e_nyudv2-480x640.py']
model = dict(
    backbone=dict(
        variant='mit_b5', drop_path_rate=0.35, pretrained='pretrain/mit_b5.pth'
    )
)
