"""Four tasks; segmentation and depth attend to each other.

Data:     python tools/dataset_converters/vizdoom.py data/vizdoom160 --size 160 120
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: CPU, 1 thread. From scratch, no pretrained weights, lr 1e-3.
Published: none, the data set is made here. Measured: configs/multitask/README.md.
"""

_base_ = ['./multitask_mit-b0_1xb4-1k_vizdoom-120x160.py']
model = dict(
    interaction=dict(
        type='mmseg_xmodal.InvertedPyramidAttention',
        in_channels=[32, 64, 160, 256],
        channels=64,
    ),
    decode_head=dict(in_channels=[64], in_index=[0]),
    task_heads=dict(depth=dict(in_channels=[64], in_index=[0])),
)
