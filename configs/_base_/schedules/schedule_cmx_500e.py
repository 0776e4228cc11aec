# CMX and DFormer: AdamW, linear warm-up over 10 epochs times polynomial decay over all
# of them, both per iteration, at a total batch of 8. The official code sets the rate
# after each step, so that its step 0 runs at the full rate and step 1 at 0; here both
# start near 0. From epoch 10 on the two agree.
max_epochs = 500
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmseg_xmodal.ParamGroupOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    # Norms and biases take no decay. Official training never optimises parameters that
    # stand outside of layers (layer scales, DFormerv2's Geo.weight, CMX-Swin's position
    # tables); dict(no_decay=['norm', 'bias'], left_out=['bare']) does as it did.
    paramwise_cfg=dict(no_decay=['norm', 'bias', 'bare']),
)
param_scheduler = [
    dict(
        type='LinearLR', start_factor=1e-6, begin=0, end=10, convert_to_iter_based=True
    ),
    dict(type='PolyLR', power=0.9, begin=0, end=max_epochs, convert_to_iter_based=True),
]
train_cfg = dict(
    type='EpochBasedTrainLoop', max_epochs=max_epochs, val_begin=250, val_interval=25
)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
