# PASCAL-Context for several tasks (4998 / 5105), crops of 512x512: RGB in; 21 classes,
# human parts, saliency, normals and edges out. Convert the package once:
#   python tools/dataset_converters/pascal_context_mt.py data/PASCALContext
_base_ = ['../pipelines/multitask_crop.py']
dataset_type = 'mmseg_xmodal.PASCALContextMTDataset'
data_root = 'data/PASCALContext'
crop_size = (512, 512)
num_classes = 21
modalities = dict(
    rgb=dict(
        channels=3,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        order='rgb',
    )
)
train_pipeline = _base_.train_pipeline
train_pipeline[3].scale = (512, 512)
train_pipeline[3].ratio_range = (0.5, 2.0)
train_pipeline[4].crop_size = crop_size
test_pipeline = _base_.test_pipeline
_data_set = dict(type=dataset_type, data_root=data_root, modalities=modalities)
_loader = dict(num_workers=4, persistent_workers=True)
_train = dict(
    **_data_set, ann_file='ImageSets/Context/train.txt', pipeline=train_pipeline
)
_test = dict(**_data_set, ann_file='ImageSets/Context/val.txt', pipeline=test_pipeline)
train_dataloader = dict(
    **_loader,
    batch_size=8,
    sampler=dict(type='mmseg_xmodal.SeededInfiniteSampler', shuffle=True),
    dataset=_train,
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
    dict(type='mmseg_xmodal.TaskIoUMetric', task='human_parts'),
    dict(type='mmseg_xmodal.TaskIoUMetric', task='saliency'),
    dict(type='mmseg_xmodal.NormalMetric'),
    dict(type='mmseg_xmodal.EdgeMetric', max_dist=0.0075),
]
test_evaluator = val_evaluator
