"""Several trained segmentors that predict together, by their mean probability.

Paper: FDA averages three networks ("multi-band transfer"), Yang and Soatto, CVPR 2020,
https://arxiv.org/abs/2004.05498. The official code has no licence and was not opened;
written from a description. Clean room, nothing copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.model import ModuleList
from mmseg.models.segmentors import EncoderDecoder
from mmseg.models.segmentors.base import BaseSegmentor
from mmseg.registry import MODELS as MMSEG_MODELS
from mmseg.structures import SegDataSample
from torch import Tensor
from torch.nn import functional as F

from mmseg_xmodal.registry import MODELS

from ..layers.logit_probabilities import gives_scores, logit_probabilities


@MODELS.register_module()
class SegmentorEnsemble(EncoderDecoder):
    """Mean class probability of trained segmentors, behind stock ``test.py``.

    A member's softmax is taken where its head predicts, before it is brought to the
    size of the input, as FDA does. Members may have different backbones, heads and
    strides; they share classes and preprocessing. One file holds them all:
    ``tools/model_converters/ensemble.py A.pth B.pth OUT.pth``. Slide inference, TTA and
    metrics see one segmentor, whose logits are the logarithm of the mean (of heads that
    give scores, the mean itself). It does not train.

    Args:
        members: Configs of segmentors, of one ``data_preprocessor``.
        weights: Of the members, above 0; divided by their sum. Defaults to equal ones.
        data_preprocessor: Taken where the members have none.
        test_cfg: As in ``EncoderDecoder``. Defaults to that of the first member.
        train_cfg: Not used; mmseg's ``init_model`` sets it, as the next.
        pretrained: Not used.

    Shape:
        - inputs: (B, C, H, W)
        - logits: (B, out_channels, H, W)

    Raises:
        ValueError: If there is no member, or members differ in classes or
            preprocessing, or weights do not fit.
    """

    def __init__(
        self,
        members: Sequence[dict],
        weights: Sequence[float] | None = None,
        data_preprocessor: dict | None = None,
        test_cfg: dict | None = None,
        train_cfg: dict | None = None,
        pretrained: str | None = None,
    ) -> None:
        own, shared = _take_preprocessor(members)
        # Past EncoderDecoder's own, which builds one backbone and one head.
        BaseSegmentor.__init__(self, shared or data_preprocessor)
        self.members = ModuleList([MMSEG_MODELS.build(cfg) for cfg in own])
        self.weights = _shares(weights, len(own))
        first: Any = self.members[0]
        self.test_cfg = first.test_cfg if test_cfg is None else ConfigDict(test_cfg)
        self.align_corners = first.align_corners
        self.num_classes, self.out_channels = first.num_classes, first.out_channels
        kinds = [(m.out_channels, gives_scores(m)) for m in self.members]
        if len(set(kinds)) > 1:
            raise ValueError(
                f'The members of SegmentorEnsemble have {[k for k, _ in kinds]} output '
                f'channels, and heads that give scores, not logits: '
                f'{[s for _, s in kinds]}. Expected the same of all. Give members of '
                'one class list and kind of head.'
            )

    @property
    def decode_head(self) -> Any:
        """Of the first member: says what the logits stand for, and the threshold."""
        return self.members[0].decode_head

    def extract_feat(self, inputs: Tensor) -> list[Any]:
        """Features of every member."""
        return [member.extract_feat(inputs) for member in self.members]

    def encode_decode(
        self, inputs: Tensor, batch_img_metas: Sequence[Mapping[str, Any]]
    ) -> Tensor:
        """Logits of the mean probability, at the size of the input.

        Shape:
            - inputs: (B, C, H, W)
            - output: (B, out_channels, H, W)
        """
        mean = torch.zeros(())
        for share, member in zip(self.weights, self.members, strict=True):
            own = share * _probabilities(member, inputs, batch_img_metas)
            mean = mean.to(own) + own
        if gives_scores(self):
            return mean
        tiny = torch.finfo(torch.float32).tiny
        if self.out_channels == 1:
            return torch.logit(mean[:, 1:], eps=1e-7)
        return mean.clamp(min=tiny).log()

    def _forward(
        self, inputs: Tensor, data_samples: Sequence[SegDataSample] | None = None
    ) -> Tensor:
        """As ``encode_decode``."""
        size = torch.Size(inputs.shape[2:])
        return self.encode_decode(inputs, [dict(img_shape=size)] * len(inputs))

    def loss(self, inputs: Tensor, data_samples: Sequence[SegDataSample]) -> Any:
        """There is none.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            'SegmentorEnsemble predicts only. Train its members one by one, and put '
            'them together by tools/model_converters/ensemble.py.'
        )


def _probabilities(
    member: Any, inputs: Tensor, metas: Sequence[Mapping[str, Any]]
) -> Tensor:
    """Of one member, at the size of the input."""
    scores = gives_scores(member)
    logits = None if scores else member._forward(inputs)
    if not isinstance(logits, Tensor):
        return logit_probabilities(member.encode_decode(inputs, metas), scores)
    return F.interpolate(
        logit_probabilities(logits),
        size=inputs.shape[2:],
        mode='bilinear',
        align_corners=bool(member.align_corners),
    )


def _take_preprocessor(members: Sequence[Mapping[str, Any]]) -> tuple[list[dict], Any]:
    """The members without their preprocessor, and that preprocessor."""
    if not members:
        raise ValueError(
            'SegmentorEnsemble has members=[], expected the config of at least one '
            'segmentor.'
        )
    own = [dict(member) for member in members]
    found = [cfg.pop('data_preprocessor', None) for cfg in own]
    if any(other != found[0] for other in found):
        raise ValueError(
            'The members of SegmentorEnsemble have different data_preprocessors, '
            f'{found}: all see the same input. Give members that were trained with one.'
        )
    return own, found[0]


def _shares(weights: Sequence[float] | None, count: int) -> list[float]:
    weights = [1.0] * count if weights is None else [float(w) for w in weights]
    if len(weights) != count or min(weights) <= 0:
        raise ValueError(
            f'SegmentorEnsemble has weights={weights} for {count} members, expected '
            'one number above 0 for each.'
        )
    return [weight / sum(weights) for weight in weights]
