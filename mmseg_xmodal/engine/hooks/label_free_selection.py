"""The hook that chooses a checkpoint without labels of the target."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.runner.amp import autocast

from mmseg_xmodal.evaluation.label_free import LABEL_FREE_SCORES
from mmseg_xmodal.registry import HOOKS

from ..unwrap import unwrapped
from .label_free_pass import score_batches, undisturbed, unlabelled_batches

_KEY = 'label_free_selection'
_FILE = 'label_free_selection.json'


@HOOKS.register_module()
class LabelFreeSelectionHook(Hook):
    """Scores the model on target images without their labels, and keeps the best one.

    Who selects a checkpoint by the mIoU on the target uses labels that an adaptation
    does not have. The scores are those of
    :mod:`mmseg_xmodal.evaluation.label_free`; they are logged as ``select/<score>``,
    and the checkpoint that is best by ``save_best`` stands in the work folder as
    ``best_<score>_iter_N.pth``, in place of the one before. Fields ``gt_*`` are taken
    off the samples first. The scores of all times are in the checkpoints and in
    ``label_free_selection.json``, a resumed run compares with them.

    They are made before each validation, with the weights that are validated
    (``EMAHook``), or every ``interval`` iterations. Random states are put back
    afterwards, so the training is the one without the hook.

    Args:
        dataloader: Config of the loader of target images, pipeline and sampler as for
            validation; None = the ``val_dataloader``.
        save_best: Score by which to keep the best: ``'infomax'``, ``'entropy'`` or
            ``'agreement'``; None = keep none.
        scores: Which to compute. Defaults to all that the model allows: ``'agreement'``
            needs student and teacher, and one more pass.
        interval: Iterations between two times; None = at each validation.
        max_batches: Batches of the loader that are scored, the first ones; None = all.
        fp16: Predict under autocast.

    Raises:
        ValueError: If a score or a number is unknown; when training starts, if the
            model has no teacher for the agreement, or there is no loader.
    """

    # After schedules, random states and the EMA weights of other hooks, before the
    # CheckpointHook, whose checkpoint has the scores of the same iteration.
    priority = 80

    def __init__(
        self,
        dataloader: Mapping[str, Any] | None = None,
        save_best: str | None = 'infomax',
        scores: Sequence[str] | None = None,
        interval: int | None = None,
        max_batches: int | None = None,
        fp16: bool = False,
    ) -> None:
        known = list(LABEL_FREE_SCORES)
        named = [save_best] if save_best is not None else []
        named += list(scores or ())
        if not set(named) <= set(known) or (
            scores is not None and save_best is not None and save_best not in scores
        ):
            raise ValueError(
                f'LabelFreeSelectionHook has save_best={save_best!r} and scores='
                f'{scores}, expected some of {known}, save_best among scores.'
            )
        if any(n is not None and n < 1 for n in (interval, max_batches)):
            raise ValueError(
                f'LabelFreeSelectionHook has interval={interval} and max_batches='
                f'{max_batches}, expected 1 or more, or None.'
            )
        self.dataloader: Any = dataloader
        self.save_best, self.scores = save_best, scores
        self.interval, self.max_batches, self.fp16 = interval, max_batches, fp16
        self.history: list[dict[str, float]] = []
        self._loaded: list[dict[str, float]] | None = None
        self._fresh: dict[str, float] | None = None
        self._training = False

    # When

    def before_train(self, runner: Any) -> None:
        """Check model and loader, and take over what is known of this run."""
        self._wanted(unwrapped(runner.model))
        if self.dataloader is None and runner.val_loop is None:
            raise ValueError(
                'LabelFreeSelectionHook has no dataloader, and the config no '
                'val_dataloader. Give the hook dataloader=dict(...) with target images.'
            )
        if self.interval is None and runner.val_loop is None:
            raise ValueError(
                'LabelFreeSelectionHook scores at each validation, but the config has '
                'none. Set interval=... in the hook, or val_dataloader, val_cfg and '
                'val_evaluator.'
            )
        self._training = True
        loaded, self._loaded = self._loaded, None
        # load_from starts anew, a resume goes on.
        self.history = [] if runner.iter == 0 else self._known(runner, loaded or [])
        best = self._best()
        if best is not None and not self._path(runner, best['iter']).is_file():
            for record in self.history:  # nor is the file of any other
                record['gone'] = True
            runner.logger.warning(
                f'LabelFreeSelectionHook: {self._path(runner, best["iter"])}, the best '
                'up to here, is not there any more. The best from here on is kept.'
            )

    def after_train(self, runner: Any) -> None:
        """A validation on its own keeps no checkpoint."""
        self._training = False

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Score every ``interval`` iterations."""
        if self.interval and self.every_n_train_iters(runner, self.interval):
            found = self._score(runner)
            scalars = {f'select/{k}': v for k, v in found.items() if math.isfinite(v)}
            runner.visualizer.add_scalars(scalars, step=runner.iter + 1)
            shown = '  '.join(f'{k}: {v:.4f}' for k, v in scalars.items())
            runner.logger.info(f'Iter {runner.iter + 1}  {shown}')
            self._keep(runner, runner.iter + 1, found)

    def before_val_epoch(self, runner: Any) -> None:
        """Score the weights that are validated; the log has it with the metrics."""
        if self.interval is None:
            self._fresh = self._score(runner)
            for name, value in self._fresh.items():
                runner.message_hub.update_scalar(f'val/select/{name}', value)

    def after_val_epoch(
        self, runner: Any, metrics: dict[str, float] | None = None
    ) -> None:
        """Hand the scores to later hooks, and keep the best checkpoint."""
        fresh, self._fresh = self._fresh, None
        if fresh is None:
            return
        if metrics is not None:
            metrics.update({f'select/{k}': v for k, v in fresh.items()})
        if self._training:
            self._keep(runner, runner.iter, fresh)

    # Scores

    def _wanted(self, model: Any) -> list[str]:
        paired = hasattr(model, 'student') and hasattr(model, 'teacher')
        asked = [*(self.scores or ()), self.save_best]
        if 'agreement' in asked and not paired:
            raise ValueError(
                'LabelFreeSelectionHook is asked for the agreement of student and '
                f'teacher, but the model {type(model).__name__} has no teacher. Use '
                "type='mmseg_xmodal.DomainAdaptiveSegmentor', or scores=['entropy', "
                "'infomax'] and save_best='infomax'."
            )
        if self.scores is not None:
            return list(self.scores)
        return [s for s in LABEL_FREE_SCORES if paired or s != 'agreement']

    def _score(self, runner: Any) -> dict[str, float]:
        model = unwrapped(runner.model)
        wanted = self._wanted(model)
        network = getattr(model, 'predicting', model)
        other = None
        if 'agreement' in wanted:
            teaches = network is model.teacher
            other = model.student if teaches else model.teacher
        with undisturbed(model), autocast(enabled=self.fp16):
            batches = unlabelled_batches(self._loader(runner), self.max_batches)
            found = score_batches(batches, model.data_preprocessor, network, other)
        return {name: found[name] for name in wanted}

    def _loader(self, runner: Any) -> Any:
        if self.dataloader is None:
            return runner.val_dataloader
        if isinstance(self.dataloader, Mapping):
            # Draws a seed for the sampler, so it is done where states are put back.
            self.dataloader = Runner.build_dataloader(dict(self.dataloader))
        return self.dataloader

    # The best checkpoint

    def _known(
        self, runner: Any, loaded: Sequence[Mapping[str, float]]
    ) -> list[dict[str, float]]:
        """Scores up to here, from the checkpoint and, where it is newer, the file.

        A validation comes after the checkpoint of its iteration.
        """
        path = Path(runner.work_dir) / _FILE
        stored = json.loads(path.read_text()) if path.is_file() else []
        records = {int(r['iter']): dict(r) for r in [*stored, *loaded]}
        return [records[i] for i in sorted(records) if i <= runner.iter]

    def _best(self) -> dict[str, float] | None:
        """The first of the best records."""
        name = self.save_best
        if name is None:
            return None
        usable = [
            r
            for r in self.history
            if not r.get('gone') and math.isfinite(r.get(name, math.nan))
        ]
        if not usable:
            return None
        sign = 1 if LABEL_FREE_SCORES[name] else -1
        return max(usable, key=lambda r: sign * r[name])

    def _keep(self, runner: Any, iteration: int, found: dict[str, float]) -> None:
        """Note the scores; where they are the best, replace the checkpoint."""
        before = self._best()
        self.history = [r for r in self.history if r['iter'] != iteration]
        self.history.append(dict(found, iter=iteration))
        if is_main_process():
            path = Path(runner.work_dir) / _FILE
            path.write_text(json.dumps(self.history))
        wrong = [name for name, value in found.items() if not math.isfinite(value)]
        if wrong:
            runner.logger.warning(
                f'LabelFreeSelectionHook: {wrong} are not finite at iteration '
                f'{iteration}: the predictions hold NaN. They are not compared.'
            )
        best = self._best()
        if best is None or best['iter'] != iteration:
            return
        path = self._path(runner, iteration)
        runner.save_checkpoint(
            str(path.parent),
            path.name,
            meta=dict(epoch=runner.epoch, iter=iteration),
            by_epoch=False,
        )
        if before is not None and before['iter'] != iteration and is_main_process():
            self._path(runner, before['iter']).unlink(missing_ok=True)
        runner.logger.info(
            f'LabelFreeSelectionHook: the best select/{self.save_best} so far, '
            f'{best[str(self.save_best)]:.4f}: {path.name}.'
        )

    def _path(self, runner: Any, iteration: float) -> Path:
        name = f'best_{self.save_best}_iter_{int(iteration)}.pth'
        return Path(runner.work_dir) / name

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Write the scores."""
        checkpoint[_KEY] = [dict(record) for record in self.history]

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Keep the scores until it is known whether this is a resume."""
        self._loaded = checkpoint.get(_KEY)
