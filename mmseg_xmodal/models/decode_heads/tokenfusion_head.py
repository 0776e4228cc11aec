"""The decode head of TokenFusion: one MLP decoder for both streams, and an ensemble.

Paper: Multimodal Token Fusion for Vision Transformers, 2022,
https://arxiv.org/abs/2204.08721. The official code states no licence and was not
opened; see :class:`TokenFusion` for what is proved and what is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mmseg_xmodal.registry import MODELS

from .gemini_head import GeminiHead

_LEVELS = 4


@MODELS.register_module()
class TokenFusionHead(GeminiHead):
    """Decodes both streams of :class:`TokenFusion`; adds the scores to the loss.

    Args:
        in_channels: Channels of the four levels, both streams together.
        channels: E.
        score_weight: Of the L1 norm of the scores, which the backbone hands over as
            its fifth output (``score_norm=True``); the official command line has 1e-6.
        train_alpha: Learn the weights of the ensemble.
        kwargs: See :class:`MLPDecodeHead`.

    Shape:
        - input: four maps (B, in_channels[i], h_i, w_i), the largest first, and
          (B, 1, 1, 1), which only the loss needs.
        - output: logits (B, out_channels, h_0, w_0)

    Raises:
        ValueError: If there are not four levels, their channels are odd, or the norm
            of the scores is wanted and not there.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int = 256,
        score_weight: float = 1e-6,
        train_alpha: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(in_channels, channels, train_alpha, **kwargs)
        self.score_weight = score_weight

    def stream_logits(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the logits of the first and of the second stream."""
        return super().stream_logits(inputs[:_LEVELS])

    def loss(self, inputs: Any, batch_data_samples: list, train_cfg: Any) -> dict:
        """Return the losses of both streams, of the ensemble and of the scores."""
        norm = inputs[_LEVELS] if len(inputs) > _LEVELS else None
        outputs = (*self.stream_logits(inputs), norm)
        return self.loss_by_feat(outputs, batch_data_samples)

    def loss_by_feat(self, seg_logits: Any, batch_data_samples: list) -> dict:
        """Return the losses of both streams, of the ensemble and of the scores.

        Args:
            seg_logits: Logits of the two streams, and the norm of the scores.
            batch_data_samples: With the labels.
        """
        *logits, norm = seg_logits
        losses = super().loss_by_feat(logits, batch_data_samples)
        if self.score_weight:
            if norm is None:
                raise ValueError(
                    f'TokenFusionHead has score_weight={self.score_weight}, but got '
                    f'{_LEVELS} maps and no norm of the scores. Set score_norm=True in '
                    'the backbone (mmseg_xmodal.TokenFusion), or score_weight=0 in '
                    'decode_head.'
                )
            losses['loss_scores'] = self.score_weight * norm.mean()
        return losses
