"""Whole steps of DACS, DAFormer and MIC against the same steps written by hand."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import OptimWrapper

from mmseg_xmodal.engine import EMATeacherHook

from .adaptation_toys import DRAWS, HandWritten, batch, wrapper

PSEUDO = dict(threshold=0.45, ignore_top=3, ignore_bottom=6)
MIX = dict(type='mmseg_xmodal.ClassMixSelfTraining')
ANCHOR = dict(type='mmseg_xmodal.FeatureAnchor', classes=[1, 3])
MASKED = dict(type='mmseg_xmodal.MaskedConsistency', block=16)
CASES = dict(
    dacs=[MIX], daformer=[ANCHOR, MIX], mic=[ANCHOR, MIX, MASKED], masked=[MIX, MASKED]
)


def close(ours, expected, **kwargs) -> None:
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=2e-6, **kwargs)


@pytest.mark.parametrize('name', CASES)
def test_steps_are_those_of_the_description(name: str) -> None:
    """Losses, gradients, student, teacher and buffers of both over four steps."""
    terms = CASES[name]
    model = wrapper(
        terms, anchor='copy' if ANCHOR in terms else None, pseudo_labels=PSEUDO
    )
    optimiser = functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9)
    hand = HandWritten(
        model.student,
        optimiser,
        things=[1, 3] if ANCHOR in terms else [],
        masked=MASKED in terms,
        threshold=0.45,
        rows=(3, 6),
    )
    wrap = OptimWrapper(optimiser(model.student.parameters()))
    learning = list(model.student.parameters())
    grads: list[torch.Tensor] = []
    wrap.optimizer.register_step_pre_hook(
        lambda *_: grads.extend(p.grad.clone() for p in learning)
    )
    hook = EMATeacherHook()
    runner = SimpleNamespace(model=model, optim_wrapper=wrap, iter=0)
    hook.before_train(runner)
    shares = []
    for t in range(4):
        data = batch(t)
        truth = torch.cat([s.gt_sem_seg.data for s in data['data_samples'][:2]])
        expected = hand.step(data['inputs'], truth, DRAWS)
        hook.before_train_iter(runner, t)
        model.next_draws = dict(DRAWS)
        logged = model.train_step(data, wrap)
        hook.after_train_iter(runner, t)
        for term, value in expected.items():
            got = sum(
                v.item()
                for k, v in logged.items()
                if k.startswith(f'{term}.') and 'loss' in k
            )
            assert got == pytest.approx(value, rel=1e-4), (t, term)
        assert logged['loss'].item() == pytest.approx(sum(expected.values()), rel=1e-4)
        for ours, theirs in (
            (model.student, hand.student),
            (model.teacher, hand.teacher),
        ):
            for key, value in theirs.state_dict().items():
                close(ours.state_dict()[key], value, msg=lambda m, k=key: f'{k}: {m}')
        for grad, theirs in zip(grads, hand.student.parameters(), strict=True):
            close(grad, theirs.grad)
        grads.clear()
        shares.append(expected['mix'])
    assert len(set(shares)) == 4


def test_the_toy_step_tests_what_it_claims() -> None:
    """Some pixels are sure and others not; a wrong rule changes the losses."""
    outputs = []
    for rule in (PSEUDO, PSEUDO | dict(ignore_top=4), PSEUDO | dict(threshold=0.5)):
        model = wrapper([MIX], pseudo_labels=rule)
        model.next_draws = dict(DRAWS)
        data = model.data_preprocessor(batch(), True)
        losses = model(**data, mode='loss')
        outputs.append(losses['mix.decode.loss_ce'].item())
    assert len(set(outputs)) == 3
