"""Two modalities teach each other on both domains.

Paper: xMUDA, Jaritz et al., "xMUDA: Cross-Modal Unsupervised Domain Adaptation for 3D
Semantic Segmentation", CVPR 2020, https://arxiv.org/abs/1911.12676, official code
https://github.com/valeoai/xmuda (Apache-2.0). Clean room, nothing copied.

Differences: the paper has an image network and a point network that meet at projected
points; here the modalities are the streams of one dense backbone, any number of them,
beside its fused prediction. Places without a measurement are left out, streams may
mimic the fused prediction too, and pseudo-labels are those of a running teacher instead
of a first training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import ModuleDict
from mmengine.structures import PixelData
from mmseg.registry import MODELS as MMSEG_MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch.nn import functional as F

from mmseg_xmodal.registry import MODELS

from ..layers.pixel_weights import pixel_weights
from ..layers.stream_maps import StreamMaps, StreamTap, stream_names
from .base import AdaptationStep, AdaptationTerm, Losses, full_size_metas
from .step import check_one_map

# Among the partners of a stream; no name that a stream has.
FUSED = '__fused__'


def agreement(mimic: Tensor, other: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean over the places of KL(other || mimic); nothing goes back to ``other``.

    Args:
        mimic: Logits that learn.
        other: Logits that are mimicked.
        weight: Of each place, 0 = left out; None = all alike.

    Shape:
        - mimic, other: (B, C, h, w); C = 1 is a binary head
        - weight: (B, 1, h, w)
        - output: (), in nats; 0 where no place has a weight
    """
    learned, given = (_two_or_more(x.float()) for x in (mimic, other.detach()))
    logs, probabilities = learned.log_softmax(dim=1), given.softmax(dim=1)
    distance = F.kl_div(logs, probabilities, reduction='none').sum(1, keepdim=True)
    if weight is None:
        return distance.mean()
    weight = weight.to(distance)
    return (distance * weight).sum() / weight.sum().clamp(min=1e-6)


def _two_or_more(logits: Tensor) -> Tensor:
    """One channel is the logit of the second of two classes."""
    if logits.shape[1] > 1:
        return logits
    return torch.cat([torch.zeros_like(logits), logits], dim=1)


@MODELS.register_module()
class CrossModalAgreement(AdaptationTerm):
    """Each modality mimics what the others predict, on the source and on the target.

    Every stream of the student's backbone gets light heads of its own: a main head,
    which learns the truth of the source, and for each other stream a mimic head, which
    learns the (detached) main prediction of that stream by KL. So the encoder of a
    modality learns from the target what the other modality knows there. The heads
    belong to the term: the student stays what it is.

    A stream's maps are those before the exchange of their level. Streams are wholly
    apart in ``MultiStreamBackbone(exchange=False)``; in CMX they hold what came over
    at the levels before.

    Where a modality has no validity (preprocessor with ``validity=True``) it neither
    mimics nor is mimicked; a place counts by the product of both validities.

    It costs one pass of the student's backbone over the target.

    Losses for each stream: ``<stream>.loss_ce`` on the source, ``<stream>.loss_source``
    and ``<stream>.loss_target`` (sums over its partners), ``<stream>.pseudo_loss_ce``.

    Args:
        head: Config of the light heads: any decode head with one map of logits.
            Defaults to ``FastSegformerHead`` with 64 channels; what is given without
            ``type`` changes that, such as ``dict(channels=128)``. Inputs and classes
            are those of the student.
        weight: Factor of all losses.
        source: Factor of the agreement on the source (xMUDA: 1), next to ``weight``.
        target: Factor of that on the target (xMUDA: 0.1).
        pseudo: Factor of the main heads' loss on pseudo-labels of the target (xMUDA
            with pseudo-labels: 1).
        fused: Whether a further mimic head of each stream learns the fused prediction,
            that of the student's ``decode_head``, which it costs once more.
        pseudo_labels: Arguments of ``PseudoLabelRule``. Defaults to the segmentor's.
        name: See :class:`AdaptationTerm`.

    Raises:
        ValueError: If a factor is below 0; with a student whose backbone does not give
            the maps of two or more streams; with ``fused``, if it has a cascade of
            heads.
    """

    NAME = 'agree'
    GRAPHS = ('source',)
    main: Any
    mimic: Any

    def __init__(
        self,
        head: Mapping[str, Any] | None = None,
        weight: float = 1.0,
        source: float = 1.0,
        target: float = 0.1,
        pseudo: float = 0.0,
        fused: bool = False,
        pseudo_labels: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(weight, name)
        if min(source, target, pseudo) < 0:
            raise ValueError(
                f'CrossModalAgreement has source={source}, target={target} and pseudo='
                f'{pseudo}, expected factors of 0 or more.'
            )
        self.head, self.pseudo, self.fused = dict(head or {}), pseudo, fused
        self.factors = dict(source=source, target=target)
        self.rule = self.own_rule(pseudo_labels)
        # Of this term with these arguments, not of the class.
        self.USES_TEACHER = pseudo > 0  # type: ignore[misc]
        self.USES_SOURCE_LOGITS = fused  # type: ignore[misc]
        self._tap: StreamTap | None = None

    def attach(self, student: Any) -> None:
        """Build the heads of each stream of a student.

        Raises:
            ValueError: If its backbone does not give the maps of two or more streams.
        """
        if self.fused:
            check_one_map(student, 'CrossModalAgreement(fused=True)')
        backbone: Any = getattr(student, 'backbone', None)
        try:
            names = stream_names(backbone)
        except ValueError as error:
            raise ValueError(f'CrossModalAgreement: {error}') from error
        cfg = self._head_cfg(backbone.out_channels, student)
        more = [FUSED] if self.fused else []
        partners = {n: [*(o for o in names if o != n), *more] for n in names}
        self.main = ModuleDict({n: MMSEG_MODELS.build(cfg) for n in names})
        self.mimic = ModuleDict(
            {
                n: ModuleDict({o: MMSEG_MODELS.build(cfg) for o in partners[n]})
                for n in names
            }
        )

    def _head_cfg(self, widths: Sequence[int], student: Any) -> dict[str, Any]:
        head = student.decode_head
        last = head[-1] if isinstance(head, nn.ModuleList) else head
        light = dict(
            type='mmseg_xmodal.FastSegformerHead',
            channels=64,
            dropout_ratio=0.0,
            norm_cfg=dict(type='BN'),
            align_corners=student.align_corners,
        )
        shared = dict(
            in_channels=list(widths),
            in_index=list(range(len(widths))),
            num_classes=student.num_classes,
            ignore_index=last.ignore_index,
        )
        own = self.head if 'type' in self.head else light | self.head
        return shared | own

    def prepare(self, step: AdaptationStep) -> None:
        """Watch the streams in the pass of the source loss."""
        if self._tap is not None:  # The last step broke off.
            self._tap.stop()
        self._tap = StreamTap(step.student.backbone)

    def forward(self, step: AdaptationStep) -> Losses:
        """Losses of the heads of all streams."""
        assert self._tap is not None
        source, self._tap = self._tap.close(), None
        fused = step.source_logits[0] if self.fused else None
        main = {n: head(source.feats[n]) for n, head in self.main.items()}
        losses: Losses = {}
        for name, head in self.main.items():
            found = head.loss_by_feat(main[name], step.source.samples)
            losses.update({f'{name}.{key}': value for key, value in found.items()})
        losses.update(self._agree('source', source, main, fused))

        target, fused = self._of_target(step)
        main = {n: head(target.feats[n]) for n, head in self.main.items()}
        losses.update(self._agree('target', target, main, fused))
        if self.pseudo:
            losses.update(self._pseudo(step, main))
        return losses

    def _of_target(self, step: AdaptationStep) -> tuple[StreamMaps, Tensor | None]:
        """The streams on the target, and the fused prediction where it is needed."""
        tap = StreamTap(step.student.backbone)
        try:
            feats = step.student.extract_feat(step.target.inputs)
        finally:
            tap.stop()
        if not self.fused:
            return tap.close(), None
        with torch.no_grad():
            return tap.close(), step.student.decode_head(feats)

    def _agree(
        self,
        domain: str,
        maps: StreamMaps,
        main: Mapping[str, Tensor],
        fused: Tensor | None,
    ) -> Losses:
        """The agreement of each stream with its partners."""
        losses: Losses = {}
        for name, mimics in self.mimic.items():
            total = maps.feats[name][0].new_zeros(())
            for partner, head in mimics.items():
                logits = head(maps.feats[name])
                size = (logits.shape[2], logits.shape[3])
                other = fused if partner == FUSED else main[partner]
                assert other is not None
                if other.shape[2:] != logits.shape[2:]:
                    other = F.interpolate(other.detach(), size, mode='bilinear')
                weight = _valid(maps, [name, partner], size)
                total = total + agreement(logits, other, weight)
            losses[f'{name}.loss_{domain}'] = self.factors[domain] * total
        return losses

    def _pseudo(self, step: AdaptationStep, main: Mapping[str, Tensor]) -> Losses:
        """The main heads on the teacher's labels of the target."""
        pseudo = step.pseudo_labels(self.rule)
        samples = []
        metas = full_size_metas(step.target.inputs)
        for label, meta in zip(pseudo.label, metas, strict=True):
            sample = SegDataSample(metainfo=meta)
            sample.gt_sem_seg = PixelData(data=label[None])
            samples.append(sample)
        losses: Losses = {}
        for name, head in self.main.items():
            with pixel_weights(head, pseudo.weight):
                found = head.loss_by_feat(main[name], samples)
            for key, value in found.items():
                factor = self.pseudo if 'loss' in key else 1
                losses[f'{name}.pseudo_{key}'] = factor * value
        return losses


def _valid(
    maps: StreamMaps, names: Sequence[str], size: tuple[int, int]
) -> Tensor | None:
    """Product of the validities of streams; the fused prediction is valid everywhere.

    Shape:
        - output: (B, 1, h, w), in [0, 1]
    """
    if maps.valid is None:
        return None
    shares = [maps.valid[name] for name in names if name in maps.valid]
    product = torch.stack(shares).prod(dim=0)
    return F.adaptive_avg_pool2d(product.float(), size)
