"""MiT-B0 on RGB, the maps of two games with labels, tested on the second: upper bound.

Data:     python tools/dataset_converters/vizdoom.py data/vizdoom160 --size 160 120
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: CPU, 1 thread. 2 images of each game, all with labels. From scratch, lr 1e-3.
Published: none, the data set is made here. Measured: README.md beside it.
"""

_base_ = ['./source-only_mit-b0_1xb4-1k_vizdoom2vizdoom-120x160.py']
sampler = dict(type='mmseg_xmodal.MultiSourceSampler', batch_size=4)
source = _base_.train_dataloader.dataset
target = dict(source, maps=['freedoom2_*'])
mixed = dict(type='mmseg_xmodal.MultiSourceDataset', names=['source', 'target'])
train_dataloader = dict(
    sampler=dict(_delete_=True, **sampler, source_ratio=[1, 1]),
    dataset=dict(_delete_=True, **mixed, datasets=[source, target]),
)
