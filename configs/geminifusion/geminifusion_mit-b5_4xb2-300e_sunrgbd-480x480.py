"""GeminiFusion-B5 on SUN RGB-D, RGB + depth.

Command: bash $TOOLS/dist_train.sh THIS_FILE 4 ($TOOLS: see README.md)
Hardware: 4 GPUs, 8 images in all, as published.
Published: mIoU 53.3 (official README, 5050 test images, single scale, its own
    evaluation on resized labels with bicubic logits: docs/datasets.md).
Measured here: not run.
"""

_base_ = ['./geminifusion_mit-b3_4xb2-300e_sunrgbd-480x480.py']
model = dict(backbone=dict(variant='mit_b5', pretrained='pretrain/mit_b5.pth'))
optim_wrapper = dict(optimizer=dict(weight_decay=0.05))
