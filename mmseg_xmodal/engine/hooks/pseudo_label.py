"""The hook that shows pseudo-labels: panels, shares, and their drift."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.visualization import LocalVisBackend

from mmseg_xmodal.models.adaptation.class_mix import ClassMixSelfTraining
from mmseg_xmodal.registry import HOOKS
from mmseg_xmodal.visualization import default_palette, save_panel
from mmseg_xmodal.visualization.drift import plot_drift
from mmseg_xmodal.visualization.mix_panels import mix_panel

from ..unwrap import unwrapped
from .pseudo_label_watch import Census, PseudoLabelWatch, class_names

_KEY = 'pseudo_label_hook'
# Stands for the iteration of an entry that is not finished.
_OPEN = -1


@HOOKS.register_module()
class PseudoLabelHook(Hook):
    """Shows what a self-training model teaches itself.

    Writes to ``<work_dir>/pseudo_labels/``:

    * ``iter_N.png``, every ``interval`` iterations: source, target, mixed image, mixed
      label, pseudo-label and weight of the last step;
    * ``drift.png``, at the same time and at the end: the share of each class in the
      pseudo-labels and that of sure pixels over the iterations, with the shares in the
      source; ``drift.json`` has the numbers.

    Panels also go to the back ends of the visualizer that are no local folder, and the
    shares, as ``pseudo_labels/share/<class>`` and ``pseudo_labels/sure``, to all. The
    main process draws; counts are those of all processes. The history is in the
    checkpoint, a resumed run continues the curves.

    Args:
        interval: Iterations from one panel to the next.
        log_interval: Iterations from one log entry, and point of the curves, to the
            next.
        measure_interval: Iterations from one count to the next; log entries are the
            means since the last one. Divides ``log_interval``.
        num_pairs: Pairs of images in a panel.
        term: Name of the ``ClassMixSelfTraining`` whose mix is drawn, where there are
            several.

    Raises:
        ValueError: If an argument cannot be used, or, when training starts, the model
            has no ``ClassMixSelfTraining``, or none of that name.
    """

    # Before random states are taken and checkpoints written.
    priority = 'NORMAL'

    def __init__(
        self,
        interval: int = 1000,
        log_interval: int = 50,
        measure_interval: int = 10,
        num_pairs: int = 2,
        term: str | None = None,
    ) -> None:
        positive = min(interval, log_interval, measure_interval, num_pairs) > 0
        if not positive or log_interval % measure_interval:
            raise ValueError(
                f'PseudoLabelHook has interval={interval}, log_interval={log_interval},'
                f' measure_interval={measure_interval}, num_pairs={num_pairs}, expected'
                ' 1 or more, and a log_interval that measure_interval divides.'
            )
        self.interval, self.log_interval = interval, log_interval
        self.measure_interval, self.num_pairs = measure_interval, num_pairs
        self.term = term
        self.history: list[tuple[int, Census]] = []
        self._since: Census | None = None
        self._plotted = 0
        self._loaded: dict[str, Any] | None = None
        self._watch: PseudoLabelWatch | None = None
        self._mixer: Any = None

    def before_train(self, runner: Any) -> None:
        """Find the term, and continue the curves of the checkpoint."""
        model = unwrapped(runner.model)
        self._mixer = self._find(model)
        self._watch = PseudoLabelWatch(model, type(self).__name__)
        loaded, self._loaded = self._loaded, None
        self.history, self._since, self._plotted = [], None, 0
        if runner.iter == 0:  # load_from starts anew, a resume goes on
            return
        if loaded is None:
            runner.logger.warning(
                'PseudoLabelHook: the checkpoint was written without this hook, so the '
                'curves start here.'
            )
            return
        for number, pseudo, source, sure in zip(
            loaded['iterations'].tolist(),
            loaded['pseudo'].cpu(),
            loaded['source'].cpu(),
            loaded['sure'].tolist(),
            strict=True,
        ):
            self.history.append((number, Census(pseudo, source, sure)))
        if self.history and self.history[-1][0] == _OPEN:
            self._since = self.history.pop()[1]

    def _find(self, model: Any) -> ClassMixSelfTraining:
        terms = getattr(model, 'terms', ())
        found = {t.name: t for t in terms if isinstance(t, ClassMixSelfTraining)}
        if not found or self.term not in (None, *found):
            raise ValueError(
                f'PseudoLabelHook(term={self.term!r}): the model '
                f'{type(model).__name__} has the terms {[t.name for t in terms]}, of '
                f'which {list(found)} mix images, expected one of these. Add '
                "dict(type='mmseg_xmodal.ClassMixSelfTraining') to terms, correct the "
                'name, or take the hook out of custom_hooks.'
            )
        return found[next(iter(found)) if self.term is None else self.term]

    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Ask for what this iteration is to show."""
        assert self._watch is not None
        self._watch.wanted = self.every_n_train_iters(runner, self.measure_interval)
        due = self.every_n_train_iters(runner, self.interval)
        self._mixer.keep_last = due and is_main_process()

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Count, log and draw."""
        assert self._watch is not None
        if self._watch.wanted:
            census = self._watch.take()
            self._since = census if self._since is None else self._since + census
        if self._since is not None and self.every_n_train_iters(
            runner, self.log_interval
        ):
            self.history.append((runner.iter + 1, self._since))
            self._log(runner, self._since)
            self._since = None
        if self._mixer.last_mix is not None:
            self._draw(runner)
            self._plot(runner)

    def after_train(self, runner: Any) -> None:
        """Draw the curves, and leave the model alone."""
        self._plot(runner)
        if self._watch is not None:
            self._watch.remove()
            self._watch = None

    def _log(self, runner: Any, census: Census) -> None:
        if not is_main_process():
            return
        shares = census.shares.tolist()
        names = class_names(runner, len(shares))
        scalars = {
            f'pseudo_labels/share/{name}': share
            for name, share in zip(names, shares, strict=True)
        }
        if math.isfinite(census.sure_share):  # JSON has no NaN
            scalars['pseudo_labels/sure'] = census.sure_share
        runner.visualizer.add_scalars(scalars, step=runner.iter + 1)
        shown = '  '.join(f'{k}: {v:.2%}' for k, v in zip(names, shares, strict=True))
        runner.logger.info(
            f'Iter {runner.iter + 1}  pseudo-labels: {census.sure_share:.2%} sure; '
            f'shares of the classes: {shown}'
        )

    def _draw(self, runner: Any) -> None:
        mix, self._mixer.last_mix = self._mixer.last_mix, None
        self._mixer.keep_last = False
        model = unwrapped(runner.model)
        names, palette = self._meta(runner, _num_classes(model))
        panel = mix_panel(mix, model.data_preprocessor, names, palette, self.num_pairs)
        save_panel(self._folder(runner) / f'iter_{runner.iter + 1}.png', panel)
        for backend in runner.visualizer._vis_backends.values():
            if not isinstance(backend, LocalVisBackend):
                backend.add_image('pseudo_labels', panel, step=runner.iter + 1)

    def _plot(self, runner: Any) -> None:
        """Write the curves and their numbers."""
        if len(self.history) == self._plotted or not is_main_process():
            return
        self._plotted = len(self.history)
        iterations = [i for i, _ in self.history]
        shares = torch.stack([c.shares for _, c in self.history]).numpy()
        sure = np.array([c.sure_share for _, c in self.history])
        total = self.history[0][1]
        for _, census in self.history[1:]:
            total = total + census
        source = total.source_shares.numpy()
        names, palette = self._meta(runner, len(source))
        folder = self._folder(runner)
        plot_drift(
            folder / 'drift.png', iterations, shares, source, sure, names, palette
        )
        numbers = dict(
            classes=names,
            iterations=iterations,
            shares=shares.tolist(),
            sure=[value if math.isfinite(value) else None for value in sure.tolist()],
            source_shares=source.tolist(),
        )
        (folder / 'drift.json').write_text(json.dumps(numbers))

    @staticmethod
    def _folder(runner: Any) -> Path:
        folder = Path(runner.work_dir) / 'pseudo_labels'
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @staticmethod
    def _meta(runner: Any, count: int) -> tuple[list[str], Any]:
        """Names and colours of the classes."""
        meta = getattr(runner.train_dataloader.dataset, 'metainfo', None) or {}
        palette = meta.get('palette') or ()
        if len(palette) != count:
            palette = default_palette(count)
        return class_names(runner, count), palette

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Write the history, and what was counted since its last entry."""
        entries = list(self.history)
        if self._since is not None:
            entries.append((_OPEN, self._since))
        if entries:
            numbers, parts = zip(*entries, strict=True)
            checkpoint[_KEY] = dict(
                iterations=torch.tensor(numbers),
                pseudo=torch.stack([c.pseudo for c in parts]),
                source=torch.stack([c.source for c in parts]),
                sure=torch.tensor([c.sure for c in parts], dtype=torch.float64),
            )

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Keep the history until it is known whether this is a resume."""
        self._loaded = checkpoint.get(_KEY)


def _num_classes(model: Any) -> int:
    """One channel of a binary head says two classes."""
    return max(int(model.out_channels), 2)
