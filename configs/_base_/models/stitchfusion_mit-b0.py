# StitchFusion with a MiT-B0 trunk and the MLP decoder of the official code.
# The leaf config hands its `modalities` to data_preprocessor and backbone, and sets
# `num_classes`; ImageNet weights (NVIDIA, non-commercial) come with
# pretrained='mit_b0.pth' in the backbone.
data_preprocessor = dict(type='mmseg_xmodal.ModalityPreprocessor', validity=True)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type='mmseg_xmodal.StitchFusion',
        variant='mit_b0',
        drop_path_rate=0.1,
    ),
    decode_head=dict(
        type='mmseg_xmodal.CMNeXtHead',
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
