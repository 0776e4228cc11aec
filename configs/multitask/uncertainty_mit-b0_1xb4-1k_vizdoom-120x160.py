"""Four tasks, their losses weighed by learned variances.

Data:     python tools/dataset_converters/vizdoom.py data/vizdoom160 --size 160 120
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: CPU, 1 thread. From scratch, no pretrained weights, lr 1e-3.
Published: none, the data set is made here. Measured: configs/multitask/README.md.
"""

_base_ = ['./multitask_mit-b0_1xb4-1k_vizdoom-120x160.py']
model = dict(balancer=dict(type='mmseg_xmodal.UncertaintyWeighting'))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'balancer': dict(decay_mult=0.0)}))
