# The published recipes count epochs. Checkpoints and validation every 25 of them.
_base_ = ['./default_runtime.py']
default_hooks = dict(
    logger=dict(log_metric_by_epoch=True),
    checkpoint=dict(by_epoch=True, interval=25, save_best='mIoU'),
)
log_processor = dict(by_epoch=True)
