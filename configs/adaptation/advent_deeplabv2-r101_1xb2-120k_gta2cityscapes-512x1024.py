"""AdvEnt: DeepLabV2 from GTA5 with labels to Cityscapes without.

Data:     docs/datasets.md, "Street scenes": GTA5 and Cityscapes.
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: 1 GPU, 1 image of each domain.
Recipe:   https://github.com/valeoai/ADVENT: weights 0.001 and, of the auxiliary head,
          0.0002; stops at 120 000 of 250 000 iterations.
Published: 45.5 mIoU for ADVENT (an ensemble), Cityscapes val, 19 classes
          (https://github.com/lhoyer/DAFormer, README).
Measured: not run.
"""

_base_ = [
    '../_base_/models/advent_uda_r101.py',
    '../_base_/datasets/gta2cityscapes_dlv2.py',
    '../_base_/schedules/schedule_deeplabv2_250k.py',
    '../_base_/default_runtime.py',
]
model = dict(
    student=dict(
        data_preprocessor=dict(modalities=_base_.modalities, size=_base_.crop_size),
    ),
)
optim_wrapper = dict(constructor='mmseg_xmodal.AdversarialOptimWrapperConstructor')
train_cfg = dict(max_iters=120000)
