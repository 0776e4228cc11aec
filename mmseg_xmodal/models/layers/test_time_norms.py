"""Norms that take the statistics of what they are given, for as long as wanted.

Papers: Schneider et al., "Improving robustness against common corruptions by covariate
shift adaptation", NeurIPS 2020, https://arxiv.org/abs/2006.16971, official code
https://github.com/bethgelab/robustness (not opened); Nado et al., "Evaluating
Prediction-Time Batch Normalization for Robustness under Covariate Shift", 2020,
https://arxiv.org/abs/2006.10963. Clean room, nothing copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

NORM_KINDS: dict[str, tuple[type, ...]] = dict(
    batch=(_BatchNorm,),
    layer=(nn.LayerNorm, nn.RMSNorm),
    group=(nn.GroupNorm,),
    instance=(_InstanceNorm,),
)


def find_norms(module: nn.Module, kinds: Sequence[str]) -> dict[str, Any]:
    """Norms of some kinds, by name.

    Args:
        module: Searched.
        kinds: Keys of ``NORM_KINDS``.
    """
    types = tuple(t for kind in kinds for t in NORM_KINDS[kind])
    return {name: m for name, m in module.named_modules() if isinstance(m, types)}


def batch_statistics_norm(norm: Any, prior: float, x: Tensor) -> Tensor:
    """A batch norm with the statistics of its input, mixed with its running ones.

    Mean and variance are n / (n + N) of those of the input and N / (n + N) of the
    running ones; gradients pass through the former. The running statistics stay as they
    are. Where a channel has one value only (global pooling of one image) nothing can be
    estimated: there the running ones are taken alone.

    Args:
        norm: The batch norm, with running statistics where ``prior`` is above 0.
        prior: N, in images; n is the size of the batch.
        x: Its input.

    Shape:
        - x, output: (n, C, ...)
    """
    dims = [0, *range(2, x.dim())]
    values = x.numel() // x.shape[1]
    mean, var = norm.running_mean, norm.running_var
    if values > 1 and not prior:
        return nn.functional.batch_norm(
            x, None, None, norm.weight, norm.bias, True, 0.0, norm.eps
        )
    if values > 1:
        own_var, own_mean = torch.var_mean(x.float(), dims, correction=0)
        share = len(x) / (len(x) + prior)
        mean = share * own_mean + (1 - share) * mean
        var = share * own_var + (1 - share) * var
    shape = (1, -1, *(1,) * (x.dim() - 2))
    scale = (var + norm.eps).rsqrt()
    shift = -mean * scale
    if norm.affine:
        scale, shift = scale * norm.weight, shift * norm.weight + norm.bias
    return (x.float() * scale.view(shape) + shift.view(shape)).to(x.dtype)


@contextmanager
def batch_statistics(norms: Sequence[Any], prior: float = 0.0) -> Iterator[None]:
    """Let batch norms use the statistics of their inputs inside of the block.

    Code that folds a batch norm into a convolution asks whether it is in training mode:
    call :func:`keep_unfolded` after each ``model.eval()``.

    Args:
        norms: Batch norms.
        prior: See :func:`batch_statistics_norm`.
    """
    modes = [norm.training for norm in norms]
    for norm in norms:
        norm.forward = partial(batch_statistics_norm, norm, prior)
    try:
        keep_unfolded(norms)
        yield
    finally:
        for norm, mode in zip(norms, modes, strict=True):
            del norm.forward
            norm.training = mode


def keep_unfolded(norms: Sequence[nn.Module]) -> None:
    """Put norms in training mode, in which nobody folds them."""
    for norm in norms:
        norm.training = True
