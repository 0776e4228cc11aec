"""Keys of the fusion, and the head, that MMSFormer and StitchFusion share.

Official modules hold the parts of all stages in lists, ours has one module per stage.
"""

from __future__ import annotations

import re

from .official import State

_PARTS = {
    'liner_fusion_layers': 'linear',
    'mix_ffn': 'mix_ffn',
    'channel_attns': 'gate',
}


def mix_se_key(key: str, prefix: str) -> str | None:
    """Translate one official key of the fusion; None when it is none.

    Args:
        key: Such as ``backbone.fusion_block.mix_ffn.0.fc1.weight``.
        prefix: Of the official module, such as ``backbone.fusion_block.``.

    Returns:
        Such as ``backbone.fusions.0.mix_ffn.fc1.weight``.
    """
    parts = '|'.join(_PARTS)
    match = re.fullmatch(rf'{re.escape(prefix)}({parts})\.(\d+)\.(.+)', key)
    if not match:
        return None
    return f'backbone.fusions.{match[2]}.{_PARTS[match[1]]}.{match[3]}'


def head_config(state: State) -> dict:
    """Read the config of the decode head from an official checkpoint."""
    classifier = state['decode_head.linear_pred.weight']
    return dict(
        type='mmseg_xmodal.CMNeXtHead',
        in_channels=[
            state[f'decode_head.linear_c{i}.proj.weight'].shape[1] for i in range(1, 5)
        ],
        channels=classifier.shape[1],
        num_classes=classifier.shape[0],
    )
