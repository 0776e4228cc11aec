"""CMX, a few channels wide, on the synthetic RGB-D data set of the tests."""

_base_ = ['../../configs/_base_/default_runtime.py']

data_root = 'data/rgbd'
crop_size = (64, 96)
classes = ('far', 'near', 'red', 'hole')
palette = [[60, 60, 60], [0, 160, 0], [220, 40, 40], [40, 40, 220]]
modalities = dict(
    rgb=dict(
        channels=3,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        order='rgb',
    ),
    depth=dict(channels=1, mean=[120.0], std=[60.0], dtype='uint8', invalid=0),
)
train_pipeline = [
    dict(type='mmseg_xmodal.LoadModalities', modalities=modalities),
    dict(type='LoadAnnotations'),
    dict(
        type='RandomResize',
        scale=(96, 64),
        ratio_range=(0.75, 1.5),
        keep_ratio=True,
    ),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.9),
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='mmseg_xmodal.OnModalities',
        names=['rgb'],
        transforms=[dict(type='PhotoMetricDistortion')],
    ),
    dict(type='mmseg_xmodal.PackXModalInputs'),
]
test_pipeline = [
    dict(type='mmseg_xmodal.LoadModalities', modalities=modalities),
    dict(type='Resize', scale=(96, 64), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='mmseg_xmodal.PackXModalInputs'),
]
tta_pipeline = [
    dict(type='mmseg_xmodal.LoadModalities', modalities=modalities),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale_factor=1.0, keep_ratio=True),
                dict(type='Resize', scale_factor=1.25, keep_ratio=True),
            ],
            [
                dict(type='RandomFlip', prob=0.0, direction='horizontal'),
                dict(type='RandomFlip', prob=1.0, direction='horizontal'),
            ],
            [dict(type='LoadAnnotations')],
            [dict(type='mmseg_xmodal.PackXModalInputs')],
        ],
    ),
]
dataset_type = 'mmseg_xmodal.MultiModalSegDataset'
suffixes = dict(rgb='.png', depth='.png', seg_map='.png')
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='mmseg_xmodal.SeededInfiniteSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        modalities=modalities,
        metainfo=dict(classes=classes, palette=palette),
        data_prefix=dict(
            rgb='rgb/train', depth='depth/train', seg_map_path='labels/train'
        ),
        suffixes=suffixes,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        modalities=modalities,
        metainfo=dict(classes=classes, palette=palette),
        data_prefix=dict(rgb='rgb/val', depth='depth/val', seg_map_path='labels/val'),
        suffixes=suffixes,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU', 'mFscore'])
test_evaluator = val_evaluator

norm_cfg = dict(type='BN', requires_grad=True)
data_preprocessor = dict(
    type='mmseg_xmodal.ModalityPreprocessor', modalities=modalities, size=crop_size
)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type='mmseg_xmodal.CMX',
        modalities=modalities,
        variant=dict(
            embed_dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4)
        ),
        drop_path_rate=0.1,
    ),
    decode_head=dict(
        type='mmseg_xmodal.CMXHead',
        in_channels=[8, 16, 24, 32],
        in_index=[0, 1, 2, 3],
        channels=32,
        dropout_ratio=0.1,
        num_classes=4,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='AdamW', lr=6e-4, weight_decay=0.01)
)
param_scheduler = [
    dict(type='PolyLR', eta_min=0.0, power=0.9, begin=0, end=20, by_epoch=False)
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=20, val_interval=20)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(logger=dict(interval=5), checkpoint=dict(interval=10))
