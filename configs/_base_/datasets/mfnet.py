# MFNet as CMX trains: docs/datasets.md. 784 training and 392 validation images together
# in trainval.txt (cat train.txt val.txt > trainval.txt), 393 test images.
_base_ = ['../pipelines/scale_crop.py']

num_classes = 9
# The official code reads BGR, and normalises it with RGB's mean and deviation; thermal,
# the fourth channel of the files, is repeated and treated alike.
_image = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
modalities = dict(
    rgb=dict(channels=3, order='bgr', bands=[0, 1, 2], **_image),
    thermal=dict(channels=3, dtype='uint8', bands=[3, 3, 3], **_image),
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
    batch_size=2,
    sampler=dict(type='mmseg_xmodal.SeededDefaultSampler', shuffle=True),
    dataset=dict(**_data_set, ann_file='trainval.txt', pipeline=_base_.train_pipeline),
)
val_dataloader = dict(
    **_test_loader,
    dataset=dict(**_data_set, ann_file='test.txt', pipeline=_base_.test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU', 'mFscore'])
test_evaluator = val_evaluator
