# CamVid (480x360, 11 classes), parted by sequence for adaptation: source by day, target
# at dusk. Below data_root: {source,target}/{images,labels}/{train,val,test}. The labels
# of target/train are held back in target/labels_heldback, for an upper bound only.
# Images are read at half the size; scores are at the full one. `val` is of the source:
# settings are chosen there, never on the target.
dataset_type = 'mmseg_xmodal.MultiModalSegDataset'
data_root = 'data/camvid_day2dusk'
image_size = (240, 180)
crop_size = (128, 160)
num_classes = 11
modalities = dict(
    rgb=dict(
        channels=3,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        order='rgb',
    )
)
metainfo = dict(
    classes=(
        'Sky',
        'Building',
        'Pole',
        'Road',
        'Pavement',
        'Tree',
        'SignSymbol',
        'Fence',
        'Car',
        'Pedestrian',
        'Bicyclist',
    ),
    palette=[
        [128, 128, 128],
        [128, 0, 0],
        [192, 192, 128],
        [128, 64, 128],
        [60, 40, 222],
        [128, 128, 0],
        [192, 128, 128],
        [64, 64, 128],
        [64, 0, 128],
        [64, 64, 0],
        [0, 128, 192],
    ],
)
train_pipeline = [
    dict(type='mmseg_xmodal.LoadModalities'),
    dict(type='LoadAnnotations'),
    dict(
        type='RandomResize', scale=image_size, ratio_range=(0.9, 1.5), keep_ratio=True
    ),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='mmseg_xmodal.PackXModalInputs'),
]
# Without truth: no LoadAnnotations, and no crop that reads labels.
unlabelled_pipeline = [
    train_pipeline[0],
    train_pipeline[2],
    dict(type='RandomCrop', crop_size=crop_size),
    *train_pipeline[4:],
]
test_pipeline = [
    dict(type='mmseg_xmodal.LoadModalities'),
    dict(type='Resize', scale=image_size, keep_ratio=True),
    # After Resize: the truth keeps its size, and predictions are brought to it.
    dict(type='LoadAnnotations'),
    dict(type='mmseg_xmodal.PackXModalInputs'),
]
tta_pipeline = [
    dict(type='mmseg_xmodal.LoadModalities'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale=(w, w * 3 // 4), keep_ratio=True)
                for w in (192, 240, 320)
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
_data_set = dict(
    type=dataset_type,
    data_root=data_root,
    modalities=modalities,
    metainfo=metainfo,
    suffixes=dict(rgb='.jpg'),
)
source_train = dict(
    **_data_set,
    data_prefix=dict(rgb='source/images/train', seg_map_path='source/labels/train'),
    pipeline=train_pipeline,
)
target_train = dict(
    **_data_set,
    data_prefix=dict(rgb='target/images/train'),
    pipeline=unlabelled_pipeline,
)
# For an upper bound only.
target_heldback = dict(
    **_data_set,
    data_prefix=dict(
        rgb='target/images/train', seg_map_path='target/labels_heldback/train'
    ),
    pipeline=train_pipeline,
)
_loader = dict(num_workers=2, persistent_workers=True)
_test_loader = dict(
    **_loader, batch_size=1, sampler=dict(type='DefaultSampler', shuffle=False)
)
train_dataloader = dict(
    **_loader,
    batch_size=4,
    sampler=dict(type='mmseg_xmodal.SeededInfiniteSampler', shuffle=True),
    dataset=source_train,
)
val_dataloader = dict(
    **_test_loader,
    dataset=dict(
        **_data_set,
        data_prefix=dict(rgb='source/images/val', seg_map_path='source/labels/val'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = dict(
    **_test_loader,
    dataset=dict(
        **_data_set,
        data_prefix=dict(rgb='target/images/test', seg_map_path='target/labels/test'),
        pipeline=test_pipeline,
    ),
)
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU', 'mFscore'])
test_evaluator = val_evaluator
