# From Cityscapes with labels to ACDC without, all conditions, full size.
# No margins for pseudo-labels, as published. Labels of the test images are with the
# evaluation server: val and test both read the validation images, and report all of
# them together (mIoU) and each condition (night/mIoU).
_base_ = ['./gta2cityscapes_hr.py']
source = dict(_base_.target, pipeline=_base_.source_pipeline)
source['data_prefix'] = dict()
source['pipeline'][2].scale = (2048, 1024)
target_pipeline = [
    dict(type='mmseg_xmodal.LoadModalities'),
    dict(type='Resize', scale=(1920, 1080), keep_ratio=True),
    dict(type='RandomCrop', crop_size=_base_.crop_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='mmseg_xmodal.PackXModalInputs'),
]
_target = dict(type='mmseg_xmodal.ACDCXModalDataset', data_root='data/acdc')
target = dict(_base_.target, **_target, pipeline=target_pipeline)
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = (1920, 1080)
test_pipeline[3].extra_meta_keys = ['condition']
tta_pipeline = _base_.tta_pipeline
tta_pipeline[1].scale = (1920, 1080)
tta_pipeline[2].transforms[2][0].extra_meta_keys = ['condition']
train_dataloader = dict(dataset=dict(datasets=[source, target]))
val_dataloader = dict(dataset=dict(**_target, pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(**_target, pipeline=test_pipeline))
val_evaluator = [
    _base_.val_evaluator,
    dict(type='mmseg_xmodal.DomainIoUMetric', key='condition'),
]
test_evaluator = val_evaluator
