# CMX with Swin-S streams and the MLP decoder of the paper (512 channels).
# The leaf config hands its `modalities` to data_preprocessor and backbone, and sets
# `num_classes`; ImageNet weights come with
# pretrained=dict(checkpoint='swin_small_patch4_window7_224.pth', first_conv='sum').
data_preprocessor = dict(type='mmseg_xmodal.ModalityPreprocessor', validity=True)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type='mmseg_xmodal.CMXSwin',
        variant='swin_s',
        drop_path_rate=0.1,
    ),
    decode_head=dict(
        type='mmseg_xmodal.CMXHead',
        in_channels=[96, 192, 384, 768],
        in_index=[0, 1, 2, 3],
        channels=512,
        dropout_ratio=0.1,
        num_classes=2,
        norm_cfg=dict(type='BN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
