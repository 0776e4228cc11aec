# DeepLabV2 on ResNet-101, as the adaptation methods before DAFormer have it: output
# stride 8, affine parameters of BN fixed, its statistics not, the loss over labelled
# pixels. The auxiliary head reads the third stage (AdaptSegNet, ADVENT: "multi-level").
# ImageNet weights of the caffe model are downloaded. The leaf sets modalities, the size
# and the terms.
_head = dict(type='mmseg_xmodal.DeepLabV2Head', num_classes=19, align_corners=True)
_loss = dict(type='CrossEntropyLoss', avg_non_ignore=True)
student = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='mmseg_xmodal.ModalityPreprocessor'),
    backbone=dict(
        type='ResNet',
        depth=101,
        strides=(1, 2, 1, 1),
        dilations=(1, 1, 2, 4),
        norm_cfg=dict(type='BN', requires_grad=False),
        norm_eval=False,
        style='caffe',
        init_cfg=dict(
            type='Pretrained', checkpoint='open-mmlab://detectron2/resnet101_caffe'
        ),
    ),
    decode_head=dict(**_head, in_channels=2048, in_index=3, loss_decode=_loss),
    auxiliary_head=dict(
        **_head,
        in_channels=1024,
        in_index=2,
        loss_decode=dict(**_loss, loss_weight=0.1),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
model = dict(type='mmseg_xmodal.DomainAdaptiveSegmentor', student=student, terms=[])
