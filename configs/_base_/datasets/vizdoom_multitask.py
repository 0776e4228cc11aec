# ViZDoom, RGB in; classes, boxes of objects, depth and the monsters in sight out.
# Frames of 320x240, by
#   python tools/dataset_converters/vizdoom.py data/vizdoom
_base_ = ['../pipelines/multitask_crop.py']
dataset_type = 'mmseg_xmodal.ViZDoomMultiTaskDataset'
data_root = 'data/vizdoom'
image_size = (320, 240)
crop_size = (240, 320)
num_classes = 12
modalities = dict(
    rgb=dict(
        channels=3,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        order='rgb',
    )
)
train_pipeline = _base_.train_pipeline
train_pipeline[3].scale = image_size
train_pipeline[3].ratio_range = (0.9, 1.5)
train_pipeline[4].crop_size = crop_size
train_pipeline[4].cat_max_ratio = 0.75
test_pipeline = _base_.test_pipeline
tta_pipeline = _base_.tta_pipeline
tta_pipeline[1].transforms.insert(
    0,
    [
        dict(type='Resize', scale_factor=factor, keep_ratio=True)
        for factor in (0.75, 1.0, 1.25)
    ],
)
_data_set = dict(type=dataset_type, data_root=data_root, modalities=modalities)
_loader = dict(num_workers=2, persistent_workers=True)
_test_loader = dict(
    **_loader, batch_size=1, sampler=dict(type='DefaultSampler', shuffle=False)
)
train_dataloader = dict(
    **_loader,
    batch_size=4,
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
    dict(type='mmseg_xmodal.DetectionMetric'),
    dict(type='mmseg_xmodal.DepthMapMetric'),
    dict(type='mmseg_xmodal.MultiLabelMetric'),
]
test_evaluator = val_evaluator
