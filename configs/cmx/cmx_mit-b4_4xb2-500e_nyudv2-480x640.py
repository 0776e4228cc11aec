"""CMX-B4 on NYU Depth V2, RGB + HHA.

Command: bash $TOOLS/dist_train.sh THIS_FILE 4 ($TOOLS: see README.md)
Hardware: 4 GPUs, 8 images in all; the authors had 4 RTX 2080 Ti.
Published: mIoU 56.0, with flip and scales .75, 1, 1.25 56.3 (official README, 654
    test images, its own evaluation: docs/datasets.md).
Measured here: not run.
"""

_base_ = ['./cmx_mit-b2_4xb2-500e_nyudv2-480x640.py']
model = dict(backbone=dict(variant='mit_b4', pretrained='pretrain/mit_b4.pth'))
