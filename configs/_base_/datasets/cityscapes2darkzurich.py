# From Cityscapes by day with labels to Dark Zurich at night without, half size:
# as ACDC, whose images have the same size and whose test labels are withheld too.
_base_ = ['./cityscapes2acdc.py']
_target = dict(
    type='mmseg_xmodal.DarkZurichXModalDataset', data_root='data/dark_zurich'
)
target = _base_.target
target.update(_target)
train_dataloader = dict(dataset=dict(datasets=[_base_.source, target]))
val_dataloader = dict(dataset=_target)
test_dataloader = dict(dataset=_target)
