"""Light of six bands in; water, land cover and elevation out.

Data:     tiles of 128x128 in data/own, folders as in the data set's base config
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: CPU, 1 thread. From scratch, no pretrained weights, lr 1e-3.
Published: none. Measured: configs/multitask/README.md.
"""

_base_ = [
    '../_base_/models/multitask_mit-b0.py',
    '../_base_/datasets/water12_multitask.py',
    '../_base_/schedules/schedule_1k.py',
    '../_base_/default_runtime.py',
]
modalities = _base_.modalities
pyramid = [32, 64, 160, 256]
model = dict(
    data_preprocessor=dict(modalities=modalities, size=(128, 128)),
    backbone=dict(in_channels=6),
    decode_head=dict(num_classes=_base_.num_classes),
    task_heads=dict(
        landcover=dict(
            type='mmseg_xmodal.FastSegformerHead',
            in_channels=pyramid,
            in_index=[0, 1, 2, 3],
            channels=128,
            num_classes=7,
            norm_cfg=dict(type='BN', requires_grad=True),
        ),
        elevation=dict(
            type='mmseg_xmodal.DepthHead',
            target='gt_elevation',
            in_channels=pyramid,
            output='linear',
            mean=284.0,
            std=480.0,
            loss_decode=dict(type='mmseg_xmodal.MaskedL1Loss', loss_weight=1 / 480),
        ),
    ),
)
