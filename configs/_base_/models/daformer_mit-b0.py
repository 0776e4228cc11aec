# MiT-B0 for RGB with the DAFormer head of the paper (256 channels, dilations 1 to 18).
# The leaf config hands its `modalities` to data_preprocessor and backbone, and sets
# `num_classes`; ImageNet weights (NVIDIA, non-commercial) come with
# pretrained=dict(checkpoint='mit_b0.pth', first_conv='sum') in the inner backbone.
data_preprocessor = dict(type='mmseg_xmodal.ModalityPreprocessor', validity=True)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type='mmseg_xmodal.MultiStreamBackbone',
        streams=dict(rgb=['rgb']),
        backbone=dict(
            type='mmseg_xmodal.MixTransformer', variant='mit_b0', drop_path_rate=0.1
        ),
    ),
    decode_head=dict(
        type='mmseg_xmodal.DAFormerHead',
        in_channels=[32, 64, 160, 256],
        in_index=[0, 1, 2, 3],
        channels=256,
        embed_dims=256,
        fusion='sepaspp',
        dropout_ratio=0.1,
        num_classes=2,
        norm_cfg=dict(type='BN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
