# SUN RGB-D with depth, as DFormer trains: docs/datasets.md. 5285 / 5050 images.
_base_ = ['../pipelines/scale_crop.py']

num_classes = 37
crop_size = (480, 480)
train_pipeline = _base_.train_pipeline
train_pipeline[4].crop_size = crop_size
tta_pipeline = _base_.tta_pipeline
tta_pipeline[1].transforms[0] = [
    dict(type='Resize', scale_factor=factor, keep_ratio=True)
    for factor in (0.5, 0.75, 1.0, 1.25, 1.5)
]
# As for NYU Depth V2; DFormerv2 alone takes RGB here.
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
    type='mmseg_xmodal.SUNRGBDDataset', data_root='data/SUNRGBD', modalities=modalities
)
_loader = dict(num_workers=4, persistent_workers=True)
_test_loader = dict(
    **_loader, batch_size=1, sampler=dict(type='DefaultSampler', shuffle=False)
)
train_dataloader = dict(
    **_loader,
    batch_size=4,
    sampler=dict(type='mmseg_xmodal.SeededDefaultSampler', shuffle=True),
    dataset=dict(**_data_set, ann_file='train.txt', pipeline=train_pipeline),
)
val_dataloader = dict(
    **_test_loader,
    dataset=dict(**_data_set, ann_file='test.txt', pipeline=_base_.test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU', 'mFscore'])
test_evaluator = val_evaluator
