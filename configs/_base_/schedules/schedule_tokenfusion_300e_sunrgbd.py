# The three stages of TokenFusion on SUN RGB-D, 660 iterations an epoch at a total batch
# of 8: a stage is longer than its decay, whose last rate it keeps.
_base_ = ['./schedule_tokenfusion_300e.py']
_stage = 66000
_end = 1 / 40000
_warm_up = dict(type='LinearLR', start_factor=1e-6, by_epoch=False)
_decay = dict(type='LinearLR', start_factor=1.0, end_factor=_end, by_epoch=False)
param_scheduler = [
    dict(begin=0, end=1500, **_warm_up),
    dict(begin=0, end=40000, **_decay),
    dict(
        type='MultiStepLR',
        by_epoch=False,
        milestones=[_stage, 2 * _stage],
        gamma=0.5 / _end,
    ),
    dict(begin=_stage, end=_stage + 1500, **_warm_up),
    dict(begin=_stage, end=_stage + 40000, **_decay),
    dict(begin=2 * _stage, end=2 * _stage + 1500, **_warm_up),
    dict(begin=2 * _stage, end=2 * _stage + 40000, **_decay),
]
