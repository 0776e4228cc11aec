"""The same network for depth alone, to compare with.

Data:     python tools/dataset_converters/vizdoom.py data/vizdoom160 --size 160 120
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: CPU, 1 thread. From scratch, no pretrained weights, lr 1e-3.
Published: none, the data set is made here. Measured: configs/multitask/README.md.
"""

_base_ = ['./multitask_mit-b0_1xb4-1k_vizdoom-120x160.py']
model = dict(tasks=['depth'])
val_evaluator = [dict(type='mmseg_xmodal.DepthMapMetric')]
test_evaluator = val_evaluator
