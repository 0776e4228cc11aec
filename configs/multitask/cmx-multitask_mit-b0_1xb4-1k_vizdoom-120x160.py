"""CMX-B0 on RGB and depth, for segmentation, boxes and the monsters in sight.

Data:     python tools/dataset_converters/vizdoom.py data/vizdoom160 --size 160 120
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: CPU, 1 thread. From scratch, no pretrained weights, lr 1e-3.
Published: none, the data set is made here. Measured: not run.
"""

_base_ = [
    '../cmx/cmx_mit-b0_1xb4-1k_vizdoom-120x160.py',
    '../_base_/models/vizdoom_object_heads.py',
]
targets = dict(type='mmseg_xmodal.LoadTargets')
train_pipeline = _base_.train_pipeline
train_pipeline.insert(2, targets)
train_pipeline[3].type = 'mmseg_xmodal.XModalRandomResize'
train_pipeline[4].type = 'mmseg_xmodal.XModalRandomCrop'
train_pipeline[5].type = 'mmseg_xmodal.XModalRandomFlip'
test_pipeline = _base_.test_pipeline
test_pipeline.insert(2, targets)
tta_pipeline = _base_.tta_pipeline
tta_pipeline[1].transforms.insert(3, [targets])
model = dict(
    type='mmseg_xmodal.MultiTaskEncoderDecoder',
    task_heads=_base_.object_heads,
)
data = dict(type='mmseg_xmodal.ViZDoomMultiTaskDataset', targets=['det', 'cls'])
train_dataloader = dict(dataset=dict(**data, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(**data, pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(**data, pipeline=test_pipeline))
val_evaluator = [
    dict(type='IoUMetric', iou_metrics=['mIoU', 'mFscore']),
    dict(type='mmseg_xmodal.DetectionMetric'),
    dict(type='mmseg_xmodal.MultiLabelMetric'),
]
test_evaluator = val_evaluator
