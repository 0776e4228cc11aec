"""Keys of the fusion that MMSFormer and StitchFusion share.

Official modules hold the parts of all stages in lists, ours has one module per stage.
"""

from __future__ import annotations

import re

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
