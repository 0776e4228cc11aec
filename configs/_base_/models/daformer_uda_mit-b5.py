# DAFormer's adaptation: self-training on mixed images, and thing classes that stay near
# the features of ImageNet. The student is MiT-B5 with the DAFormer head; its ImageNet
# weights are NVIDIA's, non-commercial. The leaf sets modalities and the size.
_base_ = ['./daformer_mit-b0.py']
student = _base_.model
student.backbone.pretrained = 'pretrain/mit_b5.pth'
student.backbone.backbone.variant = 'mit_b5'
student.decode_head.update(in_channels=[64, 128, 320, 512], num_classes=19)
model = dict(
    _delete_=True,
    type='mmseg_xmodal.DomainAdaptiveSegmentor',
    student=student,
    anchor='copy',
    terms=[
        # Traffic lights and signs, and everything from persons to bicycles.
        dict(type='mmseg_xmodal.FeatureAnchor', classes=[6, 7, *range(11, 19)]),
        dict(type='mmseg_xmodal.ClassMixSelfTraining'),
    ],
)
