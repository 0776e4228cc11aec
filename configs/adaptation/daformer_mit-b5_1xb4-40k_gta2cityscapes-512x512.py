"""DAFormer: MiT-B5 from GTA5 with labels to Cityscapes without.

Data:     docs/datasets.md, "Street scenes": GTA5 and Cityscapes.
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: 1 GPU, 2 images of each domain. Published on a RTX 2080 Ti, 11 GB.
Published: 68.3 mIoU, Cityscapes val, 19 classes, mean of three seeds
          (https://github.com/lhoyer/DAFormer, README).
Measured: not run.
"""

_base_ = [
    '../_base_/models/daformer_uda_mit-b5.py',
    '../_base_/datasets/gta2cityscapes.py',
    '../_base_/schedules/schedule_daformer_40k.py',
    '../_base_/default_runtime.py',
]
model = dict(
    student=dict(
        data_preprocessor=dict(modalities=_base_.modalities, size=_base_.crop_size),
        backbone=dict(modalities=_base_.modalities),
    ),
    # The crops span the height of the image: its first and last rows do not count.
    pseudo_labels=dict(ignore_top=15, ignore_bottom=120),
)
default_hooks = dict(checkpoint=dict(interval=4000))
custom_hooks = [
    dict(type='mmseg_xmodal.RandomStateHook'),
    dict(type='mmseg_xmodal.EMATeacherHook', momentum=0.999),
]
