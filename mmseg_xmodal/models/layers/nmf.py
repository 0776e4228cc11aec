"""Non-negative matrix factorisation (NMF) as a layer: the "ham" of Hamburger.

Paper: Is Attention Better Than Matrix Decomposition?, 2021,
https://arxiv.org/abs/2109.04553. The form is that of SegNeXt and of mmseg's ``NMF2D``
(Apache-2.0): multiplicative updates, gradients through all of them.

Differences: the bases from which it starts can be fixed, so that one image always gets
one answer and the network exports; a draw can be injected; the factors are available
without their product, which is of rank R only. One product per forward less: the first
numerator is what the first coefficients were made of.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .capture import is_captured
from .tokens import to_map, to_tokens

_BASES = ('fixed', 'random')
_EPS = 1e-6


class NMF(nn.Module):
    """Factorise the tokens X (N, D) of each sample as coefficients times bases.

    Args:
        channels: D.
        rank: R.
        train_steps: Multiplicative updates while training.
        eval_steps: Multiplicative updates otherwise.
        bases: Where they start: ``'fixed'`` = one draw for good, by ``seed``;
            ``'random'`` = a draw per sample and forward, as published.
        seed: Of the fixed draw.

    Shape:
        - input: (B, channels, H, W), not negative
        - output: as the input

    Raises:
        ValueError: If ``bases`` is unknown.
    """

    bases: Tensor | None

    def __init__(
        self,
        channels: int = 512,
        rank: int = 64,
        train_steps: int = 6,
        eval_steps: int = 7,
        bases: str = 'fixed',
        seed: int = 0,
    ) -> None:
        super().__init__()
        if bases not in _BASES:
            raise ValueError(
                f'bases={bases!r}, expected one of {_BASES}. Change `bases` of the '
                'decode head.'
            )
        self.channels, self.rank = channels, rank
        self.train_steps, self.eval_steps = train_steps, eval_steps
        # For the draws of 'random'; None = torch's global one.
        self.generator: torch.Generator | None = None
        fixed = None
        if bases == 'fixed':
            generator = torch.Generator('cpu').manual_seed(seed)
            fixed = self._draw(1, torch.device('cpu'), generator)
        # Not part of the state dict: that one is mmseg's.
        self.register_buffer('bases', fixed, persistent=False)

    def _draw(
        self, batch: int, device: torch.device, generator: torch.Generator | None
    ) -> Tensor:
        where = device if generator is None else generator.device
        shape = (batch, self.channels, self.rank)
        drawn = torch.rand(shape, generator=generator, device=where)
        return F.normalize(drawn, dim=1).to(device)

    def set_bases(self, bases: Tensor | None) -> None:
        """Start from these bases from now on; None = draw them at random.

        Shape:
            - bases: (1, channels, rank), or (B, channels, rank) for batches of B

        Raises:
            ValueError: If the shape differs.
        """
        expected = (self.channels, self.rank)
        if bases is not None and tuple(bases.shape[1:]) != expected:
            raise ValueError(
                f'bases have the shape {tuple(bases.shape)}, expected (1, '
                f'{expected[0]}, {expected[1]}) or one per sample. Change the tensor, '
                'or ham_channels and ham_kwargs of the decode head.'
            )
        self.bases = bases

    def factors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Factorise tokens.

        Shape:
            - x: (B, N, channels), not negative
            - output: coefficients (B, N, rank), bases (B, channels, rank)
        """
        # Under AMP too: 1e-6 is next to nothing in half precision.
        with torch.autocast(x.device.type, enabled=False):
            x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
            start = self.bases
            if start is None:
                start = self._draw(len(x), x.device, self.generator)
            start = start.to(x).expand(len(x), -1, -1)
            steps = self.train_steps if self.training else self.eval_steps
            if x.requires_grad and torch.is_grad_enabled() and not is_captured():
                return _Factorise.apply(x, start, steps)
            coefs, bases, _, _ = _factorise(x, start, steps)
            return coefs[-1], bases[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Return the product of the factors, a map of rank ``rank``."""
        coef, bases = self.factors(to_tokens(x))
        return to_map(coef @ bases.transpose(1, 2), (x.shape[2], x.shape[3]))


def _factorise(x: Tensor, start: Tensor, steps: int) -> tuple[list[Tensor], ...]:
    """All states: coefficients, bases, and the numerators of both."""
    bases, above = [start], [x @ start]
    coefs, below = [above[0].softmax(-1)], []
    transposed = x.transpose(1, 2)
    for _ in range(steps):
        coefs.append(_update(coefs[-1], above[-1], bases[-1]))
        below.append(transposed @ coefs[-1])
        bases.append(_update(bases[-1], below[-1], coefs[-1]))
        above.append(x @ bases[-1])
    coefs.append(_update(coefs[-1], above[-1], bases[-1]))
    return coefs, bases, above, below


class _Factorise(torch.autograd.Function):
    """Gradients through all updates; those of the tokens in one product.

    Each of the 2 * steps + 1 numerators sends a gradient of rank R to all tokens. They
    are collected and multiplied at once instead of one after the other.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, start: Tensor, steps: int) -> tuple[Tensor, ...]:
        states = _factorise(x, start, steps)
        ctx.steps = steps
        ctx.save_for_backward(x, *(tensor for state in states for tensor in state))
        return states[0][-1], states[1][-1]

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, for_coef: Tensor, for_bases: Tensor
    ) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        steps = ctx.steps
        coefs, saved = saved[: steps + 2], saved[steps + 2 :]
        bases, saved = saved[: steps + 1], saved[steps + 1 :]
        above, below = saved[: steps + 1], saved[steps + 1 :]
        transposed = x.transpose(1, 2)
        left: list[Tensor] = []
        right: list[Tensor] = []
        for t in range(steps, -1, -1):
            for_coef, top, more = _update_gradient(
                for_coef, coefs[t], above[t], bases[t]
            )
            for_bases = for_bases + more
            if t == 0:
                # The first coefficients are a softmax of the same product.
                soft = coefs[0]
                inner = for_coef - (for_coef * soft).sum(-1, keepdim=True)
                top = top + soft * inner
            left.append(top)
            right.append(bases[t])
            if t == 0 and not ctx.needs_input_grad[1]:
                break
            for_bases = for_bases + transposed @ top
            if t == 0:
                break
            for_bases, bottom, more = _update_gradient(
                for_bases, bases[t - 1], below[t - 1], coefs[t]
            )
            left.append(coefs[t])
            right.append(bottom)
            for_coef = for_coef + more + x @ bottom
        for_x = torch.cat(left, -1) @ torch.cat(right, -1).transpose(1, 2)
        return for_x, for_bases, None


def _update(factor: Tensor, numerator: Tensor, other: Tensor) -> Tensor:
    """One multiplicative update of ``factor`` with ``other`` held."""
    denominator = factor @ (other.transpose(1, 2) @ other)
    return factor * numerator / (denominator + _EPS)


def _update_gradient(
    grad: Tensor, factor: Tensor, numerator: Tensor, other: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`_update` for its three arguments."""
    gram = other.transpose(1, 2) @ other
    denominator = factor @ gram + _EPS
    share = grad / denominator
    for_denominator = -share * factor * numerator / denominator
    for_gram = factor.transpose(1, 2) @ for_denominator
    for_other = other @ (for_gram + for_gram.transpose(1, 2))
    return share * numerator + for_denominator @ gram, share * factor, for_other
