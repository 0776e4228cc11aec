# The augmentation of CMNeXt, StitchFusion, MMSFormer, TokenFusion and GeminiFusion:
# jitter and blur of RGB, flip, a scale from half to twice the crop, crop.
crop_size = (480, 640)
train_pipeline = [
    dict(type='mmseg_xmodal.LoadModalities', resize_to='rgb'),
    dict(type='mmseg_xmodal.LoadLabels'),
    dict(
        type='mmseg_xmodal.OnModalities',
        names=['rgb'],
        transforms=[
            dict(type='mmseg_xmodal.ColorJitter', prob=0.2),
            dict(type='mmseg_xmodal.GaussianBlur', kernel_size=3, prob=0.2),
        ],
    ),
    dict(type='RandomFlip', prob=0.5),
    # The official code takes four times the width: the height alone decides.
    dict(
        type='RandomResize',
        scale=(4 * crop_size[1], crop_size[0]),
        ratio_range=(0.5, 2.0),
        keep_ratio=True,
    ),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='mmseg_xmodal.PackXModalInputs'),
]
test_pipeline = [
    dict(type='mmseg_xmodal.LoadModalities', resize_to='rgb'),
    dict(type='mmseg_xmodal.LoadLabels'),
    dict(type='mmseg_xmodal.PackXModalInputs'),
]
tta_pipeline = [
    dict(type='mmseg_xmodal.LoadModalities', resize_to='rgb'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale_factor=factor, keep_ratio=True)
                for factor in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
            ],
            [
                dict(type='RandomFlip', prob=0.0, direction='horizontal'),
                dict(type='RandomFlip', prob=1.0, direction='horizontal'),
            ],
            [dict(type='mmseg_xmodal.LoadLabels')],
            [dict(type='mmseg_xmodal.PackXModalInputs')],
        ],
    ),
]
