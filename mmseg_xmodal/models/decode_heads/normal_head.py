"""A head for surface normals.

A light decoder on shared features. Coordinates: x to the right, y down, z to the
viewer. Mirroring a picture turns the component along the mirrored axis round, which is
undone in :meth:`NormalHead.finish`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.structures import BaseDataElement, PixelData
from torch import Tensor
from torch.nn import functional as F

from mmseg_xmodal.registry import MODELS

from ..layers.precision import at_least_single
from ..layers.view import flip_axes
from .level_head import LevelHead

# A shorter raw vector is not stretched to length 1: its direction is noise, and the
# gradient of its direction would be huge.
_SHORTEST = 1e-3


@MODELS.register_module()
class NormalHead(LevelHead):
    """Predict one unit vector per pixel.

    Args:
        in_channels: Channels of the levels that are read.
        loss_decode: Config of a loss, or a list of them; None =
            :class:`NormalCosineLoss`. :class:`MaskedL1Loss` compares the components of
            the unit vectors.
        target: Field of the truth; it predicts ``pred_...`` instead of ``gt_...``.
        kwargs: ``in_index``, ``channels``, ``refine``, ``norm_cfg``, ``align_corners``
            and ``init_cfg``, see :class:`LevelHead`.

    Shape:
        - input: maps (B, in_channels[i], h_i, w_i), the largest first.
        - output: (B, 3, h_0, w_0)
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        loss_decode: dict | Sequence[dict] | None = None,
        target: str = 'gt_normal_map',
        **kwargs: Any,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels=3,
            loss_decode=loss_decode or dict(type='mmseg_xmodal.NormalCosineLoss'),
            target=target,
            **kwargs,
        )
        # Start with surfaces that face the viewer: far from the zero vector, which has
        # no direction.
        bias = self.decoder.classifier.bias
        if bias is not None:
            with torch.no_grad():
                bias.copy_(torch.tensor([0.0, 0.0, 1.0]))

    def activate(self, output: Tensor) -> Tensor:
        """From raw output to unit vectors."""
        return F.normalize(at_least_single(output), dim=1, eps=_SHORTEST)

    def compared(self, output: Tensor, size: tuple[int, int]) -> Tensor:
        """Unit vectors, interpolated as at inference."""
        return self.activate(self.resize(self.activate(output), size))

    def truth(self, data_samples: Sequence[Any]) -> Tensor:
        """See :meth:`LevelHead.truth`; unit vectors, NaN where there is none."""
        target = at_least_single(super().truth(data_samples))
        length = target.norm(dim=1, keepdim=True)
        # 0 / 0 is NaN: what transforms fill borders with has no direction either.
        return target / length

    def finish(
        self, output: Tensor, img_meta: Mapping[str, Any]
    ) -> dict[str, BaseDataElement]:
        """The field of the prediction, unit vectors in the unmirrored picture."""
        horizontal, vertical = flip_axes(img_meta)
        signs = output.new_tensor([1 - 2 * horizontal, 1 - 2 * vertical, 1])
        normal = F.normalize(output * signs[:, None, None], dim=0)
        return {self.prediction: PixelData(data=normal)}
