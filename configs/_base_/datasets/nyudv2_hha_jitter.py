# NYU Depth V2 with HHA, as CMNeXt and StitchFusion train: docs/datasets.md.
_base_ = ['../pipelines/jitter_crop.py']

num_classes = 40
# HHA is only divided by 255.
modalities = dict(
    rgb=dict(
        channels=3,
        order='rgb',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
    ),
    hha=dict(channels=3, dtype='uint8', std=255),
)
_data_set = dict(
    type='mmseg_xmodal.NYUDepthV2Dataset',
    data_root='data/NYUDepthv2',
    modalities=modalities,
)
_loader = dict(num_workers=4, persistent_workers=True)
_test_loader = dict(
    **_loader, batch_size=1, sampler=dict(type='DefaultSampler', shuffle=False)
)
train_dataloader = dict(
    **_loader,
    batch_size=4,
    drop_last=True,
    sampler=dict(type='mmseg_xmodal.SeededDefaultSampler', shuffle=True),
    dataset=dict(**_data_set, ann_file='train.txt', pipeline=_base_.train_pipeline),
)
val_dataloader = dict(
    **_test_loader,
    dataset=dict(**_data_set, ann_file='test.txt', pipeline=_base_.test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU', 'mFscore'])
test_evaluator = val_evaluator
