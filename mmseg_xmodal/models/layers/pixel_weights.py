"""Weigh the pixels in the loss of any mmseg head.

Heads of mmseg 1.x take no pixel weights, but each asks its ``sampler`` for some. For
the length of a ``with`` block the heads of a network get one that answers with ours, so
every head that computes its loss as ``BaseDecodeHead`` does can be weighed, auxiliary
ones included, with its own loss functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

_NOTHING = object()


class _GivenWeights:
    """What stands at ``head.sampler`` meanwhile.

    Args:
        weight: Weights of the pixels.
        own: The head's own sampler, whose weights are multiplied.

    Shape:
        - weight: (B, H, W)
    """

    def __init__(self, weight: Tensor, own: Any) -> None:
        self.weight, self.own, self.calls = weight, own, 0

    def sample(self, seg_logit: Tensor, seg_label: Tensor) -> Tensor:
        """Weights for this label map.

        Shape:
            - seg_label: (B, 1, H, W)
            - output: (B, H, W)
        """
        self.calls += 1
        got = (seg_label.shape[0], *seg_label.shape[-2:])
        if got != tuple(self.weight.shape):
            raise ValueError(
                f'A head computes its loss on labels of the shape {got}, the pixel '
                f'weights have {tuple(self.weight.shape)}: it crops or resizes the '
                "labels. Set pseudo_labels=dict(unsure='ignore') in the model, which "
                'needs no weights.'
            )
        if self.own is None:
            return self.weight
        return self.weight * self.own.sample(seg_logit, seg_label)


@contextmanager
def pixel_weights(network: nn.Module, weight: Tensor | None) -> Iterator[None]:
    """Inside of the block, the losses of the network's heads are weighed.

    With ``CrossEntropyLoss`` as mmseg sets it up, the loss is the sum of weight x cross
    entropy over the pixels that are not ignored, divided by the number of **all**
    pixels. Loss functions without pixel weights (Lovasz) leave them out.

    Args:
        network: Any module with mmseg heads inside.
        weight: Weights of the pixels; None = do nothing.

    Shape:
        - weight: (B, H, W)

    Raises:
        ValueError: If a head did not ask for weights (when the block ends), or its
            labels have another shape.
    """
    if weight is None:
        yield
        return
    heads = [m for m in network.modules() if isinstance(m, BaseDecodeHead)]
    # In __dict__ an entry goes before a registered module of the same name.
    before = [head.__dict__.get('sampler', _NOTHING) for head in heads]
    given = [_GivenWeights(weight, head.sampler) for head in heads]
    try:
        for head, sampler in zip(heads, given, strict=True):
            head.__dict__['sampler'] = sampler
        yield
    finally:
        for head, old in zip(heads, before, strict=True):
            if old is _NOTHING:
                del head.__dict__['sampler']
            else:
                head.__dict__['sampler'] = old
    _check_asked(heads, given)


def needs_no_weights(modules: Iterable[nn.Module]) -> None:
    """Let ``pixel_weights`` not wait for heads that have no loss in this batch."""
    for module in modules:
        for part in module.modules():
            sampler = part.__dict__.get('sampler')
            if isinstance(sampler, _GivenWeights):
                sampler.calls += 1


def _check_asked(heads: list[BaseDecodeHead], given: list[_GivenWeights]) -> None:
    """Every head asked, or one that it holds, or one that holds it."""
    asked = [h for h, sampler in zip(heads, given, strict=True) if sampler.calls]
    around = {id(m) for head in asked for m in head.modules()}
    silent = [
        type(head).__name__
        for head in heads
        if id(head) not in around and not any(m in asked for m in head.modules())
    ]
    if silent or not heads:
        raise ValueError(
            f'Pixel weights cannot reach the loss of {silent or "this network"}: it '
            'does not ask its `sampler` for them, as BaseDecodeHead.loss_by_feat does. '
            "Set pseudo_labels=dict(unsure='ignore') in the model: unsure pixels get "
            'the label 255 instead.'
        )
