# One MiT-B0 and a SegFormer head; the leaf config adds `task_heads`.
# The leaf config hands its `modalities` to data_preprocessor and backbone and sets the
# numbers of classes; ImageNet weights (NVIDIA, non-commercial) come by init_cfg.
data_preprocessor = dict(type='mmseg_xmodal.ModalityPreprocessor')
model = dict(
    type='mmseg_xmodal.MultiTaskEncoderDecoder',
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type='mmseg_xmodal.MixTransformer',
        variant='mit_b0',
        in_channels=3,
        drop_path_rate=0.1,
    ),
    decode_head=dict(
        type='mmseg_xmodal.FastSegformerHead',
        in_channels=[32, 64, 160, 256],
        in_index=[0, 1, 2, 3],
        channels=256,
        dropout_ratio=0.1,
        num_classes=2,
        norm_cfg=dict(type='BN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False),
    ),
    task_heads=dict(),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
