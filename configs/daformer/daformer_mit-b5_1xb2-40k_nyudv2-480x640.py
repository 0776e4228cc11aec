"""DAFormer's network, MiT-B5 and its head, trained with labels on RGB of NYU Depth V2.

Data:     docs/datasets.md. ImageNet weights of MiT-B5 (NVIDIA, non-commercial).
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Recipe:   optimiser and schedule of DAFormer (https://arxiv.org/abs/2111.14887): AdamW,
          6e-5, ten times that in the head, 1500 iterations of warm-up, linear to 0.
Hardware: 1 GPU.
Published: none for this data set. Measured: not run.
"""

_base_ = [
    '../_base_/models/daformer_mit-b0.py',
    '../_base_/datasets/nyudv2_depth_jitter.py',
    '../_base_/schedules/schedule_daformer_40k.py',
    '../_base_/default_runtime.py',
]
modalities = _base_.modalities
model = dict(
    data_preprocessor=dict(modalities=modalities, size=_base_.crop_size),
    backbone=dict(
        modalities=modalities,
        pretrained='pretrain/mit_b5.pth',
        backbone=dict(variant='mit_b5'),
    ),
    decode_head=dict(in_channels=[64, 128, 320, 512], num_classes=_base_.num_classes),
)
train_dataloader = dict(sampler=dict(type='mmseg_xmodal.SeededInfiniteSampler'))
