"""Five tasks of PASCAL-Context that attend to each other.

Data:     docs/datasets.md
Command:  python $TOOLS/train.py THIS_FILE ($TOOLS: see README.md)
Hardware: 1 GPU.
Published: none for this backbone. Weights of the losses as in the configs of the
          multi-task literature (InvPT, https://arxiv.org/abs/2203.07997).
Measured: not run.
"""

_base_ = [
    '../_base_/models/multitask_mit-b0.py',
    '../_base_/datasets/pascal_context_mt.py',
    '../_base_/schedules/schedule_40k.py',
    '../_base_/default_runtime.py',
]
modalities = _base_.modalities
one_map = dict(in_channels=[64], in_index=[0])
segmenter = dict(type='mmseg_xmodal.FastSegformerHead', channels=64, **one_map)
model = dict(
    data_preprocessor=dict(modalities=modalities, size=_base_.crop_size),
    interaction=dict(
        type='mmseg_xmodal.InvertedPyramidAttention',
        in_channels=[32, 64, 160, 256],
        channels=64,
    ),
    decode_head=dict(num_classes=_base_.num_classes, **one_map),
    task_heads=dict(
        human_parts=dict(num_classes=7, **segmenter),
        saliency=dict(num_classes=2, **segmenter),
        normal=dict(type='mmseg_xmodal.NormalHead', **one_map),
        edge=dict(type='mmseg_xmodal.EdgeHead', **one_map),
    ),
    balancer=dict(
        type='mmseg_xmodal.FixedWeights',
        weights=dict(human_parts=2.0, saliency=5.0, normal=10.0, edge=50.0),
    ),
)
