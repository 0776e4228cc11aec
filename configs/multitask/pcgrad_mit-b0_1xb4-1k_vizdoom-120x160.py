"""Four tasks, conflicting gradients projected on the shared feature maps.

Data:     python tools/dataset_converters/vizdoom.py data/vizdoom160 --size 160 120
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: CPU, 1 thread. From scratch, no pretrained weights, lr 1e-3.
Published: none, the data set is made here. Measured: configs/multitask/README.md.
"""

_base_ = ['./multitask_mit-b0_1xb4-1k_vizdoom-120x160.py']
optim_wrapper = dict(
    type='mmseg_xmodal.GradientRuleOptimWrapper',
    rule=dict(type='mmseg_xmodal.PCGrad'),
    gram_space='features',
)
custom_hooks = [
    dict(type='mmseg_xmodal.RandomStateHook'),
    dict(type='mmseg_xmodal.TaskBalanceHook', interval=50),
]
