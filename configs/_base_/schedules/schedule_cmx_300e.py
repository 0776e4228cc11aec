# The recipe of DFormer on SUN RGB-D: 300 epochs, a total batch of 16.
_base_ = ['./schedule_cmx_500e.py']
max_epochs = 300
optim_wrapper = dict(optimizer=dict(lr=8e-5))
param_scheduler = _base_.param_scheduler
param_scheduler[1].end = max_epochs
train_cfg = dict(max_epochs=max_epochs, val_begin=150)
