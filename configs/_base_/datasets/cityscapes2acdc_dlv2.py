# From Cityscapes with labels to ACDC without, as the methods on DeepLabV2 train: see
# gta2cityscapes_dlv2.py. Both are of half size and cut to what they share, 960 x 512.
_base_ = ['./gta2cityscapes_dlv2.py']
crop_size = (512, 960)
source = dict(_base_.target, pipeline=_base_.source_pipeline)
source['data_prefix'] = dict()
source['pipeline'][2].scale = (1024, 512)
source['pipeline'][3].crop_size = crop_size
target_pipeline = [
    dict(type='mmseg_xmodal.LoadModalities'),
    dict(type='Resize', scale=(960, 540), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='mmseg_xmodal.PackXModalInputs'),
]
_target = dict(type='mmseg_xmodal.ACDCXModalDataset', data_root='data/acdc')
target = dict(_base_.target, **_target, pipeline=target_pipeline)
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = (960, 540)
test_pipeline[3].extra_meta_keys = ['condition']
tta_pipeline = _base_.tta_pipeline
tta_pipeline[1].scale = (960, 540)
tta_pipeline[2].transforms[2][0].extra_meta_keys = ['condition']
train_dataloader = dict(dataset=dict(datasets=[source, target]))
val_dataloader = dict(dataset=dict(**_target, pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(**_target, pipeline=test_pipeline))
val_evaluator = [
    _base_.val_evaluator,
    dict(type='mmseg_xmodal.DomainIoUMetric', key='condition'),
]
test_evaluator = val_evaluator
