# MFNet as CMNeXt and StitchFusion train: docs/datasets.md. 784 training, 392 validation
# and 393 test images; the official code validates on the test images.
_base_ = ['../pipelines/jitter_crop.py']

num_classes = 9
# Thermal, the fourth channel of the files, is repeated and only divided by 255.
modalities = dict(
    rgb=dict(
        channels=3,
        order='rgb',
        bands=[0, 1, 2],
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
    ),
    thermal=dict(channels=3, dtype='uint8', bands=[3, 3, 3], std=255),
)
_data_set = dict(
    type='mmseg_xmodal.MFNetDataset', data_root='data/MFNet', modalities=modalities
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
    dataset=dict(**_data_set, ann_file='val.txt', pipeline=_base_.test_pipeline),
)
test_dataloader = dict(
    **_test_loader,
    dataset=dict(**_data_set, ann_file='test.txt', pipeline=_base_.test_pipeline),
)
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU', 'mFscore'])
test_evaluator = val_evaluator
