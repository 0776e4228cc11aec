"""MMSFormer-B2 on MCubeS, RGB + NIR + angle and degree of polarisation.

Command: bash $TOOLS/dist_train.sh THIS_FILE 2 ($TOOLS: see README.md)
Hardware: 2 GPUs, 8 images in all. Measured here: not run.
Published: mIoU 53.11 (official README, on 1024 x 1024 test pixels: docs/datasets.md).
"""

_base_ = [
    '../_base_/models/mmsformer_mit-b1.py',
    '../_base_/datasets/mcubes.py',
    '../_base_/schedules/schedule_cmnext_500e.py',
    '../_base_/epoch_runtime.py',
]
# In the published order of the streams.
modalities = [_base_.modalities[i] for i in (0, 4, 1, 2, 3)]
data = dict(dataset=dict(modalities=modalities))
model = dict(
    data_preprocessor=dict(
        modalities=modalities, size=_base_.crop_size, validity=False
    ),
    backbone=dict(
        modalities=modalities,
        streams=dict(
            rgb=['rgb'],
            nir=['nir'],
            aolp=['aolp_sin', 'aolp_cos', 'aolp_sin'],
            dolp=['dolp'],
        ),
        variant='mit_b2',
        pretrained='pretrain/mit_b2.pth',
        extra_pretrained=dict(checkpoint='pretrain/mit_b1.pth', first_conv='sum'),
    ),
    decode_head=dict(
        channels=512,
        loss_decode=dict(_delete_=True, type='mmseg_xmodal.OHEMCrossEntropyLoss'),
        num_classes=_base_.num_classes,
    ),
)
train_dataloader = val_dataloader = test_dataloader = data
optim_wrapper = dict(type='AmpOptimWrapper')
