# DFormer-T with the Ham head of the paper (512 channels, BN with eps 1e-3).
# The leaf config hands its `modalities` to data_preprocessor and backbone, and sets
# `num_classes`; official RGB-D pretrained weights (non-commercial) come with
# pretrained='DFormer_Tiny.pth.tar' in the backbone.
data_preprocessor = dict(type='mmseg_xmodal.ModalityPreprocessor', validity=True)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type='mmseg_xmodal.DFormer',
        variant='dformer_tiny',
        drop_path_rate=0.1,
    ),
    decode_head=dict(
        type='mmseg_xmodal.HamHead',
        in_channels=[64, 128, 256],
        in_index=[1, 2, 3],
        ham_channels=512,
        channels=512,
        dropout_ratio=0.1,
        num_classes=2,
        norm_cfg=dict(type='BN', eps=1e-3, requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
