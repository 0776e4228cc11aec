"""The hook that notices a class vanishing from the pseudo-labels.

Self-training feeds on its own labels: a class that the teacher stops to predict is not
taught any more. No paper: a running mean against a reference.
"""

from __future__ import annotations

from typing import Any

import torch
from mmengine.hooks import Hook
from torch import Tensor

from mmseg_xmodal.registry import HOOKS

from ..unwrap import unwrapped
from .pseudo_label_watch import Census, PseudoLabelWatch, class_names

_KEY = 'collapse_alarm'
_REFERENCES = dict(source=('source',), past=('past',), both=('source', 'past'))
_REMEDIES = (
    'What to try, from the last checkpoint before: sample the class more often '
    "(samplers=[dict(type='mmseg_xmodal.RareClassSampler'), None] in "
    'MultiSourceSampler), a lower learning rate or a longer warm-up, a slower teacher '
    '(momentum of EMATeacherHook nearer to 1), a lower pseudo_labels.threshold, '
    'FeatureAnchor on the class. If the target simply has less of it, lower ratio of '
    'CollapseAlarmHook.'
)


@HOOKS.register_module()
class CollapseAlarmHook(Hook):
    """Says which class vanishes from the teacher's pseudo-labels, and when.

    The share of each class in the pseudo-labels (a running mean over all processes) is
    compared with its share in the truth of the source as sampled (a running mean, too)
    and with the largest value that it had itself. Below ``ratio`` of one of these a
    class has vanished: one warning with its name, the numbers, the iteration and
    remedies. Everything is in the checkpoint, so that a resumed run says what the
    uninterrupted one says.

    Args:
        ratio: A class has vanished below this share of its reference, in (0, 1).
        reference: ``'source'``, ``'past'`` (its own maximum) or ``'both'``.
        min_share: Classes whose reference is below this share of the pixels are not
            watched, in (0, 1).
        interval: Iterations from one measurement to the next.
        momentum: Of the running means, in [0, 1); m measurements weigh alike while
            1 - 1/m is below it.
        begin: Measurements before the first alarm.
        action: ``'warn'``, or ``'stop'``: end the training after the iteration.

    Raises:
        ValueError: If an argument cannot be used, or, when training starts, the model
            makes no pseudo-labels.
    """

    # Before random states are taken and checkpoints written.
    priority = 'NORMAL'

    def __init__(
        self,
        ratio: float = 0.05,
        reference: str = 'both',
        min_share: float = 0.001,
        interval: int = 10,
        momentum: float = 0.98,
        begin: int = 20,
        action: str = 'warn',
    ) -> None:
        numbers = 0 < ratio < 1 and 0 < min_share < 1 and 0 <= momentum < 1
        if not numbers or interval < 1 or begin < 1:
            raise ValueError(
                f'CollapseAlarmHook has ratio={ratio}, min_share={min_share}, momentum='
                f'{momentum}, interval={interval}, begin={begin}, expected shares in '
                '(0, 1), a momentum in [0, 1), and 1 or more.'
            )
        if reference not in _REFERENCES or action not in ('warn', 'stop'):
            raise ValueError(
                f'CollapseAlarmHook has reference={reference!r} and action={action!r}, '
                f"expected one of {list(_REFERENCES)}, and 'warn' or 'stop'."
            )
        self.ratio, self.reference, self.min_share = ratio, reference, min_share
        self.interval, self.momentum, self.begin = interval, momentum, begin
        self.action = action
        self._loaded: dict[str, Any] | None = None
        self._watch: PseudoLabelWatch | None = None
        self._reset()

    def _reset(self) -> None:
        self.measured = 0
        self.vanished: list[int] = []
        self._means: dict[str, Tensor] = {}

    def before_train(self, runner: Any) -> None:
        """Watch the terms, and go on where the checkpoint left off."""
        self._watch = PseudoLabelWatch(unwrapped(runner.model), type(self).__name__)
        loaded, self._loaded = self._loaded, None
        self._reset()
        if runner.iter == 0:  # load_from starts anew, a resume goes on
            return
        if loaded is None:
            runner.logger.warning(
                'CollapseAlarmHook: the checkpoint was written without this hook, so '
                'it starts to measure anew.'
            )
            return
        self.measured = int(loaded['measured'])
        self.vanished = [int(i) for i in loaded['vanished']]
        self._means = {k: v.clone().cpu() for k, v in loaded['means'].items()}

    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Ask for a census of an iteration that is measured."""
        assert self._watch is not None
        self._watch.wanted = self.every_n_train_iters(runner, self.interval)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Measure, and raise the alarm."""
        assert self._watch is not None
        if not self._watch.wanted:
            return
        self._measure(self._watch.take())
        if self.measured >= self.begin:
            self._judge(runner)

    def after_train(self, runner: Any) -> None:
        """Leave the model alone."""
        if self._watch is not None:
            self._watch.remove()
            self._watch = None

    def _measure(self, census: Census) -> None:
        keep = min(1 - 1 / (self.measured + 1), self.momentum)
        new = dict(pseudo=census.shares, source=census.source_shares)
        for name, value in new.items():
            old = self._means.get(name, torch.zeros_like(value))
            self._means[name] = keep * old + (1 - keep) * value
        self.measured += 1
        if self.measured >= self.begin:  # the first means are those of few images
            mean = self._means['pseudo']
            self._means['past'] = torch.maximum(self._means.get('past', mean), mean)

    def _judge(self, runner: Any) -> None:
        shares = self._means['pseudo']
        names = class_names(runner, len(shares))
        alarm = False
        for index, share in enumerate(shares.tolist()):
            references = {
                name: self._means[name][index].item()
                for name in _REFERENCES[self.reference]
            }
            missed = {
                name: value
                for name, value in references.items()
                if value >= self.min_share and share < self.ratio * value
            }
            if not missed or index in self.vanished:
                continue
            self.vanished.append(index)
            alarm = True
            words = dict(source='of the source', past='at its own maximum')
            against = ' and '.join(f'{v:.3%} {words[k]}' for k, v in missed.items())
            runner.logger.warning(
                f'CollapseAlarmHook: iteration {runner.iter + 1}: the class '
                f'{names[index]!r} ({index}) vanishes from the pseudo-labels: '
                f'{share:.4%} of the pixels (running mean), against {against}; the '
                f'alarm is at {self.ratio:g} of that. {_REMEDIES} (Said once per '
                'class.)'
            )
        if alarm and self.action == 'stop':
            runner.logger.warning(
                "CollapseAlarmHook: training stops here (action='stop'). A run that is "
                'resumed goes on, and says nothing about these classes again.'
            )
            runner.train_loop.stop_training = True

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Write the running means and what was said."""
        checkpoint[_KEY] = dict(
            measured=self.measured,
            vanished=list(self.vanished),
            means={k: v.clone() for k, v in self._means.items()},
        )

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Keep the state until it is known whether this is a resume."""
        self._loaded = checkpoint.get(_KEY)
