# TokenFusion and GeminiFusion: AdamW in three stages of 100 epochs, at rates 1, 1/2 and
# 1/4. Each stage warms up from 0 over 1500 iterations and decays linearly as if it had
# 40000; the decoder learns ten times as fast. The numbers below are for 132 iterations
# an epoch (NYUDv2 at a total batch of 6). The official code starts every stage with a
# fresh AdamW; here its moments go on.
max_epochs = 300
_stage = 13200
_end = 1 - _stage / 40000
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmseg_xmodal.ParamGroupOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    # Norms of the encoder take no decay.
    paramwise_cfg=dict(no_decay=['backbone.*norm*'], lr_mult={'decode_head.*': 10.0}),
)
_warm_up = dict(type='LinearLR', start_factor=1e-6, by_epoch=False)
_decay = dict(type='LinearLR', start_factor=1.0, end_factor=_end, by_epoch=False)
param_scheduler = [
    dict(begin=0, end=1500, **_warm_up),
    dict(begin=0, end=_stage, **_decay),
    # Takes back what a stage has decayed by, and halves.
    dict(
        type='MultiStepLR',
        by_epoch=False,
        milestones=[_stage, 2 * _stage],
        gamma=0.5 / _end,
    ),
    dict(begin=_stage, end=_stage + 1500, **_warm_up),
    dict(begin=_stage, end=2 * _stage, **_decay),
    dict(begin=2 * _stage, end=2 * _stage + 1500, **_warm_up),
    dict(begin=2 * _stage, end=3 * _stage, **_decay),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=5)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
