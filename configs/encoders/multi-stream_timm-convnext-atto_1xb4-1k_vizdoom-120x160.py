"""Two ConvNeXt-Atto of timm, fused after every stage, on rendered RGB + depth.

Needs:    pip install 'mmseg_xmodal[encoders]'
Data:     python tools/dataset_converters/vizdoom.py data/vizdoom160 --size 160 120
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Weights:  random; those of timm by pretrained=dict(first_conv='sum',
          checkpoint='weights/convnext_atto/model.safetensors') in model.backbone.
Hardware: CPU, 1 thread.
Published: none, the data set is made here. Measured: not run.
"""

_base_ = ['../cmx/cmx_mit-b0_1xb4-1k_vizdoom-120x160.py']
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmseg_xmodal.MultiStreamBackbone',
        modalities=_base_.modalities,
        backbone=dict(
            type='mmseg_xmodal.TimmStream',
            model='convnext_atto',
            model_args=dict(drop_path_rate=0.1),
        ),
        fusion=dict(type='mmseg_xmodal.ConcatFusion'),
    ),
    decode_head=dict(in_channels=[40, 80, 160, 320], channels=256),
)
