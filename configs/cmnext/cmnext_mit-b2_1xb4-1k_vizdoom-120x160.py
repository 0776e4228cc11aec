"""CMNeXt-B2 on rendered RGB + depth.

Data:     python tools/dataset_converters/vizdoom.py data/vizdoom160 --size 160 120
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: CPU, 1 thread. From scratch, no pretrained weights, lr 1e-3.
Published: none, the data set is made here. Measured: speed only,
          docs/speed.md.
"""

_base_ = [
    '../_base_/models/cmnext_mit-b2.py',
    '../_base_/datasets/vizdoom_rgbd.py',
    '../_base_/schedules/schedule_1k.py',
    '../_base_/default_runtime.py',
]
modalities = _base_.modalities
crop_size = (120, 160)
train_pipeline = _base_.train_pipeline
train_pipeline[2].scale = crop_size[::-1]
train_pipeline[3].crop_size = crop_size
model = dict(
    data_preprocessor=dict(modalities=modalities, size=crop_size),
    backbone=dict(modalities=modalities),
    decode_head=dict(num_classes=_base_.num_classes),
)
data = dict(data_root='data/vizdoom160')
train_dataloader = dict(batch_size=4, dataset=dict(**data, pipeline=train_pipeline))
val_dataloader = dict(dataset=data)
test_dataloader = dict(dataset=data)
