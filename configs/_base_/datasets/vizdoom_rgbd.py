# ViZDoom, 1,500 training, 300 validation and 300 test frames of 320x240, by
#   python tools/dataset_converters/vizdoom.py data/vizdoom
_base_ = ['../modalities/vizdoom.py']

dataset_type = 'mmseg_xmodal.ViZDoomDataset'
data_root = 'data/vizdoom'
image_size = (320, 240)
crop_size = (240, 320)
num_classes = 12
modalities = _base_.modalities
train_pipeline = [
    dict(type='mmseg_xmodal.LoadModalities', modalities=modalities),
    dict(type='LoadAnnotations'),
    dict(
        type='RandomResize', scale=image_size, ratio_range=(0.9, 1.5), keep_ratio=True
    ),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='mmseg_xmodal.OnModalities',
        names=['rgb'],
        transforms=[dict(type='PhotoMetricDistortion')],
    ),
    dict(type='mmseg_xmodal.PackXModalInputs'),
]
test_pipeline = [
    dict(type='mmseg_xmodal.LoadModalities', modalities=modalities),
    dict(type='LoadAnnotations'),
    dict(type='mmseg_xmodal.PackXModalInputs'),
]
tta_pipeline = [
    dict(type='mmseg_xmodal.LoadModalities', modalities=modalities),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale_factor=factor, keep_ratio=True)
                for factor in (0.75, 1.0, 1.25)
            ],
            [
                dict(type='RandomFlip', prob=0.0, direction='horizontal'),
                dict(type='RandomFlip', prob=1.0, direction='horizontal'),
            ],
            [dict(type='LoadAnnotations')],
            [dict(type='mmseg_xmodal.PackXModalInputs')],
        ],
    ),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='mmseg_xmodal.SeededInfiniteSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        modalities=modalities,
        data_prefix=dict(
            rgb='rgb/train', depth='depth/train', seg_map_path='labels/train'
        ),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        modalities=modalities,
        data_prefix=dict(rgb='rgb/val', depth='depth/val', seg_map_path='labels/val'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        modalities=modalities,
        data_prefix=dict(
            rgb='rgb/test', depth='depth/test', seg_map_path='labels/test'
        ),
        pipeline=test_pipeline,
    ),
)
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU', 'mFscore'])
test_evaluator = val_evaluator
