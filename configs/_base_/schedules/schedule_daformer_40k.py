# The recipe of DAFormer, HRDA and MIC: AdamW, 6e-5, ten times that in the head, 1500
# iterations of warm-up, linear to 0. Norms outside of the head take no weight decay.
_base_ = ['./schedule_40k.py']
optim_wrapper = dict(
    paramwise_cfg=dict(
        bias_decay_mult=1.0, custom_keys=dict(decode_head=dict(lr_mult=10.0))
    )
)
param_scheduler = _base_.param_scheduler
param_scheduler[0].start_factor = 1e-6
# The official code decays from the first iteration on, and warms up on top of it.
param_scheduler[1].begin = 0
param_scheduler[1].power = 1.0
