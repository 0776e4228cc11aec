"""Any segmentor, from a labelled domain to one without labels.

The frame of self-training in DACS (https://arxiv.org/abs/2007.08702) and DAFormer
(https://arxiv.org/abs/2111.14887), with exchangeable terms. Clean room, nothing copied.

Difference from the official code: all terms are summed and go backward once, which has
the same gradients, so that stock ``train_step``, AMP, accumulation and DDP work;
``backward='sequential'`` has the official order, and its small memory.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from mmseg.models.segmentors.base import BaseSegmentor
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from mmseg_xmodal.registry import MODELS

from ..adaptation.base import AdaptationStep, AdaptationTerm, Losses
from ..layers.pseudo_labels import PseudoLabelRule
from . import domain_adaptive_build as parts
from .domain_adaptive_batch import DomainSplitter
from .domain_adaptive_state import NETWORKS, spread_plain_state
from .domain_adaptive_step import (
    Average,
    own_train_step,
    refuse_one_call,
    source_losses,
)


@MODELS.register_module()
class DomainAdaptiveSegmentor(BaseSegmentor):
    """A segmentor that learns on labelled source and unlabelled target images.

    ``student`` learns, its losses on the source and those of the ``terms`` are summed.
    ``teacher`` is a frozen copy; :class:`EMATeacherHook` makes it the running mean of
    the student, and is needed by terms that use it. Both are in the checkpoint. A
    checkpoint of the plain segmentor loads into both; :func:`plain_state_dict` takes
    the trained student out again.

    Batches mix both domains (``MultiSourceDataset``, ``MultiSourceSampler``); see
    :class:`DomainSplitter` for how a sample's domain is known. Truth of the target is
    never used.

    Losses are named ``source.<name>`` and ``<term>.<name>``.

    Args:
        student: Config of any segmentor, or a segmentor. Its ``data_preprocessor``
            becomes that of the whole.
        terms: Configs of adaptation terms, in the order of the student's passes.
        anchor: ``'copy'``: the student's backbone as initialised, before a checkpoint
            is loaded; or the config of a backbone; None = none. Frozen, in eval mode.
        pseudo_labels: Arguments of :class:`PseudoLabelRule`, for all terms.
        teacher_norm: ``'batch'``: norms of the teacher use the statistics of its batch
            in training, and keep running ones of their own (DACS, DAFormer);
            ``'running'``: they use running ones, which the hook must bring
            (``buffers='copy'`` or ``'ema'``).
        predict_on: ``'student'`` or ``'teacher'``: which one predicts.
        domains: Name of a data set to ``'source'`` or ``'target'``.
        backward: ``'summed'``: all losses go backward at once. ``'sequential'``: the
            source loss goes backward before the first term is computed, each term
            before the next, so that one graph is in memory at a time; the gradients are
            the same. In several processes this needs
            ``model_wrapper_cfg=dict(type='mmseg_xmodal.
            AdaptationDistributedDataParallel')``.
        data_preprocessor: Taken where the student has none.
        init_cfg: As in mmengine. ``Pretrained`` loads a checkpoint of the whole, or a
            plain one into student and teacher.
        train_cfg: Not used; mmseg's ``init_model`` sets it, as the next.
        pretrained: Not used.

    Attributes:
        next_draws: Draws for the next step instead of random ones, see the terms
            (``{'mix.classes': [[1, 4], [0]]}``); emptied by it.

    Raises:
        TypeError: If the student weighs its losses itself, or a term is none.
        ValueError: If an argument cannot be used, or a term lacks a part; in training,
            if the wrapper of the model or of the optimiser does not fit.
    """

    student: Any
    teacher: Any
    anchor: Any
    terms: Any

    def __init__(
        self,
        student: dict | nn.Module,
        terms: Sequence[dict | AdaptationTerm],
        anchor: dict | str | None = None,
        pseudo_labels: Mapping[str, Any] | None = None,
        teacher_norm: str = 'batch',
        predict_on: str = 'student',
        domains: Mapping[str, str] | None = None,
        backward: str = 'summed',
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | None = None,
        train_cfg: dict | None = None,
        pretrained: str | None = None,
    ) -> None:
        network, data_preprocessor = parts.build_student(student, data_preprocessor)
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        parts.check_choice('teacher_norm', teacher_norm, ('batch', 'running'))
        parts.check_choice('predict_on', predict_on, NETWORKS)
        parts.check_choice('backward', backward, ('summed', 'sequential'))
        self.teacher_norm, self.predict_on = teacher_norm, predict_on
        self.sequential = backward == 'sequential'
        self.student = network
        self.teacher = parts.frozen(copy.deepcopy(network))
        self._copied_anchor = anchor == 'copy'
        self.anchor = parts.build_anchor(anchor, network)
        self.terms = parts.build_terms(terms, self)
        self.pseudo_rule = PseudoLabelRule(**(pseudo_labels or {}))
        self.split = DomainSplitter(domains)
        self.next_draws: dict[str, Any] = {}
        self.teacher_hooked = False
        self._warned = False
        self.train(self.training)

    # What mmengine does to the model

    def init_weights(self) -> None:
        """Initialise the student; teacher and copied anchor become equal to it.

        As in mmengine, ``init_cfg`` comes before that of the parts, and a checkpoint
        of it after them.
        """
        parts.apply_init_cfg(self, pretrained=False)
        self.student.init_weights()
        self.teacher.load_state_dict(self.student.state_dict())
        if self.anchor is not None:
            if self._copied_anchor:
                self.anchor.load_state_dict(self.student.backbone.state_dict())
            elif hasattr(self.anchor, 'init_weights'):
                self.anchor.init_weights()
        for term in self.terms:
            term.init_weights()
        parts.apply_init_cfg(self, pretrained=True)
        self._is_init = True

    def train(self, mode: bool = True) -> DomainAdaptiveSegmentor:
        """Set the mode of student and terms; teacher and anchor stay in eval mode.

        With ``teacher_norm='batch'`` those norms of the teacher train whose like in the
        student do.
        """
        super().train(mode)
        self.teacher.eval()
        if self.anchor is not None:
            self.anchor.eval()
        if mode and self.teacher_norm == 'batch':
            pairs = zip(self.teacher.modules(), self.student.modules(), strict=True)
            for mine, other in pairs:
                if isinstance(mine, _NormBase):
                    mine.train(other.training)
        return self

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any
    ) -> None:
        spread_plain_state(state_dict, prefix, self.state_dict)
        super()._load_from_state_dict(state_dict, prefix, *args)

    # Training

    @property
    def needs_own_step(self) -> bool:
        """Whether one backward pass of all losses is not enough."""
        return self.sequential or any(term.opponents() for term in self.terms)

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        """As in mmengine, with several backward passes where they are asked for."""
        if not self.needs_own_step:
            return super().train_step(data, optim_wrapper)
        return self.own_train_step(data, optim_wrapper)

    def own_train_step(
        self, data: Any, optim_wrapper: Any, average: Average | None = None
    ) -> dict[str, Tensor]:
        """See :func:`domain_adaptive_step.own_train_step`."""
        return own_train_step(self, data, optim_wrapper, average)

    def loss(self, inputs: Tensor, data_samples: Sequence[SegDataSample]) -> Losses:
        """Losses on the source, and of all terms.

        Shape:
            - inputs: (B, C, H, W), both domains

        Raises:
            ValueError: If a domain is absent or unknown, a source has no labels, or
                these losses cannot go backward at once.
        """
        if self.needs_own_step and torch.is_grad_enabled():
            refuse_one_call(self)
        step = self.begin(inputs, data_samples)
        return self.losses_of(step, self.terms, with_source=True)

    def begin(
        self, inputs: Tensor, data_samples: Sequence[SegDataSample]
    ) -> AdaptationStep:
        """Split a batch and let the terms prepare it.

        Shape:
            - inputs: (B, C, H, W), both domains

        Raises:
            ValueError: If a domain is absent or unknown, or a source has no labels.
        """
        self._warn_without_hook()
        draws, self.next_draws = self.next_draws, {}
        source, target = self.split(inputs, data_samples)
        source.labels()
        step = AdaptationStep(
            self.student,
            self.teacher,
            self.anchor,
            source,
            target,
            self.data_preprocessor,
            self.pseudo_rule,
            draws,
        )
        for term in self.terms:
            term.prepare(step)
        return step

    def losses_of(
        self, step: AdaptationStep, terms: Iterable[Any], with_source: bool
    ) -> Losses:
        """Losses of some terms and, before them, on the source."""
        losses = source_losses(step, self.terms) if with_source else {}
        for term in terms:
            losses.update(term.weighted(step))
        return losses

    def _warn_without_hook(self) -> None:
        needed = any(term.USES_TEACHER for term in self.terms)
        if needed and not self.teacher_hooked and not self._warned:
            self._warned = True
            print_log(
                'The terms use the teacher, but nothing moves it. Add '
                "dict(type='mmseg_xmodal.EMATeacherHook') to custom_hooks. (Said "
                'once.)',
                logger='current',
                level=logging.WARNING,
            )

    # Prediction

    @property
    def predicting(self) -> Any:
        """The network that predicts."""
        return self.teacher if self.predict_on == 'teacher' else self.student

    @property
    def out_channels(self) -> int:
        """Of the predicting network."""
        return self.predicting.out_channels

    @property
    def num_classes(self) -> int:
        """Of the predicting network."""
        return self.predicting.num_classes

    @property
    def align_corners(self) -> bool:
        """Of the predicting network."""
        return self.predicting.align_corners

    @property
    def decode_head(self) -> nn.Module:
        """Of the predicting network; no module of the wrapper, so keys stand once."""
        return self.predicting.decode_head

    @property
    def test_cfg(self) -> Any:
        """Of the predicting network."""
        return self.predicting.test_cfg

    def extract_feat(self, inputs: Tensor) -> Any:
        """Features of the predicting network."""
        return self.predicting.extract_feat(inputs)

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Logits of the predicting network, at the size of the input."""
        return self.predicting.encode_decode(inputs, batch_img_metas)

    def predict(
        self, inputs: Tensor, data_samples: list[SegDataSample] | None = None
    ) -> list[SegDataSample]:
        """Predictions of the predicting network."""
        return self.predicting.predict(inputs, data_samples)

    def _forward(
        self, inputs: Tensor, data_samples: list[SegDataSample] | None = None
    ) -> Any:
        return self.predicting._forward(inputs, data_samples)
