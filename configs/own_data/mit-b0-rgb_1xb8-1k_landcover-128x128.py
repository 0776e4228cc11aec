"""One MiT-B0 on the RGB of the same tiles: what the others add to.

Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: CPU, 1 thread. From scratch, no pretrained weights.
Published: none, the data are the user's. Measured: README.md here.
"""

_base_ = ['./cmx_mit-b0_1xb8-1k_landcover-128x128.py']
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmseg_xmodal.MultiStreamBackbone',
        modalities=_base_.modalities,
        streams=dict(rgb=['rgb']),
        backbone=dict(type='mmseg_xmodal.MixTransformer', variant='mit_b0'),
    )
)
