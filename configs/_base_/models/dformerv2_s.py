# DFormerv2-S with the light Hamburger head of the paper (512 channels). The leaf config
# hands its `modalities` (an image and a prior) to data_preprocessor and backbone, and
# sets `num_classes`; official ImageNet weights come with
# pretrained=dict(checkpoint='DFormerv2_Small_pretrained.pth') in the backbone.
data_preprocessor = dict(type='mmseg_xmodal.ModalityPreprocessor', validity=True)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type='mmseg_xmodal.DFormerv2',
        variant='dformerv2_s',
        drop_path_rate=0.25,
    ),
    decode_head=dict(
        type='mmseg_xmodal.HamHead',
        in_channels=[128, 256, 512],
        in_index=[1, 2, 3],
        channels=512,
        ham_channels=512,
        dropout_ratio=0.1,
        num_classes=2,
        norm_cfg=dict(type='BN', eps=1e-3, requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
