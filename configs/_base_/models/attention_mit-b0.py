# Two plain MiT-B0 streams, a neck between them and SegFormer's decoder. The leaf config
# sets `fusion` of the backbone (StackStreams for necks that take several pyramids) and
# `neck`, hands its `modalities` to data_preprocessor and backbone, and sets
# `num_classes`. ImageNet weights (NVIDIA, non-commercial) come with
# pretrained=dict(checkpoint='mit_b0.pth', first_conv='sum') in the backbone.
data_preprocessor = dict(type='mmseg_xmodal.ModalityPreprocessor', validity=True)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type='mmseg_xmodal.MultiStreamBackbone',
        backbone=dict(
            type='mmseg_xmodal.MixTransformer', variant='mit_b0', drop_path_rate=0.1
        ),
        fusion=dict(type='mmseg_xmodal.MeanFusion'),
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
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
