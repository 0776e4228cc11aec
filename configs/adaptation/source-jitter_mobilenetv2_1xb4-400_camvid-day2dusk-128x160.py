"""MobileNetV2 on CamVid by day with colours distorted, tested at dusk.

What colour augmentation of the source brings alone, without any image of the target.

Data, weights: as source-only_mobilenetv2_1xb4-400_camvid-day2dusk-128x160.py.
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: CPU, 1 thread.
Published: none for these parts. Measured: configs/adaptation/README.md.
"""

_base_ = ['./source-only_mobilenetv2_1xb4-400_camvid-day2dusk-128x160.py']
pipeline = _base_.train_pipeline
distort = dict(
    type='mmseg_xmodal.OnModalities',
    names=['rgb'],
    transforms=[dict(type='PhotoMetricDistortion')],
)
train_dataloader = dict(dataset=dict(pipeline=[*pipeline[:-1], distort, pipeline[-1]]))
