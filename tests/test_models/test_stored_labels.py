"""The term that learns from pseudo-labels of an earlier model."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from mmengine.structures import PixelData
from torch.nn import functional as F

from mmseg_xmodal.models.adaptation import EntropyMinimization, StoredPseudoLabels

from .adaptation_toys import SIZE, batch, blobs, head, student_cfg, wrapper


def labelled(seed: int = 0, key: str = 'gt_pseudo_labels') -> dict[str, list]:
    """A batch whose target has labels under a key."""
    data = batch(seed)
    generator = torch.Generator().manual_seed(seed + 50)
    for sample in data['data_samples'][2:]:
        label = blobs(generator).to(torch.uint8)
        sample.set_field(PixelData(data=label), key, dtype=PixelData)
    return data


def run(model: Any, data: dict) -> dict[str, Any]:
    data = model.data_preprocessor(copy.deepcopy(data), True)
    return model.loss(**data)


def test_loss_is_that_of_the_student_on_the_labels() -> None:
    model = wrapper([StoredPseudoLabels(weight=0.5)])
    data = labelled()
    losses = run(model, data)
    target = model.data_preprocessor(copy.deepcopy(data), True)['inputs'][2:]
    truth = torch.stack(
        [s.gt_pseudo_labels.data[0].long() for s in data['data_samples'][2:]]
    )
    assert (truth == 255).any()
    feats = model.student.backbone(target)
    heads = dict(decode=model.student.decode_head, aux_0=model.student.auxiliary_head)
    for (name, part), weight in zip(heads.items(), (1.0, 0.4), strict=True):
        logits = F.interpolate(part(feats), SIZE, mode='bilinear')
        # mmseg's mean counts ignored pixels too.
        each = F.cross_entropy(logits, truth, ignore_index=255, reduction='none')
        expected = 0.5 * weight * each.mean()
        torch.testing.assert_close(losses[f'stored.{name}.loss_ce'], expected)


def test_the_pass_is_shared_with_the_entropy() -> None:
    def passes(terms: list) -> int:
        model = wrapper(terms)
        count = []
        model.student.backbone.register_forward_hook(lambda *_: count.append(1))
        run(model, labelled())
        return len(count)

    both = [StoredPseudoLabels(), EntropyMinimization(kind='charbonnier')]
    # The source, and once the target.
    assert passes(both) == passes(both[:1]) == 2


def test_padding_and_margins_do_not_teach() -> None:
    data = labelled()
    model = wrapper([StoredPseudoLabels()])
    for sample in data['data_samples'][2:]:
        field = torch.ones(1, *SIZE, dtype=torch.uint8)
        field[:, :, 10:] = 0
        sample.gt_pseudo_valid = PixelData(data=field)
    got = run(model, data)
    for sample in data['data_samples'][2:]:
        sample.gt_pseudo_labels.data[:, :, 10:] = 255
        del sample.gt_pseudo_valid
    expected = run(model, data)
    name = 'stored.decode.loss_ce'
    torch.testing.assert_close(got[name], expected[name])
    for i in (2, 3):
        data['inputs'][i] = data['inputs'][i][:, :24]
        old = data['data_samples'][i].pop('gt_pseudo_labels').data
        data['data_samples'][i].gt_pseudo_labels = PixelData(data=old[:, :24])
    assert torch.isfinite(run(model, data)[name])


def test_all_unsure_is_a_finite_zero() -> None:
    data = labelled()
    for sample in data['data_samples'][2:]:
        sample.gt_pseudo_labels.data.fill_(255)
    losses = run(wrapper([StoredPseudoLabels()]), data)
    assert losses['stored.decode.loss_ce'] == 0


@pytest.mark.parametrize('backward', ['summed', 'sequential'])
def test_gradients_reach_the_student(backward: str) -> None:
    model = wrapper([StoredPseudoLabels()], backward=backward)
    data = model.data_preprocessor(labelled(), True)
    step = model.begin(**data)
    losses = model.losses_of(step, model.terms, with_source=False)
    sum(v for k, v in losses.items() if 'loss' in k).backward()
    assert all(p.grad.abs().sum() > 0 for p in model.student.parameters())
    assert all(p.grad is None for p in model.teacher.parameters())


# Each of two streams, or of two resolutions, has a loss that one map does not give.
FOUR = dict(in_channels=[4, 4, 4, 4], channels=8, num_classes=4)
GEMINI = dict(type='mmseg_xmodal.GeminiHead', **FOUR)
TOKENS = dict(type='mmseg_xmodal.TokenFusionHead', **FOUR)
RESOLUTIONS = dict(
    type='mmseg_xmodal.MultiResolutionSegmentor',
    scale_attention=head(8, 1, 1.0),
    detail_size=(16, 16),
)


@pytest.mark.parametrize(
    ('changes', 'name'),
    [
        (dict(decode_head=GEMINI), 'decode_head of the student is a GeminiHead'),
        (dict(decode_head=TOKENS), 'decode_head of the student is a TokenFusionHead'),
        (dict(auxiliary_head=GEMINI), 'auxiliary_head of the student is a GeminiHead'),
        (
            dict(auxiliary_head=[head(6, 0, 0.4), TOKENS]),
            r'auxiliary_head\[1\] of the student is a TokenFusionHead',
        ),
        (RESOLUTIONS, 'decode_head of the student is a MultiResolutionHead'),
    ],
)
def test_heads_with_losses_of_more_than_one_map_are_refused(
    changes: dict, name: str
) -> None:
    message = f'StoredPseudoLabels.*{name}.*expected .*Take .*FCNHead'
    with pytest.raises(ValueError, match=message):
        wrapper([StoredPseudoLabels()], student=student_cfg() | changes)


def test_a_head_with_a_loss_of_its_own_on_one_map_keeps_it() -> None:
    model = wrapper([StoredPseudoLabels()])

    class Doubled(type(model.student.decode_head)):
        """As mmseg's STDCHead: one map, and another loss of it."""

        def loss_by_feat(self, *args: Any) -> dict:
            losses = super().loss_by_feat(*args)
            return losses | dict(loss_own=2 * losses['loss_ce'])

    model.student.decode_head.__class__ = Doubled
    model.terms[0].attach(model.student)
    losses = run(model, labelled())
    assert losses['stored.decode.loss_ce'] > 0
    assert losses['stored.decode.loss_own'] == 2 * losses['stored.decode.loss_ce']


def test_bad_input() -> None:
    model = wrapper([StoredPseudoLabels()])
    with pytest.raises(ValueError, match="target 'x.png' has no gt_pseudo_labels"):
        run(model, batch())
    student = model.student
    student.decode_head = torch.nn.ModuleList([student.decode_head] * 2)
    with pytest.raises(ValueError, match='StoredPseudoLabels reads the logits of one'):
        StoredPseudoLabels().attach(student)
