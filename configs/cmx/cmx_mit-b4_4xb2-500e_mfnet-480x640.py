"""CMX-B4 on MFNet, RGB + thermal.

Command: bash $TOOLS/dist_train.sh THIS_FILE 4 ($TOOLS: see README.md)
Hardware: 4 GPUs, 8 images in all.
Published: mIoU 59.7 (official README, 393 test images, trained on train and val, its
    own evaluation: docs/datasets.md).
Measured here: not run.
"""

_base_ = ['./cmx_mit-b2_4xb2-500e_mfnet-480x640.py']
model = dict(backbone=dict(variant='mit_b4', pretrained='pretrain/mit_b4.pth'))
