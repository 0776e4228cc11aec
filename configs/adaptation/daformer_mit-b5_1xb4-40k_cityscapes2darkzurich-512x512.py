"""DAFormer: MiT-B5 from Cityscapes with labels to Dark Zurich without.

Data:     docs/datasets.md, "Street scenes": Cityscapes and Dark Zurich.
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: 1 GPU, 2 images of each domain. Published on a RTX 2080 Ti, 11 GB.
Published: 53.8 mIoU, Dark Zurich test server, mean of three seeds
          (https://github.com/lhoyer/DAFormer, README).
Measured: not run.
"""

_base_ = [
    '../_base_/models/daformer_uda_mit-b5.py',
    '../_base_/datasets/cityscapes2darkzurich.py',
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
