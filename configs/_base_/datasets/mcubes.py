# MCubeS as CMNeXt and MMSFormer train: docs/datasets.md. The left 192 columns, and 4 on
# the right, are cut off; the official code tests on these 1024 x 1024 pixels.
_base_ = ['../pipelines/jitter_crop.py']

num_classes = 20
crop_size = (512, 512)
train_pipeline = [
    dict(type='mmseg_xmodal.LoadModalities'),
    dict(type='LoadAnnotations'),
    dict(type='mmseg_xmodal.CropMargins', left=192),
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='RandomResize', scale=(4096, 512), ratio_range=(0.5, 2.0), keep_ratio=True
    ),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(
        type='mmseg_xmodal.OnModalities',
        names=['rgb', 'nir'],
        transforms=[
            dict(
                type='mmseg_xmodal.GaussianBlur',
                kernel_size=0,
                sigma=(0.0, 1.0),
                prob=0.5,
            )
        ],
    ),
    dict(type='mmseg_xmodal.PackXModalInputs'),
]
test_pipeline = [
    dict(type='mmseg_xmodal.LoadModalities'),
    dict(type='LoadAnnotations'),
    dict(type='mmseg_xmodal.CropMargins', left=196, right=4),
    dict(type='mmseg_xmodal.PackXModalInputs'),
]
tta_pipeline = _base_.tta_pipeline
tta_pipeline.insert(1, dict(type='mmseg_xmodal.CropMargins', left=196, right=4))
tta_pipeline[2].transforms.insert(
    3, [dict(type='mmseg_xmodal.CropMargins', left=196, right=4, only_labels=True)]
)
# 8 bit files; for 16 bit ones dtype='uint16', scale=1 / 257. The angle of polarisation
# comes as sine and cosine: streams read aolp=['aolp_sin', 'aolp_cos', 'aolp_sin'].
_float = dict(dtype='float32')
modalities = [
    dict(
        name='rgb',
        channels=3,
        order='rgb',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
    ),
    dict(name='aolp_sin', channels=1, **_float),
    dict(name='aolp_cos', channels=1, **_float),
    dict(name='dolp', channels=3, bands=[0, 0, 0], **_float),
    dict(name='nir', channels=3, dtype='uint8', bands=[0, 0, 0], std=255),
]
_data_set = dict(
    type='mmseg_xmodal.MCubeSDataset', data_root='data/MCubeS', modalities=modalities
)
_loader = dict(num_workers=4, persistent_workers=True)
_test_loader = dict(
    **_loader, batch_size=1, sampler=dict(type='DefaultSampler', shuffle=False)
)
train_dataloader = dict(
    **_loader,
    batch_size=4,
    drop_last=True,
    sampler=dict(type='mmseg_xmodal.SeededDefaultSampler', shuffle=True),
    dataset=dict(
        **_data_set, ann_file='list_folder/train.txt', pipeline=train_pipeline
    ),
)
val_dataloader = dict(
    **_test_loader,
    dataset=dict(**_data_set, ann_file='list_folder/test.txt', pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU', 'mFscore'])
test_evaluator = val_evaluator
