"""MiT-B0 on RGB, two games as two labelled domains: a head each, one backbone.

The first game is labelled with all classes, the second one with its surfaces only.

Data:     python tools/dataset_converters/vizdoom.py data/vizdoom160 --size 160 120
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: CPU, 1 thread. 2 images of each domain. From scratch, lr 1e-3.
Published: none, the data set is made here. Measured: not run.
"""

_base_ = ['../cmx/mit-b0-rgb_1xb4-1k_vizdoom-120x160.py']
surfaces = ['wall', 'floor', 'ledge', 'pit', 'ceiling', 'sky']
head = _base_.model.decode_head
model = dict(
    type='mmseg_xmodal.MultiDomainEncoderDecoder',
    decode_head=None,
    decode_heads=dict(all=head, surfaces=dict(head, num_classes=len(surfaces))),
    predict_domain='all',
)
data = _base_.train_dataloader.dataset
first = dict(data, maps=['freedoom1_*'])
second = dict(data, maps=['freedoom2_*'], metainfo=dict(classes=surfaces))
mixed = dict(type='mmseg_xmodal.MultiSourceDataset', names=['all', 'surfaces'])
mixed['allow_different_classes'] = True
sampler = dict(type='mmseg_xmodal.MultiSourceSampler', batch_size=4)
train_dataloader = dict(
    sampler=dict(_delete_=True, **sampler, source_ratio=[1, 1]),
    dataset=dict(_delete_=True, **mixed, datasets=[first, second]),
)
val_dataloader = dict(dataset=dict(maps=['freedoom1_*']))
test_dataloader = dict(dataset=dict(maps=['freedoom1_*']))
