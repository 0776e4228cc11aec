"""One MiT-B0 on depth alone: what CMX-B0 is compared with.

Data:     python tools/dataset_converters/vizdoom.py data/vizdoom160 --size 160 120
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: CPU, 1 thread. From scratch, no pretrained weights, lr 1e-3.
Published: none, the data set is made here. Measured: configs/cmx/README.md.
"""

_base_ = ['./mit-b0-rgb_1xb4-1k_vizdoom-120x160.py']
model = dict(backbone=dict(streams=dict(_delete_=True, depth=['depth'])))
