# From GTA5 with labels to Cityscapes without, as the methods on DeepLabV2 train: BGR
# without a deviation, images of half size, no flip, 1 + 1 images. Source images are cut
# to the size of the target's, 1024 x 512, as FDA does: one batch has one size. (ADVENT
# takes them whole, 1280 x 720.)
_base_ = ['./gta2cityscapes.py']
crop_size = (512, 1024)
_rgb = dict(channels=3, order='bgr', mean=[104.007, 116.669, 122.679])
modalities = dict(_delete_=True, rgb=_rgb)
_bgr = dict(modalities=dict(rgb=_rgb))
source_pipeline = [
    *_base_.source_pipeline[:2],
    dict(type='Resize', scale=(1280, 720), keep_ratio=False),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='mmseg_xmodal.PackXModalInputs'),
]
target_pipeline = [
    _base_.target_pipeline[0],
    dict(type='Resize', scale=(1024, 512), keep_ratio=False),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='mmseg_xmodal.PackXModalInputs'),
]
source = dict(_base_.source, **_bgr, pipeline=source_pipeline)
target = dict(_base_.target, **_bgr, pipeline=target_pipeline)
_bgr = dict(modalities=dict(_delete_=True, rgb=_rgb))
train_dataloader = dict(
    batch_size=2,
    sampler=dict(batch_size=2, samplers=None),
    dataset=dict(datasets=[source, target]),
)
val_dataloader = dict(dataset=_bgr)
test_dataloader = dict(dataset=_bgr)
