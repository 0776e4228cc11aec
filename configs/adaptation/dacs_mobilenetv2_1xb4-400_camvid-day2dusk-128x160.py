"""MobileNetV2 on CamVid, from day to dusk without labels: DACS.

Data, weights: as source-only_mobilenetv2_1xb4-400_camvid-day2dusk-128x160.py.
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: CPU, 1 thread. 2 images of each domain.
Recipe:   terms of DACS (https://arxiv.org/abs/2007.08702); optimiser of source-only.
Published: none for these parts. Measured: configs/adaptation/README.md.
"""

_base_ = ['./source-only_mobilenetv2_1xb4-400_camvid-day2dusk-128x160.py']
model = dict(
    _delete_=True,
    type='mmseg_xmodal.DomainAdaptiveSegmentor',
    student=_base_.model,
    terms=[
        dict(
            type='mmseg_xmodal.ClassMixSelfTraining',
            classes_from='image',
            augment=dict(jitter=0.25),
        )
    ],
)
sampler = dict(type='mmseg_xmodal.MultiSourceSampler', batch_size=4)
mixed = dict(type='mmseg_xmodal.MultiSourceDataset', names=['source', 'target'])
train_dataloader = dict(
    sampler=dict(_delete_=True, **sampler, source_ratio=[1, 1]),
    dataset=dict(
        _delete_=True, **mixed, datasets=[_base_.source_train, _base_.target_train]
    ),
)
custom_hooks = [
    dict(type='mmseg_xmodal.RandomStateHook'),
    dict(type='mmseg_xmodal.EMATeacherHook', momentum=0.99, when='after'),
]
