"""mmseg's own SegformerHead behind the same backbone: what FastSegformerHead replaces.

python tools/benchmark/speed.py CONFIG --against tests/reference_forms/segformer_head.py
"""

from __future__ import annotations

import copy
from typing import Any

from mmseg.models.decode_heads import SegformerHead
from torch import Tensor, nn


class StockSegformer(nn.Module):
    """A copy of the backbone, and the stock head with the weights of the fast one."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        fast = model.decode_head
        self.backbone = copy.deepcopy(model.backbone)
        self.head = SegformerHead(
            interpolate_mode=fast.interpolate_mode,
            in_channels=fast.in_channels,
            in_index=fast.in_index,
            channels=fast.channels,
            num_classes=fast.num_classes,
            dropout_ratio=fast.dropout_ratio,
            norm_cfg=fast.norm_cfg,
            align_corners=fast.align_corners,
        )
        self.load_from(model)

    def load_from(self, model: Any) -> None:
        """Take the weights of ours; the state dicts are the same."""
        self.backbone.load_state_dict(model.backbone.state_dict())
        self.head.load_state_dict(model.decode_head.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


PUBLISHED = {'mmseg_xmodal.MultiStreamBackbone': StockSegformer}
