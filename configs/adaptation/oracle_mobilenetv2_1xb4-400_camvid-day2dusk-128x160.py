"""MobileNetV2 on CamVid by day and at dusk, with the labels held back: upper bound.

Data, weights: as source-only_mobilenetv2_1xb4-400_camvid-day2dusk-128x160.py.
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: CPU, 1 thread. 2 images of each domain, all with labels.
Published: none for these parts. Measured: configs/adaptation/README.md.
"""

_base_ = ['./source-only_mobilenetv2_1xb4-400_camvid-day2dusk-128x160.py']
sampler = dict(type='mmseg_xmodal.MultiSourceSampler', batch_size=4)
mixed = dict(type='mmseg_xmodal.MultiSourceDataset', names=['source', 'target'])
train_dataloader = dict(
    sampler=dict(_delete_=True, **sampler, source_ratio=[1, 1]),
    dataset=dict(
        _delete_=True, **mixed, datasets=[_base_.source_train, _base_.target_heldback]
    ),
)
