"""A class that vanishes from the pseudo-labels is noticed, once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.runner import CheckpointLoader

from mmseg_xmodal.engine import CollapseAlarmHook
from mmseg_xmodal.engine.hooks.pseudo_label_watch import Census
from tests.test_models.adaptation_toys import wrapper

from .adaptation_run import MIX, adaptation, log_text, resumed


class Teacher:
    """Stands for the watch: gives shares of three classes, one list a measurement."""

    def __init__(self, pseudo: list[list[float]], source: list[float]) -> None:
        self.pseudo = [torch.tensor(p, dtype=torch.float64) for p in pseudo]
        self.source = torch.tensor(source, dtype=torch.float64)
        self.wanted = False

    def take(self) -> Census:
        self.wanted = False
        return Census(self.pseudo.pop(0), self.source, 0.0)


def run(hook: CollapseAlarmHook, teacher: Teacher) -> tuple[list[str], Any]:
    """What is said while the teacher has numbers."""
    said: list[str] = []
    dataset = SimpleNamespace(metainfo=dict(classes=('road', 'car', 'train')))
    runner = SimpleNamespace(
        iter=0,
        logger=SimpleNamespace(warning=said.append),
        train_dataloader=SimpleNamespace(dataset=dataset),
        train_loop=SimpleNamespace(stop_training=False),
    )
    hook._watch = teacher  # type: ignore[assignment]
    while teacher.pseudo:
        hook.before_train_iter(runner, runner.iter)
        hook.after_train_iter(runner, runner.iter)
        runner.iter += 1
    return said, runner


def test_a_vanished_class_is_named_once_with_its_numbers() -> None:
    hook = CollapseAlarmHook(
        interval=2, begin=2, momentum=0.5, ratio=0.1, reference='source'
    )
    gone = [[80.0, 20.0, 0.0]] * 4
    said, runner = run(hook, Teacher([[70, 20, 10], *gone], [60, 20, 20]))
    # 10 %, then halved each time: 0.05, 0.025, 0.0125 of 0.2 source.
    assert len(said) == 1
    assert "iteration 8: the class 'train' (2)" in said[0]
    assert '1.2500% of the pixels' in said[0]
    assert '20.000% of the source' in said[0]
    assert 'RareClassSampler' in said[0]
    assert hook.vanished == [2]
    assert not runner.train_loop.stop_training


def test_its_own_past_is_a_reference() -> None:
    """The target has more of the class than the source, until it goes."""
    kwargs = dict(interval=1, begin=1, momentum=0.0, ratio=0.2)
    history = [[50, 50, 0], [98, 2, 0], [97, 3, 0]]
    said, _ = run(
        CollapseAlarmHook(reference='past', **kwargs), Teacher(history, [1, 0, 0])
    )
    assert len(said) == 1
    assert "'car' (1)" in said[0]
    assert '50.000% at its own maximum' in said[0]
    source = CollapseAlarmHook(reference='source', **kwargs)
    said, _ = run(source, Teacher(history, [1, 0, 0]))
    assert said == []


def test_rare_classes_and_first_measurements_raise_no_alarm() -> None:
    hook = CollapseAlarmHook(interval=1, begin=3, min_share=0.1, momentum=0.0)
    never = [[100.0, 0, 0]] * 2
    said, _ = run(hook, Teacher([*never, [60, 40, 0]], [55, 40, 5]))
    assert said == []


def test_it_can_stop_the_training() -> None:
    hook = CollapseAlarmHook(interval=1, begin=1, momentum=0.0, action='stop')
    said, runner = run(hook, Teacher([[100, 0, 0]], [50, 50, 0]))
    assert runner.train_loop.stop_training
    assert 'stops here' in said[-1]


def test_resume_is_exact(tmp_path: Path) -> None:
    """In stock loops: running means bit by bit, and nothing said twice."""
    hook = dict(type='mmseg_xmodal.CollapseAlarmHook', interval=1, begin=2, ratio=0.99)
    adaptation(tmp_path / 'whole', [hook]).train()
    part = resumed(tmp_path / 'part', tmp_path / 'whole' / 'iter_4.pth', [hook])
    part.train()
    states = [
        CheckpointLoader.load_checkpoint(str(tmp_path / name / 'iter_8.pth'), 'cpu')[
            'collapse_alarm'
        ]
        for name in ('whole', 'part')
    ]
    assert states[0]['measured'] == states[1]['measured'] == 8
    assert states[0]['vanished'] == states[1]['vanished'] != []
    for name, value in states[0]['means'].items():
        assert torch.equal(value, states[1]['means'][name]), name
    said = [log_text(tmp_path / n).count('vanishes from') for n in ('whole', 'part')]
    before = CheckpointLoader.load_checkpoint(str(tmp_path / 'whole/iter_4.pth'), 'cpu')
    early = before['collapse_alarm']['vanished']
    assert said == [len(states[0]['vanished']), len(states[0]['vanished']) - len(early)]
    assert early


def test_stop_ends_a_stock_loop(tmp_path: Path) -> None:
    hook = dict(
        type='mmseg_xmodal.CollapseAlarmHook',
        interval=1,
        begin=2,
        ratio=0.99,
        action='stop',
    )
    runner = adaptation(tmp_path, [hook])
    runner.train()
    assert runner.iter == 2


def test_refusals() -> None:
    for wrong in (dict(ratio=1.5), dict(interval=0), dict(momentum=1.0)):
        with pytest.raises(ValueError, match='CollapseAlarmHook has ratio'):
            CollapseAlarmHook(**wrong)
    with pytest.raises(ValueError, match="reference='truth'"):
        CollapseAlarmHook(reference='truth')
    runner = SimpleNamespace(iter=0, model=wrapper([]))
    with pytest.raises(ValueError, match='no term that makes pseudo-labels'):
        CollapseAlarmHook().before_train(runner)


def test_load_from_starts_anew() -> None:
    hook = CollapseAlarmHook()
    hook.after_load_checkpoint(
        None, dict(collapse_alarm=dict(measured=9, vanished=[1], means={}))
    )
    hook.before_train(SimpleNamespace(iter=0, model=wrapper([MIX])))
    assert (hook.measured, hook.vanished) == (0, [])
