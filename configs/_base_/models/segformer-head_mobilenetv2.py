# mmseg's MobileNetV2 (strides 4 to 32) with SegFormer's decoder of 128 channels.
# The leaf config hands its `modalities` to data_preprocessor, sets `num_classes` and
# may give ImageNet weights,
#   backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=OUT.pth))
# made of torchvision's by
#   python tools/model_converters/convert.py mobilenetv2 IN.pth OUT.pth
norm_cfg = dict(type='BN', requires_grad=True)
data_preprocessor = dict(type='mmseg_xmodal.ModalityPreprocessor')
model = dict(
    type='EncoderDecoder',
    data_preprocessor=data_preprocessor,
    backbone=dict(type='MobileNetV2', out_indices=(1, 2, 4, 6), norm_cfg=norm_cfg),
    decode_head=dict(
        type='mmseg_xmodal.FastSegformerHead',
        in_channels=[24, 32, 96, 320],
        in_index=[0, 1, 2, 3],
        channels=128,
        dropout_ratio=0.1,
        num_classes=2,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
