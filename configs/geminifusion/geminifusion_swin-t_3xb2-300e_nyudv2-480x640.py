"""GeminiFusion-Swin-T on NYU Depth V2, RGB + depth.

Command: bash $TOOLS/dist_train.sh THIS_FILE 3 ($TOOLS: see README.md)
Hardware: 3 GPUs, 6 images in all, as published.
Published: mIoU 52.2 (official README, 654 test images, single scale, its own
    evaluation on resized labels with bicubic logits: docs/datasets.md).
Measured here: not run.
"""

_base_ = ['./geminifusion_mit-b3_3xb2-300e_nyudv2-480x640.py']
model = dict(
    backbone=dict(
        variant='swin_t',
        drop_path_rate=0.2,
        pretrained='pretrain/swin_tiny_patch4_window7_224.pth',
    ),
    decode_head=dict(in_channels=[192, 384, 768, 1536]),
)
