"""One MiT-B0 on depth alone: what CMX-B0 is compared with.

Command:  make demo (600 frames), or tools/benchmark/experiment.py (see README.md here)
Hardware: CPU, 1 thread. From scratch, no pretrained weights, lr 1e-3.
Published: none, the data set is made here. Measured: configs/cmx/README.md.
"""

_base_ = ['./cmx_mit-b0_1xb4-1k_vizdoom-120x160.py']
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmseg_xmodal.MultiStreamBackbone',
        modalities=_base_.modalities,
        streams=dict(depth=['depth']),
        backbone=dict(type='mmseg_xmodal.MixTransformer', variant='mit_b0'),
    )
)
