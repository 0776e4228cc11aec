# Several tasks: random scale, crop, flip and colours, by transforms that keep every
# target right. Whoever inherits sets scale and crop_size. The truth of a test picture
# comes last: it keeps the size of the files.
train_pipeline = [
    dict(type='mmseg_xmodal.LoadModalities'),
    dict(type='LoadAnnotations'),
    dict(type='mmseg_xmodal.LoadTargets'),
    dict(
        type='mmseg_xmodal.XModalRandomResize',
        scale=(640, 480),
        ratio_range=(1.0, 1.5),
        keep_ratio=True,
    ),
    dict(type='mmseg_xmodal.XModalRandomCrop', crop_size=(448, 576), cat_max_ratio=1.0),
    dict(type='mmseg_xmodal.XModalRandomFlip', prob=0.5),
    dict(
        type='mmseg_xmodal.OnModalities',
        names=['rgb'],
        transforms=[dict(type='PhotoMetricDistortion')],
    ),
    dict(type='mmseg_xmodal.PackXModalInputs'),
]
test_pipeline = [
    dict(type='mmseg_xmodal.LoadModalities'),
    dict(type='LoadAnnotations'),
    dict(type='mmseg_xmodal.LoadTargets'),
    dict(type='mmseg_xmodal.PackXModalInputs'),
]
tta_pipeline = [
    dict(type='mmseg_xmodal.LoadModalities'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='RandomFlip', prob=0.0, direction='horizontal'),
                dict(type='RandomFlip', prob=1.0, direction='horizontal'),
            ],
            [dict(type='LoadAnnotations')],
            [dict(type='mmseg_xmodal.LoadTargets')],
            [dict(type='mmseg_xmodal.PackXModalInputs')],
        ],
    ),
]
