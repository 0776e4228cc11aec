"""Entropy minimisation at test time.

Paper: Wang et al., "Tent: Fully Test-Time Adaptation by Entropy Minimization", ICLR
2021, https://arxiv.org/abs/2006.10726, official code
https://github.com/DequanWang/tent (MIT). Clean room, nothing copied.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.registry import OPTIMIZERS
from torch import Tensor, nn

from mmseg_xmodal.models.layers.logit_probabilities import (
    gives_scores,
    logit_probabilities,
)


class Tent:
    """Entropy minimisation around ``encode_decode`` of a network.

    Args:
        network: The segmentor.
        params: What is trained.
        optimizer: Config.
        steps: For each batch.
        again: Whether one more pass after the last step predicts.
        fp16: Whether gradients are scaled, since activations are of half precision.

    Attributes:
        called: Whether ``encode_decode`` was called; the caller resets it.
        entropies: Of the first and the last step, or empty.
    """

    def __init__(
        self,
        network: Any,
        params: Sequence[nn.Parameter],
        optimizer: Mapping[str, Any],
        steps: int,
        again: bool,
        fp16: bool,
    ) -> None:
        self.network, self.params = network, list(params)
        self.steps, self.again, self.fp16 = steps, again, fp16
        self.size = sum(p.numel() for p in self.params)
        self._cfg = dict(optimizer)
        self._kept = [p.detach().clone() for p in self.params]
        self.entropies: list[Tensor] = []
        self.called = False
        self.reset()

    def reset(self) -> None:
        """Weights of the checkpoint, and a fresh optimiser."""
        with torch.no_grad():
            for param, kept in zip(self.params, self._kept, strict=True):
                param.copy_(kept)
        self._optimizer = OPTIMIZERS.build(dict(self._cfg, params=self.params))
        scaled = self.fp16 and self.params[0].is_cuda
        # Gradients of half precision vanish without it.
        self._scaler = torch.amp.GradScaler('cuda', enabled=scaled)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Adapt inside of the block, and leave the network as it was."""
        plain = self.network.encode_decode
        flags = {p: p.requires_grad for p in self.network.parameters()}

        def adapted(inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
            return self._adapt(plain, inputs, batch_img_metas)

        self._kept = [p.detach().clone() for p in self.params]
        self.reset()
        self.entropies = []
        self.network.requires_grad_(False)
        for param in self.params:
            param.requires_grad_(True)
        self.network.encode_decode = adapted
        try:
            yield
        finally:
            del self.network.encode_decode
            self.reset()
            for param, flag in flags.items():
                param.requires_grad_(flag)
                param.grad = None

    def _adapt(self, plain: Any, inputs: Tensor, metas: list[dict]) -> Tensor:
        self.called = True
        logits = inputs
        for _ in range(self.steps):
            with torch.enable_grad():
                logits = plain(inputs, metas)
                loss = self._entropy(logits)
            self._optimizer.zero_grad()
            self._scaler.scale(loss).backward()
            self._scaler.step(self._optimizer)
            self._scaler.update()
            self.entropies = [*self.entropies[:1], loss.detach()]
        if self.again:
            logits = plain(inputs, metas)
        return logits.detach()

    def _entropy(self, logits: Tensor) -> Tensor:
        """Mean over the pixels, in nats."""
        channels, expected = logits.shape[1], self.network.out_channels
        if channels != expected:
            name = type(self.network).__name__
            raise TypeError(
                f'TestTimeAdaptLoop: encode_decode of {name} gives {channels} channels,'
                f' expected the logits of {expected} classes: maps of several tasks '
                "have no common entropy. Use method='norm'."
            )
        p = logit_probabilities(logits, gives_scores(self.network))
        logs = torch.log(p.clamp(min=torch.finfo(torch.float32).tiny))
        loss = -(p * logs).sum(dim=1).mean()
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f'TestTimeAdaptLoop: the entropy is {float(loss)}. Lower '
                'optimizer.lr, test with fp16=False, or set episodic=True.'
            )
        return loss
