"""Cross entropy with class weights, from a list or from the statistics of the data.

Focal factor: Focal Loss for Dense Object Detection, 2017,
https://arxiv.org/abs/1708.02002, in its softmax form. The weights: see
:class:`mmseg_xmodal.structures.ClassStats`. Clean room, nothing copied.

Why not mmseg's: its ``CrossEntropyLoss(class_weight=...)`` stops with an IndexError
when a pixel is ignored (1.2.2 always, 1.4.2 with ``avg_non_ignore=True``), and its
``FocalLoss`` is a sigmoid per class and has no form for several classes on the CPU.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_xmodal.registry import MODELS
from mmseg_xmodal.structures import ClassStats


@MODELS.register_module()
class ClassBalancedCrossEntropy(nn.Module):
    """Cross entropy in which every class has its weight.

    Per labelled pixel: weight of its class x (1 - p)^gamma x -ln p, with p the
    probability of its class. With ``avg_non_ignore=True`` the sum is divided by the sum
    of the class weights of the labelled pixels: a weighted mean, as torch has it, which
    does not change when all weights are doubled. With False it is divided by the number
    of all pixels, ignored ones included, and the scale of the weights matters. Weights
    of single pixels (a ``sampler`` of the head, pseudo-labels) enter the sum only.

    Args:
        class_weight: One weight per class, at least 0.
        stats: Instead of a list: JSON file of ``tools/class_stats.py``. It is read at
            the first loss, so that a trained model is used without it.
        scheme: How weights come from ``stats``: ``'inverse'``, ``'median'``,
            ``'effective'`` or ``'enet'``, see :meth:`ClassStats.weights`.
        beta: Of ``'effective'``, in [0, 1).
        gamma: Exponent of the focal factor, at least 0. 0 = none.
        avg_non_ignore: See above.
        loss_weight: Factor on the result.
        loss_name: Its name in the log; must begin with ``'loss_'``.

    Shape:
        - cls_score: (B, C, H, W), logits
        - label: (B, H, W), class ids or ``ignore_index``
        - weight: (B, H, W), of single pixels
        - output: (), finite, 0 where every pixel is ignored

    Raises:
        ValueError: If not exactly one of ``class_weight`` and ``stats`` is given, or a
            number lies outside of its range.
    """

    def __init__(
        self,
        class_weight: Sequence[float] | None = None,
        stats: str | None = None,
        scheme: str = 'median',
        beta: float = 0.9999,
        gamma: float = 0.0,
        avg_non_ignore: bool = True,
        loss_weight: float = 1.0,
        loss_name: str = 'loss_ce',
    ) -> None:
        super().__init__()
        if (class_weight is None) == (stats is None):
            raise ValueError(
                f'ClassBalancedCrossEntropy has class_weight={class_weight} and '
                f'stats={stats!r}, expected one of the two. Change loss_decode.'
            )
        if gamma < 0 or min(class_weight or [0]) < 0:
            raise ValueError(
                f'ClassBalancedCrossEntropy has gamma={gamma} and class_weight='
                f'{class_weight}, expected numbers of at least 0. Change loss_decode.'
            )
        # Unknown schemes are refused now, not at the first step.
        ClassStats.check_scheme(scheme, beta)
        self.given = None if class_weight is None else tuple(class_weight)
        self.stats = stats
        self.scheme = scheme
        self.beta = beta
        self.gamma = gamma
        self.avg_non_ignore = avg_non_ignore
        self.loss_weight = loss_weight
        self._loss_name = loss_name

    @property
    def loss_name(self) -> str:
        """Name in the log."""
        return self._loss_name

    @functools.cached_property
    def class_weight(self) -> tuple[float, ...]:
        """Weight of each class.

        Raises:
            FileNotFoundError: If there is no file of statistics.
        """
        if self.given is not None:
            return self.given
        assert self.stats is not None  # one of the two was given
        weights = ClassStats.load(self.stats).weights(self.scheme, self.beta)
        return tuple(weights.tolist())

    def forward(
        self,
        cls_score: Tensor,
        label: Tensor,
        weight: Tensor | None = None,
        ignore_index: int = 255,
    ) -> Tensor:
        """Return the loss.

        Raises:
            ValueError: If there are not as many weights as classes.
        """
        if cls_score.shape[1] != len(self.class_weight):
            source = 'class_weight' if self.stats is None else repr(self.stats)
            raise ValueError(
                f'ClassBalancedCrossEntropy has {len(self.class_weight)} weights '
                f'({source}), the head gives {cls_score.shape[1]} channels, expected '
                'one weight per channel. Change num_classes (out_channels), or the '
                'weights.'
            )
        score = cls_score.float()
        loss = F.cross_entropy(
            score, label, ignore_index=ignore_index, reduction='none'
        )
        labelled = label != ignore_index
        by_class = score.new_tensor(self.class_weight)
        by_pixel = by_class[label.where(labelled, 0)] * labelled
        if self.gamma:
            loss = loss * _focal_factor(loss, self.gamma)
        loss = loss * by_pixel
        if weight is not None:
            loss = loss * weight.float()
        if not self.avg_non_ignore:
            return self.loss_weight * loss.mean()
        # Without a labelled pixel this is 0 / tiny, with a gradient of 0.
        divisor = by_pixel.sum().clamp(min=torch.finfo(torch.float32).tiny)
        return self.loss_weight * loss.sum() / divisor


def _focal_factor(loss: Tensor, gamma: float) -> Tensor:
    """(1 - p)^gamma from -ln p, exact also where p is almost 1."""
    # Below the smallest step of a float the slope of a root would be infinite.
    return (-torch.expm1(-loss)).clamp(min=torch.finfo(loss.dtype).tiny).pow(gamma)
