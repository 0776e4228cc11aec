"""CMX-B0 on RGB + NIR + SWIR + DEM tiles in four file formats: a template.

Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: CPU, 1 thread. From scratch, no pretrained weights.
Published: none, the data are the user's. Measured: README.md here.
"""

_base_ = [
    '../_base_/models/cmx_mit-b0.py',
    '../_base_/datasets/multimodal.py',
    '../_base_/schedules/schedule_1k.py',
    '../_base_/default_runtime.py',
]
modalities = dict(
    rgb=dict(channels=3, order='rgb', mean=[82.7, 70.4, 42.5], std=[43.7, 30.5, 24.1]),
    nir=dict(channels=1, dtype='uint16', mean=2134, std=1051),
    swir=dict(channels=2, dtype='int16', mean=[1982, 1359], std=[1161, 934]),
    dem=dict(channels=1, mean=284, std=480, unit='m'),
)
classes = ('tree', 'shrub', 'grass', 'crop', 'built-up', 'bare', 'water')
data = dict(
    data_root='data/own',
    modalities=modalities,
    metainfo=dict(classes=classes),
    suffixes=dict(swir='.npy', dem='.npy'),
    data_prefix=dict(seg_map_path='labels_landcover'),
)
train_dataloader = dict(dataset=dict(**data, split='train'))
val_dataloader = dict(dataset=dict(**data, split='val'))
test_dataloader = dict(dataset=dict(**data, split='test'))
model = dict(
    data_preprocessor=dict(modalities=modalities),
    backbone=dict(
        modalities=modalities, streams=dict(rgb=['rgb'], x=['nir', 'swir', 'dem'])
    ),
    decode_head=dict(num_classes=len(classes)),
)
