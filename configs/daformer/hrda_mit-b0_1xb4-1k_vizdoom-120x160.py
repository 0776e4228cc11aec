"""HRDA's two resolutions around the same network: half size whole, full size in crops.

Data:     python tools/dataset_converters/vizdoom.py data/vizdoom160 --size 160 120
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: CPU, 1 thread. From scratch, no pretrained weights, lr 1e-3.
Published: none, the data set is made here. Measured: not run.
"""

_base_ = ['./daformer_mit-b0_1xb4-1k_vizdoom-120x160.py']
model = dict(
    type='mmseg_xmodal.MultiResolutionSegmentor',
    scale_attention=dict(
        type='mmseg_xmodal.DAFormerHead',
        in_channels=[32, 64, 160, 256],
        channels=256,
        embed_dims=256,
        fusion='conv1',
    ),
    detail_size=(64, 80),
    detail_stride=(32, 40),
)
