"""FDA, one band: DeepLabV2 from SYNTHIA with labels to Cityscapes without.

Data:     docs/datasets.md, "Street scenes": SYNTHIA and Cityscapes.
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: 1 GPU, 1 image of each domain.
Recipe:   beta 0.01 (further bands: 0.05, 0.09); entropy from the start.
Published: of three bands together only, see fda-ensemble_*.
Measured: not run.
"""

_base_ = [
    '../_base_/models/fda_uda_r101.py',
    '../_base_/datasets/synthia2cityscapes_dlv2.py',
    '../_base_/schedules/schedule_deeplabv2_250k.py',
    '../_base_/default_runtime.py',
]
model = dict(
    student=dict(
        data_preprocessor=dict(modalities=_base_.modalities, size=_base_.crop_size),
    ),
)
param_scheduler = _base_.param_scheduler
param_scheduler[0].end = 150000
train_cfg = dict(max_iters=100000)
