"""The teacher follows the student.

Mean Teacher, https://arxiv.org/abs/1703.01780, with the warm-up of DACS
(https://arxiv.org/abs/2007.08702, code MIT). Clean room, nothing copied.
"""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from torch.nn.modules.batchnorm import _NormBase

from mmseg_xmodal.models.adaptation.ema import (
    BUFFER_POLICIES,
    ema_alpha,
    ema_update,
    share_buffers,
)
from mmseg_xmodal.registry import HOOKS

from ..unwrap import unwrapped

_KEY = 'ema_teacher'


@HOOKS.register_module()
class EMATeacherHook(Hook):
    """Make ``model.teacher`` the running mean of ``model.student``.

    At update t = 0, 1, ... the teacher becomes a * teacher + (1 - a) * student with
    a = min(1 - 1/(t+1), momentum), so the first update copies. t counts optimiser
    updates: with accumulation one update takes several iterations. A step that a
    gradient scaler leaves out counts too. t is in the checkpoint, a resumed run goes on
    with it; ``load_from`` starts at 0.

    Args:
        momentum: Share of the teacher that is kept, in [0, 1): DAFormer, HRDA and MIC
            0.999, DACS 0.99.
        when: ``'before'`` the first forward pass of an update, with the student of the
            last one (DAFormer); ``'after'`` the optimiser's step (DACS). At the end of
            a training of the first kind the last step is not in the teacher.
        buffers: ``'keep'``: the teacher's buffers stay its own (with
            ``teacher_norm='batch'``, DACS, DAFormer); ``'copy'``: the student's;
            ``'ema'``: numbers in floating point are averaged, others copied. In several
            processes these are those of the first one, as in the checkpoint.

    Raises:
        ValueError: If an argument cannot be used, or, when training starts, the model
            has no teacher, or one with norms that would keep their first statistics.
    """

    # Before random states are taken and checkpoints written.
    priority = 'ABOVE_NORMAL'

    def __init__(
        self, momentum: float = 0.999, when: str = 'before', buffers: str = 'keep'
    ) -> None:
        usable = when in ('before', 'after') and buffers in BUFFER_POLICIES
        if not 0 <= momentum < 1 or not usable:
            raise ValueError(
                f'EMATeacherHook has momentum={momentum}, when={when!r}, buffers='
                f"{buffers!r}, expected a share in [0, 1), 'before' or 'after', and "
                f'one of {list(BUFFER_POLICIES)}.'
            )
        self.momentum, self.when, self.buffers = momentum, when, buffers
        # Optimiser updates, and how often the teacher has moved.
        self.steps = self.moves = 0
        self._loaded: dict[str, int] | None = None

    def before_train(self, runner: Any) -> None:
        """Check the model, and go on where the checkpoint left off."""
        model = unwrapped(runner.model)
        if not hasattr(model, 'teacher') or not hasattr(model, 'student'):
            raise ValueError(
                f'EMATeacherHook: the model is a {type(model).__name__} without '
                "student and teacher, expected type='mmseg_xmodal."
                "DomainAdaptiveSegmentor'. Take the hook out of custom_hooks, or "
                'correct the model.'
            )
        running = getattr(model, 'teacher_norm', 'running') == 'running'
        norms = [m for m in model.teacher.modules() if isinstance(m, _NormBase)]
        if self.buffers == 'keep' and running and norms:
            raise ValueError(
                f'EMATeacherHook: the teacher has {len(norms)} norms that use running '
                "statistics, and buffers='keep' never moves these. Set buffers='ema' "
                "in the hook, or teacher_norm='batch' in the model."
            )
        model.teacher_hooked = True
        # load_from starts counting at 0, a resume goes on.
        loaded, self._loaded = self._loaded, None
        self.steps = self.moves = 0
        if runner.iter == 0:
            return
        if loaded is None:
            runner.logger.warning(
                'EMATeacherHook: the checkpoint was written without this hook, so the '
                'warm-up of the teacher starts anew.'
            )
        else:
            self.steps, self.moves = loaded['steps'], loaded['moves']

    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Move the teacher before the first iteration of an update."""
        if self.when == 'before' and self.moves <= self.steps:
            self._move(runner)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Count the update, if the iteration has ended with one."""
        if not runner.optim_wrapper.should_update():
            return
        self.steps += 1
        if self.when == 'after':
            self._move(runner)

    def _move(self, runner: Any) -> None:
        model = unwrapped(runner.model)
        alpha = ema_alpha(self.moves, self.momentum)
        ema_update(model.teacher, model.student, alpha, self.buffers)
        if self.buffers != 'keep':
            # DDP leaves each process statistics of its own in the student.
            share_buffers(model.teacher)
        self.moves += 1

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Write the counts."""
        checkpoint[_KEY] = dict(steps=self.steps, moves=self.moves)

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Keep the counts until it is known whether this is a resume."""
        self._loaded = checkpoint.get(_KEY)
