"""Random states in the checkpoint, so that a resumed run is the uninterrupted one.

mmengine saves weights, optimiser and schedules, but no random state: after a stock
resume, drop path and dropout draw other numbers and the weights differ.
"""

# The legacy global state of numpy is the very subject here.
# ruff: noqa: NPY002
from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import CheckpointHook, Hook

from mmseg_xmodal.datasets.samplers.seeded import derive_seed
from mmseg_xmodal.registry import HOOKS

_KEY = 'random_state'
_SAMPLER_KEY = 'sampler_seed'


def capture_random_state() -> dict[str, Any]:
    """Read the global random states of this process.

    Returns:
        States of python, numpy, torch (CPU) and, once CUDA is in use, of the current
        CUDA device. Only ints, floats, tuples and tensors, which
        ``torch.load(weights_only=True)`` accepts.
    """
    legacy: Any = np.random.get_state()
    _, keys, position, has_gauss, gauss = legacy
    state = dict(
        python=random.getstate(),
        numpy=(
            torch.from_numpy(keys.astype(np.int64)),
            int(position),
            int(has_gauss),
            float(gauss),
        ),
        torch=torch.get_rng_state(),
    )
    if torch.cuda.is_initialized():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Set the global random states of this process.

    Args:
        state: What :func:`capture_random_state` returned, on any device.
    """
    version, internal, gauss = state['python']
    random.setstate((version, tuple(internal), gauss))
    keys, *rest = state['numpy']
    keys = keys.cpu().numpy().astype(np.uint32)
    np.random.set_state(('MT19937', keys, *rest))
    torch.set_rng_state(state['torch'].cpu())
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())


@HOOKS.register_module()
class RandomStateHook(Hook):
    """Save the random states of all ranks with a checkpoint, restore them on resume.

    When each thing happens, and why:

    * **Saving.** ``Runner.save_checkpoint`` runs on the master alone, so a collective
      call inside it would wait for ever. Every rank works out from the settings of the
      ``CheckpointHook`` whether one is due, and all exchange their states in
      ``after_train_iter`` (or ``after_train_epoch``), before the ``CheckpointHook``,
      whose priority is lower. A checkpoint that is written at another moment of a
      multi-process run holds no states, and a warning says so.
    * **Validation leaves no trace.** The uninterrupted run validates between the
      checkpoint and the next iteration, a resumed one does not. States are taken in
      ``before_val`` and put back in ``after_val``. A best checkpoint, written inside,
      holds those of ``before_val``.
    * **Starting a data loader leaves no trace** either: torch draws a base seed for the
      workers from the global state, at other moments in the two runs. The training
      loader gets a generator of its own.
    * **Restoring** waits for the first ``before_train_iter``: until then the loop has
      replayed or skipped the data that were seen, which may draw numbers. It happens on
      resume only, never with ``load_from``.

    For equal weights the samples must be equal too: use a seeded sampler
    (:class:`mmseg_xmodal.datasets.samplers.SeededInfiniteSampler`), fix
    ``randomness=dict(seed=...)``, and with ``accumulative_counts`` save at multiples of
    it, since a checkpoint holds no gradients.
    """

    # Before CheckpointHook (VERY_LOW), after whatever else draws numbers.
    priority = 'LOW'

    def __init__(self) -> None:
        self._loaded: list[dict[str, Any]] | None = None
        self._sampler_seed: int | None = None
        self._pending: dict[str, Any] | None = None
        self._before_val: list[dict[str, Any]] | None = None
        self._gathered: list[dict[str, Any]] | None = None
        self._generator: torch.Generator | None = None

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Keep what the file holds until it is known whether this is a resume."""
        self._loaded = checkpoint.get(_KEY)
        self._sampler_seed = checkpoint.get(_SAMPLER_KEY)

    def before_train(self, runner: Any) -> None:
        """Decide whether states are to be restored."""
        loaded, self._loaded, self._pending = self._loaded, None, None
        # load_from starts counting at 0, a resume goes on.
        if runner.iter == 0 and runner.epoch == 0:
            return
        self._check_sampler_seed(runner, self._sampler_seed)
        rank, world_size = get_rank(), get_world_size()
        if loaded is None:
            runner.logger.warning(
                'RandomStateHook: the checkpoint holds no random states (it was '
                'written without this hook), so the resumed run will draw other '
                'numbers than an uninterrupted one.'
            )
        elif len(loaded) != world_size:
            runner.logger.warning(
                f'RandomStateHook: the checkpoint holds the random states of '
                f'{len(loaded)} processes, this run has {world_size}. They are not '
                'restored; resume with the same number of processes for equal results.'
            )
        else:
            self._pending = loaded[rank]

    def before_train_epoch(self, runner: Any) -> None:
        """Give the training loader a generator of its own."""
        loader = runner.train_dataloader
        # A generator that the user gave to the loader is left alone.
        if loader.generator is None or loader.generator is self._generator:
            seed = derive_seed(runner.seed, get_rank(), runner.epoch)
            loader.generator = self._generator = torch.Generator().manual_seed(seed)

    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Restore once, after the loader has delivered the first batch."""
        self._gathered = None
        if self._pending is not None:
            restore_random_state(self._pending)
            self._pending = None
            runner.logger.info('RandomStateHook: random states restored.')

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Exchange the states of all ranks if a checkpoint is due."""
        if get_world_size() > 1 and self._checkpoint_due(runner, by_epoch=False):
            self._gathered = all_gather_object(capture_random_state())

    def after_train_epoch(self, runner: Any) -> None:
        """Exchange the states of all ranks if a checkpoint is due."""
        if get_world_size() > 1 and self._checkpoint_due(runner, by_epoch=True):
            self._gathered = all_gather_object(capture_random_state())

    def before_val(self, runner: Any) -> None:
        """Take the states that validation must not change."""
        self._before_val = all_gather_object(capture_random_state())

    def after_val(self, runner: Any) -> None:
        """Put them back."""
        if self._before_val is not None:
            restore_random_state(self._before_val[get_rank()])
            self._before_val = None

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Add one state per rank to the checkpoint. Runs on the master alone."""
        seed = getattr(runner.train_dataloader.sampler, 'seed', None)
        if isinstance(seed, int):
            checkpoint[_SAMPLER_KEY] = int(seed)
        if self._before_val is not None:
            checkpoint[_KEY] = self._before_val
        elif get_world_size() == 1:
            checkpoint[_KEY] = [capture_random_state()]
        elif self._gathered is not None:
            checkpoint[_KEY] = self._gathered
        else:
            runner.logger.warning(
                'RandomStateHook: this checkpoint is written outside the schedule of '
                'CheckpointHook, when the other processes cannot be asked for their '
                'random states. It holds none; resuming from it is not exact.'
            )

    @staticmethod
    def _checkpoint_due(runner: Any, by_epoch: bool) -> bool:
        """Whether a CheckpointHook will save now; the same answer on every rank."""
        for hook in runner.hooks:
            if not isinstance(hook, CheckpointHook) or hook.by_epoch != by_epoch:
                continue
            if by_epoch:
                due = hook.every_n_epochs(runner, hook.interval, hook.save_begin)
                last = hook.is_last_train_epoch(runner)
            else:
                due = hook.every_n_train_iters(runner, hook.interval, hook.save_begin)
                last = hook.is_last_train_iter(runner)
            if due or (hook.save_last and last):
                return True
        return False

    @staticmethod
    def _check_sampler_seed(runner: Any, saved: int | None) -> None:
        """Warn if the order of the samples cannot be that of the interrupted run.

        The sampler is built before the checkpoint is read, from which the runner then
        takes the seed.
        """
        if saved is None:
            # Of an earlier version. With a seed for each rank the sampler draws its
            # own, which cannot be told from that of the run.
            if runner._randomness_cfg.get('diff_rank_seed'):
                return
            saved = runner.seed
        used = getattr(runner.train_dataloader.sampler, 'seed', None)
        if used is not None and used != saved:
            runner.logger.warning(
                f'RandomStateHook: the sampler runs with seed {used}, the checkpoint '
                f'was written with {saved}: samples will come in another order. '
                f'Set randomness=dict(seed={runner.seed}) in the config.'
            )
