"""Four tasks of NYU Depth V2 that exchange features at every scale.

Data:     docs/datasets.md
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: 1 GPU.
Published: none for this backbone. Weights of the losses as in the configs of the
          multi-task literature (InvPT, https://arxiv.org/abs/2203.07997).
Measured: not run.
"""

_base_ = [
    '../_base_/models/multitask_mit-b0.py',
    '../_base_/datasets/nyudv2_mt.py',
    '../_base_/schedules/schedule_40k.py',
    '../_base_/default_runtime.py',
]
modalities = _base_.modalities
pyramid = [32, 64, 160, 256]
model = dict(
    data_preprocessor=dict(modalities=modalities, size=_base_.crop_size),
    interaction=dict(type='mmseg_xmodal.MultiScaleDistillation', in_channels=pyramid),
    decode_head=dict(num_classes=_base_.num_classes),
    task_heads=dict(
        depth=dict(type='mmseg_xmodal.DepthHead', in_channels=pyramid, max_depth=10.0),
        normal=dict(type='mmseg_xmodal.NormalHead', in_channels=pyramid),
        edge=dict(type='mmseg_xmodal.EdgeHead', in_channels=pyramid),
    ),
    balancer=dict(
        type='mmseg_xmodal.FixedWeights',
        weights=dict(seg=1.0, depth=1.0, normal=10.0, edge=50.0),
    ),
)
