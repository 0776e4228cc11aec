# From GTA5 with labels to Cityscapes without, as DAFormer trains: images of half the
# size of Cityscapes, crops of 512, rare classes first. Layouts: docs/datasets.md. Other
# pairs inherit from here; gta2cityscapes_hr.py is the full size of HRDA and MIC.
crop_size = (512, 512)
num_classes = 19
modalities = dict(
    rgb=dict(
        channels=3,
        order='rgb',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
    )
)
source_pipeline = [
    dict(type='mmseg_xmodal.LoadModalities'),
    dict(type='LoadAnnotations'),
    # 1280 x 704 for GTA5: the official code keeps the ratio.
    dict(type='Resize', scale=(1280, 720), keep_ratio=True),
    dict(
        type='mmseg_xmodal.MinimumClassPixelsCrop', crop_size=crop_size, min_pixels=1500
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(type='mmseg_xmodal.PackXModalInputs'),
]
# Without truth: no LoadAnnotations, and no crop that reads labels.
target_pipeline = [
    dict(type='mmseg_xmodal.LoadModalities'),
    dict(type='Resize', scale=(1024, 512), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='mmseg_xmodal.PackXModalInputs'),
]
test_pipeline = [
    dict(type='mmseg_xmodal.LoadModalities'),
    dict(type='Resize', scale=(1024, 512), keep_ratio=True),
    # After Resize: the truth keeps its size, and predictions are brought to it.
    dict(type='LoadAnnotations'),
    dict(type='mmseg_xmodal.PackXModalInputs'),
]
tta_pipeline = [
    dict(type='mmseg_xmodal.LoadModalities'),
    dict(type='Resize', scale=(1024, 512), keep_ratio=True),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='RandomFlip', prob=0.0, direction='horizontal'),
                dict(type='RandomFlip', prob=1.0, direction='horizontal'),
            ],
            [dict(type='LoadAnnotations')],
            [dict(type='mmseg_xmodal.PackXModalInputs')],
        ],
    ),
]
_cityscapes = dict(
    type='mmseg_xmodal.CityscapesXModalDataset',
    data_root='data/cityscapes',
    modalities=modalities,
)
source = dict(
    type='mmseg_xmodal.GTA5Dataset',
    data_root='data/gta',
    modalities=modalities,
    pipeline=source_pipeline,
)
target = dict(
    **_cityscapes,
    split='train',
    data_prefix=dict(seg_map_path=None),
    pipeline=target_pipeline,
)
_loader = dict(num_workers=4, persistent_workers=True)
_test_loader = dict(
    **_loader, batch_size=1, sampler=dict(type='DefaultSampler', shuffle=False)
)
train_dataloader = dict(
    **_loader,
    batch_size=4,
    sampler=dict(
        type='mmseg_xmodal.MultiSourceSampler',
        batch_size=4,
        source_ratio=[1, 1],
        # Published: T = 0.01, images with more than 3000 pixels of the class.
        samplers=[dict(type='mmseg_xmodal.RareClassSampler'), None],
    ),
    dataset=dict(
        type='mmseg_xmodal.MultiSourceDataset',
        names=['source', 'target'],
        datasets=[source, target],
    ),
)
val_dataloader = dict(
    **_test_loader, dataset=dict(**_cityscapes, split='val', pipeline=test_pipeline)
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU', 'mFscore'])
test_evaluator = val_evaluator
