"""HRDA: MiT-B5 from GTA5 with labels to Cityscapes without.

Data:     docs/datasets.md, "Street scenes": GTA5 and Cityscapes.
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: 1 GPU, 2 images of each domain. Published on a Titan RTX, 24 GB.
Published: 73.8 mIoU, Cityscapes val, 19 classes, mean of three seeds
          (https://github.com/lhoyer/HRDA, README).
Measured: not run.
"""

_base_ = [
    '../_base_/models/hrda_uda_mit-b5.py',
    '../_base_/datasets/gta2cityscapes_hr.py',
    '../_base_/schedules/schedule_daformer_40k.py',
    '../_base_/default_runtime.py',
]
model = dict(
    student=dict(
        data_preprocessor=dict(modalities=_base_.modalities, size=_base_.crop_size),
        backbone=dict(modalities=_base_.modalities),
    ),
)
default_hooks = dict(checkpoint=dict(interval=4000))
custom_hooks = [
    dict(type='mmseg_xmodal.RandomStateHook'),
    dict(type='mmseg_xmodal.EMATeacherHook', momentum=0.999),
]
