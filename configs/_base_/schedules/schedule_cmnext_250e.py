# The recipe of CMNeXt in 250 epochs.
_base_ = ['./schedule_cmnext_500e.py']
max_epochs = 250
param_scheduler = _base_.param_scheduler
param_scheduler[1].end = max_epochs + 1
train_cfg = dict(max_epochs=max_epochs, val_begin=125)
