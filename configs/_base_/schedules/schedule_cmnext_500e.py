# CMNeXt, StitchFusion, MMSFormer: AdamW, linear warm-up from a tenth over 10 epochs,
# then polynomial decay that would reach 0 one epoch after the last, per iteration.
max_epochs = 500
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmseg_xmodal.ParamGroupOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    # Whatever has one dimension takes no decay.
    paramwise_cfg=dict(no_decay=['flat']),
)
param_scheduler = [
    dict(
        type='LinearLR', start_factor=0.1, begin=0, end=10, convert_to_iter_based=True
    ),
    dict(
        type='PolyLR',
        power=0.9,
        begin=10,
        end=max_epochs + 1,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(
    type='EpochBasedTrainLoop', max_epochs=max_epochs, val_begin=300, val_interval=25
)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
