"""Students whose heads are not one map of logits: heads of masks, and cascades."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from mmseg_xmodal.engine.hooks import label_free_pass
from mmseg_xmodal.engine.loops.tent import Tent
from mmseg_xmodal.models.layers.logit_probabilities import (
    gives_scores,
    logit_probabilities,
)
from mmseg_xmodal.models.layers.pseudo_labels import PseudoLabelRule

from . import test_cross_modal_agreement as streams
from .adaptation_toys import CLASSES, SIZE, batch, head, sample, student_cfg, wrapper
from .test_adaptation_terms import make_step

MIX = dict(type='mmseg_xmodal.ClassMixSelfTraining')
MASKED = dict(type='mmseg_xmodal.MaskedConsistency', block=16)
ANCHOR = dict(type='mmseg_xmodal.FeatureAnchor', classes=[1, 3])
CONTRAST = dict(type='mmseg_xmodal.PrototypeContrast', in_channels=8)
ENTROPY = dict(type='mmseg_xmodal.EntropyMinimization')
ADVERSARIAL = dict(type='mmseg_xmodal.OutputAdversarial')

# Heads of masks


class LogitHead(nn.Module):
    """Predicts the same everywhere."""

    num_classes = out_channels = CLASSES
    align_corners = False
    # Sums over queries: neither below 1 nor with the sum 1.
    values = (0.01, 1.45, 0.02, 0.01)

    def predict(self, feats: Any, metas: list[dict], cfg: Any) -> Tensor:
        return torch.tensor(self.values).view(1, -1, 1, 1).repeat(len(metas), 1, *SIZE)


class Mask2FormerHead(LogitHead):
    """The name says that these are scores."""


class MaskFormerHead(LogitHead):
    """Also this one."""


class OwnHead(Mask2FormerHead):
    """Someone's own."""


SCORE_HEADS = (Mask2FormerHead, MaskFormerHead, OwnHead)


def predicting(head_class: type[nn.Module]) -> Any:
    model = wrapper([])
    for network in (model.student, model.teacher):
        network.decode_head = head_class()
    return model


def test_heads_of_masks_are_known_by_their_names() -> None:
    net = nn.Module()
    assert not gives_scores(net)
    for one in (*SCORE_HEADS, LogitHead):
        net.decode_head = one()
        assert gives_scores(net) is (one is not LogitHead)
        net.decode_head = nn.ModuleList([LogitHead(), one()])
        assert gives_scores(net) is (one is not LogitHead)
    assert gives_scores(predicting(OwnHead))


def test_scores_are_divided_by_their_sum() -> None:
    scores = torch.tensor([0.1, 1.5, 0.4, 0.0]).view(1, 4, 1, 1).requires_grad_()
    p = logit_probabilities(scores, scores=True)
    torch.testing.assert_close(p.flatten(), torch.tensor([0.05, 0.75, 0.2, 0.0]))
    p[:, 1].sum().backward()
    assert torch.isfinite(scores.grad).all()
    assert logit_probabilities(torch.zeros(1, 4, 1, 1), scores=True).sum() == 0
    # mmseg takes the sigmoid of one channel whatever the head is.
    one = torch.full((1, 1, 1, 1), 0.3)
    assert logit_probabilities(one, True).equal(logit_probabilities(one))


@pytest.mark.parametrize('head_class', [*SCORE_HEADS, LogitHead])
@pytest.mark.parametrize('unsure', ['share', 'ignore'])
def test_sure_scores_make_pseudo_labels(head_class: Any, unsure: str) -> None:
    """1.45 of 1.49 is above the threshold; the softmax of it is 0.58."""
    step = make_step(predicting(head_class), pseudo_rule=PseudoLabelRule(unsure=unsure))
    pseudo = step.pseudo_labels()
    sure = head_class is not LogitHead
    if unsure == 'share':
        assert pseudo.label.unique().tolist() == [1]
        assert pseudo.weight.unique().tolist() == [float(sure)]
    else:
        assert pseudo.label.unique().tolist() == [1 if sure else 255]


@pytest.mark.parametrize('head_class', [Mask2FormerHead, LogitHead])
def test_scores_are_no_logits_after_the_training(head_class: Any) -> None:
    """In what selects a checkpoint without labels, and in Tent."""
    net = predicting(head_class).student
    values = torch.tensor(LogitHead.values)
    p = values.softmax(0) if head_class is LogitHead else values / values.sum()
    samples = [sample(None, None, pad_shape=SIZE, padding_size=[0] * 4)]
    inputs = torch.zeros(1, 3, *SIZE)
    found = label_free_pass._probabilities(net, inputs, samples)
    torch.testing.assert_close(found[0][:, 0, 0], p)
    assert found[0].shape == (CLASSES, *SIZE)

    params = [nn.Parameter(torch.zeros(1))]
    tent = Tent(net, params, dict(type='SGD', lr=0.1), 1, again=False, fp16=False)
    entropy = tent._entropy(net.decode_head.predict(None, [{}], None))
    torch.testing.assert_close(entropy, -(p * p.log()).sum())


@pytest.mark.parametrize('term', [ENTROPY, ADVERSARIAL])
def test_terms_on_logits_refuse_heads_of_masks(term: dict) -> None:
    model = wrapper([term])
    model.student.decode_head = OwnHead()
    with pytest.raises(ValueError, match='is a OwnHead.*Take an EncoderDecoder'):
        model.terms[0].attach(model.student)


# Cascades


def cascade(**kwargs: Any) -> dict:
    first = head(8, 1, 0.4)
    ocr = head(8, 1, 1.0) | dict(type='mmseg.OCRHead', ocr_channels=8)
    for key in ('num_convs', 'concat_input'):
        del ocr[key]
    cfg = student_cfg() | dict(type='mmseg.CascadeEncoderDecoder', num_stages=2)
    return cfg | dict(decode_head=[first, ocr]) | kwargs


@pytest.mark.parametrize('terms', [[ANCHOR, MIX], [CONTRAST, MIX], [MIX, MASKED]])
def test_a_cascade_takes_a_step(terms: list) -> None:
    model = wrapper(
        terms, student=cascade(), anchor='copy', pseudo_labels=dict(threshold=0.3)
    )
    wrap = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.05))
    logged = model.train_step(batch(), wrap)
    assert logged['loss'].isfinite()
    for own in ('source', 'mix'):
        assert logged[f'{own}.decode_0.loss_ce'] > 0
        assert logged[f'{own}.decode_1.loss_ce'] > 0
    if ANCHOR in terms:
        again = model.train_step(batch(), wrap)
        assert again['anchor.loss_distance'] > 0


@pytest.mark.parametrize(
    'term', [ENTROPY, ADVERSARIAL, CONTRAST | dict(feature='head')]
)
def test_terms_on_logits_refuse_a_cascade(term: dict) -> None:
    with pytest.raises(
        ValueError,
        match=r'CascadeEncoderDecoder\) is a cascade of 2 heads.*ClassMixSelfTraining',
    ):
        wrapper([term], student=cascade())


def test_streams_of_a_cascade_agree() -> None:
    """Without its fused prediction, which would be that of one head."""
    own = streams.student()
    light = own['decode_head']
    ocr = light | dict(type='mmseg.OCRHead', ocr_channels=8, in_index=0)
    ocr['in_channels'] = light['in_channels'][0]
    own |= dict(
        type='mmseg.CascadeEncoderDecoder', num_stages=2, decode_head=[light, ocr]
    )
    model = streams.adapted(student=own)
    losses = streams.losses_of(model)
    assert losses['agree.rgb.loss_source'] > 0
    with pytest.raises(ValueError, match=r'fused=True.*cascade of 2 heads'):
        streams.adapted(dict(fused=True), student=own)
