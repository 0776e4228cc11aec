"""The mean of two MiT-B0 streams, then a transformer encoder over the pyramid.

Data:     python tools/dataset_converters/vizdoom.py data/vizdoom160 --size 160 120
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: CPU, 1 thread. From scratch, no pretrained weights, lr 1e-3.
Published: none, the data set is made here. Measured: configs/attention/README.md.
"""

_base_ = ['./no-neck_mit-b0_1xb4-1k_vizdoom-120x160.py']
model = dict(
    neck=dict(
        type='mmseg_xmodal.SelfAttentionNeck',
        in_channels=[32, 64, 160, 256],
        attention=['windowed', 'criss_cross', 'global', 'global'],
    )
)
