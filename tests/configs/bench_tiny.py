"""A stock mmseg model on a 4-channel stack: what the benchmark tests measure."""

default_scope = 'mmseg'
modalities = dict(
    rgb=dict(channels=3, mean=[120.0] * 3, std=[60.0] * 3, order='rgb'),
    depth=dict(channels=1, mean=[120.0], std=[60.0], dtype='uint8', invalid=0),
)
data_preprocessor = dict(
    type='mmseg_xmodal.ModalityPreprocessor', modalities=modalities
)
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type='MixVisionTransformer',
        in_channels=4,
        embed_dims=4,
        num_layers=[1, 1, 1, 1],
        num_heads=[1, 2, 2, 4],
        drop_path_rate=0.1,
    ),
    decode_head=dict(
        type='SegformerHead',
        in_channels=[4, 8, 8, 16],
        in_index=[0, 1, 2, 3],
        channels=8,
        dropout_ratio=0.1,
        num_classes=3,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
