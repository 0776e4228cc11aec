"""MiT-B0 on RGB, from the maps of one game to those of another without labels: DACS.

Data:     python tools/dataset_converters/vizdoom.py data/vizdoom160 --size 160 120
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: CPU, 1 thread. 2 images of each domain. From scratch, lr 1e-3.
Published: none, the data set is made here. Measured: README.md beside it.
"""

_base_ = ['../cmx/mit-b0-rgb_1xb4-1k_vizdoom-120x160.py']
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
data = _base_.train_dataloader.dataset
unlabelled = [t for t in data.pipeline if t.type != 'LoadAnnotations']
unlabelled[2] = dict(type='RandomCrop', crop_size=_base_.crop_size)
source = dict(data, maps=['freedoom1_*'])
target = dict(data, maps=['freedoom2_*'], pipeline=unlabelled)
target['data_prefix'] = dict(seg_map_path=None)
mixed = dict(type='mmseg_xmodal.MultiSourceDataset', names=['source', 'target'])
train_dataloader = dict(
    sampler=dict(_delete_=True, **sampler, source_ratio=[1, 1]),
    dataset=dict(_delete_=True, **mixed, datasets=[source, target]),
)
val_dataloader = dict(dataset=dict(maps=['freedoom2_*']))
test_dataloader = dict(dataset=dict(maps=['freedoom2_*']))
custom_hooks = [
    dict(type='mmseg_xmodal.RandomStateHook'),
    dict(type='mmseg_xmodal.EMATeacherHook', momentum=0.99, when='after'),
]
