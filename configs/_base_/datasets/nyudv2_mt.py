# NYU Depth V2 for several tasks (795 / 654), crops of 448x576 of images of 480x640:
# RGB in; 40 classes, depth, normals and edges out. The package of ATRC and InvPT.
_base_ = ['../pipelines/multitask_crop.py']
dataset_type = 'mmseg_xmodal.NYUDv2MTDataset'
data_root = 'data/NYUDv2'
crop_size = (448, 576)
num_classes = 40
modalities = dict(
    rgb=dict(
        channels=3,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        order='rgb',
    )
)
train_pipeline = _base_.train_pipeline
test_pipeline = _base_.test_pipeline
_data_set = dict(type=dataset_type, data_root=data_root, modalities=modalities)
_loader = dict(num_workers=4, persistent_workers=True)
_test = dict(**_data_set, ann_file='gt_sets/val.txt', pipeline=test_pipeline)
train_dataloader = dict(
    **_loader,
    batch_size=8,
    sampler=dict(type='mmseg_xmodal.SeededInfiniteSampler', shuffle=True),
    dataset=dict(**_data_set, ann_file='gt_sets/train.txt', pipeline=train_pipeline),
)
val_dataloader = dict(
    **_loader,
    batch_size=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=_test,
)
test_dataloader = val_dataloader
val_evaluator = [
    dict(type='IoUMetric', iou_metrics=['mIoU', 'mFscore']),
    dict(type='mmseg_xmodal.DepthMapMetric'),
    dict(type='mmseg_xmodal.NormalMetric'),
    dict(type='mmseg_xmodal.EdgeMetric', max_dist=0.011),
]
test_evaluator = val_evaluator
