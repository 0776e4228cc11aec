default_scope = 'mmseg'
# One fixed seed: with `RandomStateHook` and a seeded sampler a resumed run is the
# uninterrupted one.
randomness = dict(seed=0)
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(
    type='mmseg_xmodal.XModalVisualizer', vis_backends=vis_backends, name='visualizer'
)
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    # Two kept checkpoints: a crash while the newest is written costs nothing.
    checkpoint=dict(
        type='CheckpointHook', by_epoch=False, interval=500, max_keep_ckpts=2
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='mmseg_xmodal.XModalVisualizationHook'),
)
custom_hooks = [dict(type='mmseg_xmodal.RandomStateHook')]
log_processor = dict(by_epoch=False)
log_level = 'INFO'
load_from = None
resume = False
tta_model = dict(type='mmseg_xmodal.XModalTTAModel')
