"""The teacher's running mean: schedule, accumulation, buffers, resume."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.hooks import CheckpointHook
from mmengine.optim import OptimWrapper
from mmengine.runner import CheckpointLoader, Runner
from torch import nn

from mmseg_xmodal.engine import EMATeacherHook, RandomStateHook
from mmseg_xmodal.models.adaptation.ema import ema_alpha, ema_update
from tests.forked import in_two_processes
from tests.test_models.adaptation_toys import AdaptToyImages, student_cfg, wrapper

MIX = dict(type='mmseg_xmodal.ClassMixSelfTraining')


class Pair(nn.Module):
    """Student and teacher, one number each behind a norm."""

    teacher_norm = 'batch'

    def __init__(self) -> None:
        super().__init__()
        self.student = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)


def run(hook: EMATeacherHook, iterations: int, every: int = 1) -> list[float]:
    """The teacher's number before each step and after the last; the student's is 10 t.

    An optimiser's step comes after every ``every`` iterations.
    """
    model = Pair()
    student, teacher = model.student[0].bias, model.teacher[0].bias
    student.data.fill_(0.0)
    teacher.data.fill_(100.0)
    optimiser = torch.optim.SGD(model.student.parameters(), lr=0.1)
    wrap = OptimWrapper(optimiser, accumulative_counts=every)
    wrap._max_counts = iterations
    optimiser.step = lambda: student.data.add_(10)
    runner = SimpleNamespace(model=model, optim_wrapper=wrap, iter=0)
    hook.before_train(runner)
    seen = []
    for i in range(iterations):
        hook.before_train_iter(runner, i)
        seen.append(teacher.item())
        wrap.update_params(model.student(torch.randn(3, 1)).sum())
        hook.after_train_iter(runner, i)
    return [*seen, teacher.item()]


def means(values: list[float], momentum: float) -> list[float]:
    """By the formula: the first value is copied."""
    out = [values[0]]
    for t, value in enumerate(values[1:], 1):
        share = min(1 - 1 / (t + 1), momentum)
        out.append(share * out[-1] + (1 - share) * value)
    return out


def test_warm_up() -> None:
    shares = [ema_alpha(t, 0.99) for t in (0, 1, 2, 98, 99, 5000)]
    assert shares == pytest.approx([0, 0.5, 2 / 3, 98 / 99, 0.99, 0.99])


def test_before_and_after_the_step() -> None:
    """DAFormer averages the student of the last step, DACS that of this one."""
    before = run(EMATeacherHook(momentum=0.6), 4)
    assert before == pytest.approx(
        [*means([0, 10, 20, 30], 0.6), means([0, 10, 20, 30], 0.6)[-1]]
    )
    after = run(EMATeacherHook(momentum=0.6, when='after'), 4)
    assert after == pytest.approx([100, *means([10, 20, 30, 40], 0.6)])


def test_updates_are_counted_not_iterations() -> None:
    """Three iterations an update, and a rest that ends the training."""
    hook = EMATeacherHook()
    seen = run(hook, 7, every=3)
    first, second, third = means([0, 10, 20], 0.999)
    assert seen == pytest.approx([first] * 3 + [second] * 3 + [third] * 2)
    assert hook.steps == 3
    hook = EMATeacherHook(when='after')
    seen = run(hook, 6, every=3)
    first, second = means([10, 20], 0.999)
    assert seen == pytest.approx([100] * 3 + [first] * 3 + [second])
    assert hook.moves == 2


def test_policies_for_buffers() -> None:
    for policy in ('keep', 'copy', 'ema'):
        model = Pair()
        norm, own = model.student[1], model.teacher[1]
        norm.running_mean.fill_(4.0)
        own.running_mean.fill_(2.0)
        norm.num_batches_tracked.fill_(7)
        ema_update(model.teacher, model.student, 0.75, policy)
        expected = dict(keep=(2.0, 0), copy=(4.0, 7), ema=(2.5, 7))[policy]
        got = (own.running_mean.item(), own.num_batches_tracked.item())
        assert got == expected


@pytest.mark.parametrize(
    'kwargs', [dict(momentum=1.0), dict(when='during'), dict(buffers='drop')]
)
def test_bad_arguments(kwargs: dict) -> None:
    with pytest.raises(ValueError, match='EMATeacherHook has'):
        EMATeacherHook(**kwargs)


def test_models_that_it_cannot_serve() -> None:
    def start(model: nn.Module, hook: EMATeacherHook) -> None:
        hook.before_train(SimpleNamespace(model=model, iter=0))

    with pytest.raises(ValueError, match='Linear without student and teacher'):
        start(nn.Linear(1, 1), EMATeacherHook())
    model = wrapper([MIX], teacher_norm='running')
    with pytest.raises(ValueError, match="buffers='ema'"):
        start(model, EMATeacherHook())
    start(model, EMATeacherHook(buffers='copy'))
    assert model.teacher_hooked


def runner(work_dir: Path, length: int, accumulate: int, **hook: Any) -> Runner:
    return Runner(
        model=dict(
            type='mmseg_xmodal.DomainAdaptiveSegmentor',
            student=student_cfg(),
            terms=[MIX, dict(type='mmseg_xmodal.MaskedConsistency', block=16)],
            pseudo_labels=dict(threshold=0.3),
        ),
        work_dir=str(work_dir),
        train_dataloader=dict(
            batch_size=4,
            num_workers=0,
            dataset=AdaptToyImages(),
            sampler=dict(type='mmseg_xmodal.SeededInfiniteSampler', shuffle=False),
            collate_fn=dict(type='pseudo_collate'),
        ),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=length),
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=0.05, momentum=0.9),
            accumulative_counts=accumulate,
        ),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=4)
        ),
        custom_hooks=[
            dict(type='mmseg_xmodal.RandomStateHook'),
            dict(type='mmseg_xmodal.EMATeacherHook', **hook),
        ],
        default_scope='mmseg',
        randomness=dict(seed=3),
        experiment_name=f'ema{id(work_dir)}_{length}',
        log_level='ERROR',
    )


@pytest.mark.parametrize(
    ('accumulate', 'hook'),
    [(1, {}), (2, {}), (1, dict(when='after', buffers='ema', momentum=0.6))],
)
def test_resumed_run_is_the_uninterrupted_one(
    tmp_path: Path, accumulate: int, hook: dict
) -> None:
    """Student, teacher and buffers bit by bit, through stock loops."""
    whole = runner(tmp_path / 'whole', 8, accumulate, **hook)
    whole.train()
    part = runner(tmp_path / 'part', 8, accumulate, **hook)
    part._resume, part._load_from = True, str(tmp_path / 'whole' / 'iter_4.pth')
    part.train()
    assert part.iter == 8
    expected = whole.model.state_dict()
    for key, value in part.model.state_dict().items():
        assert torch.equal(value, expected[key]), key
    teacher, student = (getattr(whole.model, n) for n in ('teacher', 'student'))
    assert not torch.equal(
        teacher.decode_head.conv_seg.bias, student.decode_head.conv_seg.bias
    )
    path = str(tmp_path / 'whole' / 'iter_8.pth')
    state = CheckpointLoader.load_checkpoint(path, 'cpu')['ema_teacher']
    assert state['steps'] == 8 // accumulate


def test_load_from_starts_to_count_anew() -> None:
    hook = EMATeacherHook()
    hook.after_load_checkpoint(None, dict(ema_teacher=dict(steps=9, moves=9)))
    hook.before_train(SimpleNamespace(model=Pair(), iter=0))
    assert (hook.steps, hook.moves) == (0, 0)
    said: list[str] = []
    logger = SimpleNamespace(warning=said.append)
    hook.before_train(SimpleNamespace(model=Pair(), iter=4, logger=logger))
    assert 'without this hook' in said[0]


def _teachers(rank: int, policy: str) -> list[dict[str, list[float]]]:
    """The teacher's buffers in one of two processes: uninterrupted, then resumed."""

    def go_on(pair: Pair, steps: range, state: dict | None = None) -> dict | None:
        hook = EMATeacherHook(momentum=0.6, buffers=policy)
        hook.after_load_checkpoint(None, state or {})
        at = steps.start
        hook.before_train(SimpleNamespace(model=pair, iter=at))
        for i in steps:
            # As in training, where each process has images of its own.
            generator = torch.Generator().manual_seed(10 * i + rank)
            optim = SimpleNamespace(should_update=lambda: True)
            runner = SimpleNamespace(model=pair, iter=i, optim_wrapper=optim)
            hook.before_train_iter(runner, i)
            pair.student(torch.randn(4, 1, generator=generator) + 5 * rank)
            hook.after_train_iter(runner, i)
        saved: dict[str, Any] = {}
        hook.before_save_checkpoint(None, saved)
        return saved

    def buffers(pair: Pair) -> dict[str, list[float]]:
        return {k: v.flatten().tolist() for k, v in pair.teacher.named_buffers()}

    torch.manual_seed(0)
    whole, part = Pair(), Pair()
    state = go_on(whole, range(3))
    # The first process writes the checkpoint, all read it.
    file = [dict(state, weights=whole.state_dict()) if rank == 0 else None]
    torch.distributed.broadcast_object_list(file)
    part.load_state_dict(file[0].pop('weights'))
    go_on(whole, range(3, 6), state)
    go_on(part, range(3, 6), file[0])
    return [buffers(whole), buffers(part)]


@pytest.mark.parametrize('policy', ['ema', 'copy'])
def test_a_resume_is_exact_in_several_processes(tmp_path: Path, policy: str) -> None:
    """Each process has statistics of its own in the student, the file the first's."""
    found = in_two_processes(tmp_path, lambda rank: _teachers(rank, policy))
    assert not isinstance(found[0], str), found
    (first, resumed), (second, other) = found
    assert first['1.running_mean'] != [0.0]
    assert first == second  # so all make the same pseudo-labels of an image
    assert resumed == first
    assert other == second


def test_it_works_before_states_and_checkpoints_are_taken() -> None:
    order = dict(ABOVE_NORMAL=40, LOW=70, VERY_LOW=90)
    priorities = [
        order[h.priority] for h in (EMATeacherHook, RandomStateHook, CheckpointHook)
    ]
    assert priorities == sorted(priorities)
