"""One MiT-B0 on depth alone: what CMX-B0 is compared with.

Command:  make demo (600 frames), or tools/benchmark/experiment.py (see README.md here)
Hardware: CPU, 1 thread. From scratch, no pretrained weights, lr 1e-3.
Published: none, the data set is made here. Measured: configs/cmx/README.md.
"""

_base_ = ['./mit-b0-rgb_1xb4-1k_vizdoom-120x160.py']
model = dict(backbone=dict(streams=dict(_delete_=True, depth=['depth'])))
