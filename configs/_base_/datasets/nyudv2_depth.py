# NYU Depth V2 with depth, as DFormer trains and tests: docs/datasets.md.
_base_ = ['../pipelines/scale_crop.py']

num_classes = 40
tta_pipeline = _base_.tta_pipeline
tta_pipeline[1].transforms[0] = [
    dict(type='Resize', scale_factor=factor, keep_ratio=True)
    for factor in (0.5, 0.75, 1.0, 1.25, 1.5)
]
# The official code reads BGR, and normalises it with RGB's mean and deviation. Depth is
# a grey image, stretched per image; some of the files are RGBA.
modalities = dict(
    rgb=dict(
        channels=3,
        order='bgr',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
    ),
    depth=dict(channels=1, dtype='uint8', bands=[0], mean=122.4, std=71.4),
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
