"""The decode head of DeepLabV2, on which domain adaptation was long compared.

Paper: DeepLab, TPAMI 2018, https://arxiv.org/abs/1606.00915. As the adaptation methods
have it: ADVENT, https://github.com/valeoai/ADVENT (Apache-2.0), and MIC,
https://github.com/lhoyer/MIC (Apache-2.0), whose state dict this is. Clean room,
nothing copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmcv.cnn import ConvModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

from mmseg_xmodal.registry import MODELS


@MODELS.register_module()
class DeepLabV2Head(BaseDecodeHead):
    """The sum of parallel dilated convolutions that give the classes at once.

    No norm, no activation, no dropout, and no layer after the sum.

    Args:
        in_channels: Channels of the feature map, or of several that
            ``input_transform='resize_concat'`` joins.
        dilations: Of the 3x3 convolutions. AdaptSegNet's code used the first two only,
            (6, 12).
        kwargs: Of mmseg's ``BaseDecodeHead`` (``num_classes``, ``in_index``,
            ``align_corners``, ``loss_decode``, ...).

    Shape:
        - inputs[in_index]: (B, C, h, w)
        - output: (B, out_channels, h, w)
    """

    aspp_modules: Any

    def __init__(
        self,
        in_channels: int | Sequence[int],
        dilations: Sequence[int] = (6, 12, 18, 24),
        **kwargs: Any,
    ) -> None:
        kwargs = dict(dropout_ratio=0, init_cfg=None) | kwargs
        # Of the layer that mmseg adds, which this head has not.
        super().__init__(in_channels, channels=1, **kwargs)
        del self.conv_seg
        self.aspp_modules = nn.ModuleList(
            ConvModule(
                self.in_channels,
                self.out_channels,
                3,
                dilation=dilation,
                padding=dilation,
                norm_cfg=None,
                act_cfg=None,
            )
            for dilation in dilations
        )

    def init_weights(self) -> None:
        """Draw the weights from N(0, 0.01^2); the biases start at 0."""
        super().init_weights()
        for module in self.aspp_modules:
            nn.init.normal_(module.conv.weight, std=0.01)
            nn.init.zeros_(module.conv.bias)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Logits at the size of the feature map."""
        x = self._transform_inputs(inputs)
        logits = self.aspp_modules[0](x)
        for module in self.aspp_modules[1:]:
            logits = logits + module(x)
        return logits
