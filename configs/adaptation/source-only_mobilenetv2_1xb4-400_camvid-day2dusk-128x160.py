"""MobileNetV2 on CamVid by day, tested at dusk: what adaptation starts from.

Data:     CamVid parted by sequence, see configs/adaptation/README.md.
Weights:  ImageNet, torchvision's mobilenet_v2-b0353104.pth through
          python tools/model_converters/convert.py mobilenetv2 IN.pth \
              data/pretrain/mobilenet_v2.pth
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: CPU, 1 thread.
Published: none for these parts. Measured: configs/adaptation/README.md.
"""

_base_ = [
    '../_base_/models/segformer-head_mobilenetv2.py',
    '../_base_/datasets/camvid_day2dusk.py',
    '../_base_/schedules/schedule_1k.py',
    '../_base_/default_runtime.py',
]
init_cfg = dict(type='Pretrained', checkpoint='data/pretrain/mobilenet_v2.pth')
model = dict(
    data_preprocessor=dict(modalities=_base_.modalities, size=_base_.crop_size),
    backbone=dict(init_cfg=init_cfg),
    decode_head=dict(num_classes=_base_.num_classes),
)
optim_wrapper = dict(
    optimizer=dict(lr=3e-4),
    paramwise_cfg=dict(custom_keys=dict(decode_head=dict(lr_mult=10.0))),
)
max_iters = 400
param_scheduler = _base_.param_scheduler
param_scheduler[1].end = max_iters
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
