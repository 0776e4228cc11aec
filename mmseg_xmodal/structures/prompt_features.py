"""What a prompt (text, sound, class names) is after its encoder."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class PromptFeatures:
    """A batch of encoded prompts.

    Args:
        tokens: One sequence per sample, padded to equal length.
        mask: True where a token is real; None = all of them.
        pooled: One vector per sample; None = mean of the real tokens, zeros where
            there is none.

    Shape:
        - tokens: (B, N, C)
        - mask: (B, N), bool
        - pooled: (B, C)

    Raises:
        ValueError: If the shapes or the dtype of the mask do not fit.
    """

    tokens: Tensor
    mask: Tensor | None = None
    pooled: Tensor | None = None

    def __post_init__(self) -> None:
        if self.tokens.ndim != 3:
            raise ValueError(
                f'tokens has the shape {tuple(self.tokens.shape)}, expected (B, N, C): '
                'batch, tokens, channels. Add the batch axis to one sequence.'
            )
        shape = tuple(self.tokens.shape)
        if self.mask is None:
            mask = torch.ones(shape[:2], dtype=torch.bool, device=self.tokens.device)
            object.__setattr__(self, 'mask', mask)
        elif self.mask.dtype != torch.bool or tuple(self.mask.shape) != shape[:2]:
            raise ValueError(
                f'mask is {self.mask.dtype} {tuple(self.mask.shape)}, expected '
                f'torch.bool {shape[:2]} for tokens {shape}. A tokenizer gives '
                'integers: use mask.bool().'
            )
        if self.pooled is None:
            object.__setattr__(self, 'pooled', self._mean())
        elif tuple(self.pooled.shape) != (shape[0], shape[2]):
            raise ValueError(
                f'pooled has the shape {tuple(self.pooled.shape)}, expected '
                f'{(shape[0], shape[2])} for tokens {shape}. Give one vector per '
                'sample, or None.'
            )

    def _mean(self) -> Tensor:
        assert self.mask is not None  # set before
        weight = self.mask.unsqueeze(2).to(self.tokens.dtype)
        total = torch.where(weight > 0, self.tokens, 0).sum(1)
        return total / weight.sum(1).clamp(min=1)

    def to(self, *args: object, **kwargs: object) -> PromptFeatures:
        """Move to a device or dtype, as ``Tensor.to``; the mask stays bool."""
        moved = self.tokens.to(*args, **kwargs)  # type: ignore[call-overload]
        assert self.mask is not None
        assert self.pooled is not None
        return PromptFeatures(
            moved, self.mask.to(moved.device), self.pooled.to(moved.device, moved.dtype)
        )
