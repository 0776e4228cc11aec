# TokenFusion with MiT-B0 and a shared MLP decoder (256 channels).
# The leaf config hands its `modalities` to data_preprocessor and backbone, and sets
# `num_classes`; ImageNet weights (NVIDIA, non-commercial) come with
# pretrained='mit_b0.pth' in the backbone.
data_preprocessor = dict(type='mmseg_xmodal.ModalityPreprocessor', validity=True)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type='mmseg_xmodal.TokenFusion',
        variant='mit_b0',
        threshold=0.02,
        drop_path_rate=0.1,
    ),
    decode_head=dict(
        type='mmseg_xmodal.TokenFusionHead',
        in_channels=[64, 128, 320, 512],
        in_index=[0, 1, 2, 3],
        channels=256,
        score_weight=1e-6,
        dropout_ratio=0.1,
        num_classes=2,
        norm_cfg=dict(type='BN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
