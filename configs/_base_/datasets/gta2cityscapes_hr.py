# As gta2cityscapes.py at the full size of Cityscapes, for HRDA and MIC: crops of 1024,
# four times the pixels of the rare class, margins that are marked in the image.
_base_ = ['./gta2cityscapes.py']
crop_size = (1024, 1024)
source_pipeline = _base_.source_pipeline
source_pipeline[2].scale = (2560, 1440)
source_pipeline[3].update(crop_size=crop_size, min_pixels=6000)
target_pipeline = [
    _base_.target_pipeline[0],
    dict(type='mmseg_xmodal.PseudoLabelMargins', top=30, bottom=240, left=30, right=30),
    dict(type='Resize', scale=(2048, 1024), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='mmseg_xmodal.PackXModalInputs', raster_keys=['gt_pseudo_valid']),
]
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = (2048, 1024)
tta_pipeline = _base_.tta_pipeline
tta_pipeline[1].scale = (2048, 1024)
source = dict(pipeline=source_pipeline)
target = dict(pipeline=target_pipeline)
train_dataloader = dict(
    dataset=dict(
        datasets=[
            dict(_base_.source, pipeline=source_pipeline),
            dict(_base_.target, pipeline=target_pipeline),
        ]
    )
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
