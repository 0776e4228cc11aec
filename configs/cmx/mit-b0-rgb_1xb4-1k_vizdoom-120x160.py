"""One MiT-B0 on RGB alone: what CMX-B0 is compared with.

Data:     python tools/dataset_converters/vizdoom.py data/vizdoom160 --size 160 120
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: CPU, 1 thread. From scratch, no pretrained weights, lr 1e-3.
Published: none, the data set is made here. Measured: configs/cmx/README.md.
"""

_base_ = ['./cmx_mit-b0_1xb4-1k_vizdoom-120x160.py']
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmseg_xmodal.MultiStreamBackbone',
        modalities=_base_.modalities,
        streams=dict(rgb=['rgb']),
        backbone=dict(type='mmseg_xmodal.MixTransformer', variant='mit_b0'),
    )
)
