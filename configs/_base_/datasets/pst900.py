# PST900 as MMSFormer and StitchFusion train: docs/datasets.md. The official crop size,
# (1280, 720), is read as (height, width); here it is the size of the images.
_base_ = ['../pipelines/jitter_crop.py']

num_classes = 5
crop_size = (720, 1280)
train_pipeline = _base_.train_pipeline
train_pipeline[4].scale = (4 * crop_size[1], crop_size[0])
train_pipeline[5].crop_size = crop_size
# Thermal is a grey image, repeated, and only divided by 255.
modalities = dict(
    rgb=dict(
        channels=3,
        order='rgb',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
    ),
    thermal=dict(channels=3, dtype='uint8', bands=[0, 0, 0], std=255),
)
_data_set = dict(type='mmseg_xmodal.PST900Dataset', modalities=modalities)
_loader = dict(num_workers=4, persistent_workers=True)
_test_loader = dict(
    **_loader, batch_size=1, sampler=dict(type='DefaultSampler', shuffle=False)
)
train_dataloader = dict(
    **_loader,
    batch_size=2,
    drop_last=True,
    sampler=dict(type='mmseg_xmodal.SeededDefaultSampler', shuffle=True),
    dataset=dict(**_data_set, data_root='data/PST900/train', pipeline=train_pipeline),
)
val_dataloader = dict(
    **_test_loader,
    dataset=dict(
        **_data_set, data_root='data/PST900/test', pipeline=_base_.test_pipeline
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU', 'mFscore'])
test_evaluator = val_evaluator
