"""Two small DINOv2 encoders of transformers on rendered RGB + depth.

Four blocks of 192 channels, a size for trying things out. For the published ones set
config='weights/dinov2-small' (a local folder), pretrained=dict(
checkpoint='weights/dinov2-small', first_conv='sum') and tuning='lora'.

Needs:    pip install 'mmseg_xmodal[encoders]'
Data:     python tools/dataset_converters/vizdoom.py data/vizdoom160 --size 160 120
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: CPU, 1 thread.
Published: none, the data set is made here. Measured: not run.
"""

_base_ = ['../cmx/cmx_mit-b0_1xb4-1k_vizdoom-120x160.py']
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmseg_xmodal.MultiStreamBackbone',
        modalities=_base_.modalities,
        exchange=False,  # a plain ViT has no stages
        backbone=dict(
            type='mmseg_xmodal.HFStream',
            config=dict(
                model_type='dinov2',
                hidden_size=192,
                num_hidden_layers=4,
                num_attention_heads=3,
                image_size=168,
            ),
            pyramid_channels=128,
        ),
        fusion=dict(type='mmseg_xmodal.ConcatFusion'),
    ),
    decode_head=dict(in_channels=[128, 128, 128, 128], channels=256),
)
