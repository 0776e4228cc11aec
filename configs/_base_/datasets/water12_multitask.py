# Tiles of 128x128 pixels in four bands of light: water, land cover and elevation out.
# Elevation (metres) is a target here, so it is no input. One folder per modality and
# target, the same stems everywhere.
dataset_type = 'mmseg_xmodal.MultiTaskDataset'
data_root = 'data/own'
classes = ('land', 'water')
num_classes = 2
landcover = ('tree', 'shrub', 'grass', 'crop', 'built-up', 'bare', 'water')
modalities = dict(
    rgb=dict(channels=3, order='rgb', mean=[82.7, 70.4, 42.5], std=[43.7, 30.5, 24.1]),
    nir=dict(channels=1, dtype='uint16', mean=2134, std=1051),
    swir=dict(channels=2, dtype='int16', mean=[1982, 1359], std=[1161, 934]),
)
targets = dict(
    landcover=dict(kind='label', folder='labels_landcover', classes=landcover),
    elevation=dict(kind='value', folder='dem', suffix='.npy', unit='m'),
)
train_pipeline = [
    dict(type='mmseg_xmodal.LoadModalities'),
    dict(type='LoadAnnotations'),
    dict(type='mmseg_xmodal.LoadTargets'),
    dict(
        type='mmseg_xmodal.XModalRandomFlip',
        prob=0.5,
        direction=['horizontal', 'vertical'],
    ),
    dict(type='mmseg_xmodal.PackXModalInputs'),
]
test_pipeline = [
    dict(type='mmseg_xmodal.LoadModalities'),
    dict(type='LoadAnnotations'),
    dict(type='mmseg_xmodal.LoadTargets'),
    dict(type='mmseg_xmodal.PackXModalInputs'),
]
tta_pipeline = [
    dict(type='mmseg_xmodal.LoadModalities'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='RandomFlip', prob=0.0, direction='horizontal'),
                dict(type='RandomFlip', prob=1.0, direction='horizontal'),
            ],
            [dict(type='LoadAnnotations')],
            [dict(type='mmseg_xmodal.LoadTargets')],
            [dict(type='mmseg_xmodal.PackXModalInputs')],
        ],
    ),
]
_data_set = dict(
    type=dataset_type,
    data_root=data_root,
    modalities=modalities,
    targets=targets,
    suffixes=dict(swir='.npy'),
    data_prefix=dict(seg_map_path='labels_water'),
    metainfo=dict(classes=classes),
)
_loader = dict(num_workers=2, persistent_workers=True)
_test_loader = dict(
    **_loader, batch_size=1, sampler=dict(type='DefaultSampler', shuffle=False)
)
train_dataloader = dict(
    **_loader,
    batch_size=8,
    sampler=dict(type='mmseg_xmodal.SeededInfiniteSampler', shuffle=True),
    dataset=dict(**_data_set, split='train', pipeline=train_pipeline),
)
val_dataloader = dict(
    **_test_loader, dataset=dict(**_data_set, split='val', pipeline=test_pipeline)
)
test_dataloader = dict(
    **_test_loader, dataset=dict(**_data_set, split='test', pipeline=test_pipeline)
)
val_evaluator = [
    dict(type='IoUMetric', iou_metrics=['mIoU', 'mFscore']),
    dict(type='mmseg_xmodal.TaskIoUMetric', task='landcover'),
    dict(
        type='mmseg_xmodal.DepthMapMetric',
        task='elevation',
        target='gt_elevation',
        metrics=['rmse', 'mae'],
    ),
]
test_evaluator = val_evaluator
