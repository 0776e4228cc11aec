"""DACS: DeepLabV2 from GTA5 with labels to Cityscapes without.

Data:     docs/datasets.md, "Street scenes": GTA5 and Cityscapes.
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: 1 GPU, 2 images of each domain.
Published: 52.1 mIoU, Cityscapes val, 19 classes (README of github.com/lhoyer/DAFormer).
Differs:  from ImageNet, not COCO; the mixed loss is a mean over labelled pixels only.
Measured: not run.
"""

_base_ = [
    '../_base_/models/dacs_uda_r101.py',
    '../_base_/datasets/gta2cityscapes_dlv2.py',
    '../_base_/schedules/schedule_deeplabv2_250k.py',
    '../_base_/default_runtime.py',
]
crop_size = (512, 512)
datasets = _base_.train_dataloader.dataset.datasets
datasets[0].pipeline[3].crop_size = crop_size
datasets[1].pipeline[2].crop_size = crop_size
train_dataloader = dict(
    batch_size=4, sampler=dict(batch_size=4), dataset=dict(datasets=datasets)
)
model = dict(
    student=dict(
        data_preprocessor=dict(modalities=_base_.modalities, size=crop_size),
    ),
)
custom_hooks = [
    dict(type='mmseg_xmodal.RandomStateHook'),
    dict(type='mmseg_xmodal.EMATeacherHook', momentum=0.99, when='after'),
]
