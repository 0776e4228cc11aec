"""mmseg's SegFormer-B0, its own encoder and decoder, on the RGB of rendered scenes.

Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: CPU, 1 thread. Published: none, the data set is made here.
Measured: not run; the fast head's speed against it is in README.md beside it.
"""

_base_ = ['../cmx/cmx_mit-b0_1xb4-1k_vizdoom-120x160.py']
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmseg_xmodal.MultiStreamBackbone',
        modalities=_base_.modalities,
        streams=dict(rgb=['rgb']),
        backbone=dict(
            type='MixVisionTransformer',
            embed_dims=32,
            num_layers=[2, 2, 2, 2],
            num_heads=[1, 2, 5, 8],
            patch_sizes=[7, 3, 3, 3],
            sr_ratios=[8, 4, 2, 1],
            drop_path_rate=0.1,
        ),
    ),
    decode_head=dict(type='SegformerHead', channels=256),
)
