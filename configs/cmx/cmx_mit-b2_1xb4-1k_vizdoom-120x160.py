"""CMX-B2 on rendered RGB + depth; used for measuring speed.

Command:  python tools/benchmark/speed.py THIS --shape 480 640 --against published
Hardware: CPU, 1 thread. Published: none, the data set is made here.
Measured: speed only, docs/speed.md.
"""

_base_ = ['./cmx_mit-b0_1xb4-1k_vizdoom-120x160.py']
model = dict(
    backbone=dict(variant='mit_b2'),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
)
