"""MiT-B0 on RGB, the maps of one game with labels, tested on those of another.

Data:     python tools/dataset_converters/vizdoom.py data/vizdoom160 --size 160 120
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: CPU, 1 thread. From scratch, lr 1e-3.
Published: none, the data set is made here. Measured: README.md beside it.
"""

_base_ = ['../cmx/mit-b0-rgb_1xb4-1k_vizdoom-120x160.py']
train_dataloader = dict(dataset=dict(maps=['freedoom1_*']))
val_dataloader = dict(dataset=dict(maps=['freedoom2_*']))
test_dataloader = dict(dataset=dict(maps=['freedoom2_*']))
