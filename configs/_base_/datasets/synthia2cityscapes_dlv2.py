# From SYNTHIA with labels to Cityscapes without, as the methods on DeepLabV2 train (see
# gta2cityscapes_dlv2.py). The network has 19 outputs; 16 are compared.
_base_ = ['./gta2cityscapes_dlv2.py']
source = _base_.source
source.update(type='mmseg_xmodal.SYNTHIADataset', data_root='data/synthia')
source.pipeline[2].scale = (1280, 760)
train_dataloader = dict(dataset=dict(datasets=[source, _base_.target]))
val_evaluator = dict(
    _delete_=True,
    type='mmseg_xmodal.OntologyIoUMetric',
    ontology='synthia16',
    dropped='false_positive',
    iou_metrics=['mIoU', 'mFscore'],
)
test_evaluator = val_evaluator
