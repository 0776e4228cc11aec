# DELIVER as CMNeXt and StitchFusion train: docs/datasets.md. Tested on the validation
# images, as published; for the test images set split='test'.
_base_ = ['../pipelines/jitter_crop.py']

num_classes = 25
crop_size = (1024, 1024)
train_pipeline = _base_.train_pipeline
train_pipeline[4].scale = (4 * crop_size[1], crop_size[0])
train_pipeline[5].crop_size = crop_size
test_pipeline = _base_.test_pipeline
test_pipeline.insert(1, dict(type='Resize', scale=(4096, 1024), keep_ratio=True))
# A list: its order is the published one of the streams. Leaf configs take parts of it.
_other = dict(channels=3, dtype='uint8', bands=[0, 1, 2], std=255)
modalities = [
    dict(
        name='rgb',
        channels=3,
        order='rgb',
        bands=[0, 1, 2],
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
    ),
    dict(name='hha', **_other),
    dict(name='event', **_other),
    dict(name='lidar', **_other),
]
_data_set = dict(
    type='mmseg_xmodal.DELIVERDataset', data_root='data/DELIVER', modalities=modalities
)
_loader = dict(num_workers=4, persistent_workers=True)
_test_loader = dict(
    **_loader, batch_size=1, sampler=dict(type='DefaultSampler', shuffle=False)
)
train_dataloader = dict(
    **_loader,
    batch_size=2,
    drop_last=True,
    sampler=dict(type='mmseg_xmodal.SeededDefaultSampler', shuffle=True),
    dataset=dict(**_data_set, split='train', pipeline=train_pipeline),
)
val_dataloader = dict(
    **_test_loader,
    dataset=dict(**_data_set, split='val', pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type='mmseg_xmodal.FolderIoUMetric',
    keep_folders=3,  # condition, split, place: file names repeat
    iou_metrics=['mIoU', 'mFscore'],
)
test_evaluator = val_evaluator
