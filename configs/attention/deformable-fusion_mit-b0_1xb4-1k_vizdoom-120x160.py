"""Two MiT-B0 streams, sampled by deformable attention over all levels of both.

Data:     python tools/dataset_converters/vizdoom.py data/vizdoom160 --size 160 120
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: CPU, 1 thread. From scratch, no pretrained weights, lr 1e-3.
Published: none, the data set is made here. Measured: configs/attention/README.md.
"""

_base_ = ['./no-neck_mit-b0_1xb4-1k_vizdoom-120x160.py']
model = dict(
    backbone=dict(fusion=dict(type='mmseg_xmodal.StackStreams')),
    neck=dict(
        type='mmseg_xmodal.DeformableFusionNeck',
        in_channels=[32, 64, 160, 256],
        num_streams=2,
    ),
)
