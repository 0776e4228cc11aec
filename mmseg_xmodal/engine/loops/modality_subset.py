"""Testing with modalities switched off: what is each of them worth?"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.evaluator import Evaluator
from mmengine.runner import TestLoop
from mmengine.runner.loops import _parse_losses
from prettytable import PrettyTable
from torch import nn
from torch.utils.data import DataLoader

from mmseg_xmodal.registry import LOOPS

# 31 passes; beyond that only the informative subsets run by themselves.
_ALL_SUBSETS_UP_TO = 5
# Where metrics write: those of mmseg, and PseudoLabelWriter.
_FOLDERS = ('output_dir', 'out_dir')


def default_subsets(names: Sequence[str]) -> list[tuple[str, ...]]:
    """List the subsets that are reported when none are asked for.

    Args:
        names: Modalities of the model, in order.

    Returns:
        Every non-empty subset, largest first, of up to five modalities; of more, the
        full set, every one left out, and every one alone.
    """
    count = len(names)
    if count <= _ALL_SUBSETS_UP_TO:
        sizes: Sequence[int] = range(count, 0, -1)
    else:
        sizes = (count, count - 1, 1)
    return [s for size in sizes for s in itertools.combinations(names, size)]


def check_subsets(
    subsets: Sequence[Sequence[str]], names: Sequence[str]
) -> list[tuple[str, ...]]:
    """Bring subsets of a config into the order of the modalities.

    Args:
        subsets: For example ``[['rgb', 'depth'], ['rgb']]``.
        names: Modalities of the model, in order.

    Raises:
        ValueError: If there is no subset, or one is empty, repeated, or names a
            modality that the model does not have.
    """
    where = "test_cfg=dict(type='mmseg_xmodal.ModalitySubsetTestLoop', subsets=...)"
    checked: list[tuple[str, ...]] = []
    for subset in subsets:
        if isinstance(subset, str) or not subset:
            raise ValueError(
                f'{where} got the subset {subset!r}, expected a non-empty list of '
                f'modalities out of {list(names)}, such as [{names[0]!r}].'
            )
        unknown = [name for name in subset if name not in names]
        if unknown:
            raise ValueError(
                f'{where} got {unknown} in the subset {list(subset)}, but the '
                f'modalities of the model are {list(names)}. Correct the name.'
            )
        ordered = tuple(name for name in names if name in subset)
        if ordered in checked:
            raise ValueError(f'{where} got the subset {list(ordered)} twice. Drop one.')
        checked.append(ordered)
    if not checked:
        raise ValueError(f'{where} got no subset. Leave `subsets` out to run them all.')
    return checked


@LOOPS.register_module()
class ModalitySubsetTestLoop(TestLoop):
    """Test once per subset of the modalities.

    A modality outside the subset is masked in the data preprocessor, as if it were
    missing in every sample. Set it in the config, and stock ``test.py`` runs it (with
    ``--tta`` too)::

        test_cfg = dict(type='mmseg_xmodal.ModalitySubsetTestLoop')

    The metrics of a subset are prefixed with its names: ``rgb+depth/mIoU``,
    ``rgb/mIoU``. Predictions that a metric writes into its ``output_dir`` (``--out``)
    or ``out_dir`` (``PseudoLabelWriter``) go to one folder per subset.

    Args:
        runner: The runner.
        dataloader: Test loader, or the dict to build it from.
        evaluator: Evaluator, or the dict or list to build it from.
        fp16: Test under autocast. Defaults to False.
        subsets: Lists of modalities. Defaults to all non-empty subsets of up to five
            modalities; of more, the full set, each left out, and each alone.

    Attributes:
        current_subset: The modalities of the running pass, None outside.

    Raises:
        TypeError: If the model's preprocessor cannot mask modalities.
        ValueError: If ``subsets`` does not fit the modalities.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: DataLoader | dict,
        evaluator: Evaluator | dict | list,
        fp16: bool = False,
        subsets: Sequence[Sequence[str]] | None = None,
    ) -> None:
        super().__init__(runner, dataloader, evaluator, fp16)
        self._preprocessors = _masking_preprocessors(runner.model)
        names = self._preprocessors[0].layout.names
        self.subsets = (
            default_subsets(names) if subsets is None else check_subsets(subsets, names)
        )
        self.current_subset: tuple[str, ...] | None = None

    def run(self) -> dict[str, float]:
        """Test every subset.

        Returns:
            The metrics of all subsets, keyed ``{names}/{metric}``.
        """
        self.runner.call_hook('before_test')
        self.runner.call_hook('before_test_epoch')
        self.runner.model.eval()
        by_subset: dict[str, dict[str, float]] = {}
        began = time.monotonic()
        for done, subset in enumerate(self.subsets):
            self.runner.logger.info(
                f'Modality subset {done + 1}/{len(self.subsets)}: '
                f'{" + ".join(subset)} ({len(self.dataloader)} batches, '
                f'{time.monotonic() - began:.0f} s so far)'
            )
            by_subset['+'.join(subset)] = self._run_subset(subset)
        metrics = {
            f'{label}/{name}': value
            for label, values in by_subset.items()
            for name, value in values.items()
        }
        self.runner.logger.info(f'Modality subsets:\n{subset_table(by_subset)}')
        self.runner.call_hook('after_test_epoch', metrics=metrics)
        self.runner.call_hook('after_test')
        return metrics

    def _run_subset(self, subset: tuple[str, ...]) -> dict[str, float]:
        """Run one pass over the data with the other modalities masked."""
        kept_before = [p.kept_modalities for p in self._preprocessors]
        folders_before = self._enter_output_folders('+'.join(subset))
        self.current_subset = subset
        try:
            for preprocessor in self._preprocessors:
                preprocessor.kept_modalities = set(subset)
            self.test_loss.clear()
            for idx, data_batch in enumerate(self.dataloader):
                self.run_iter(idx, data_batch)
            metrics = self.evaluator.evaluate(len(self.dataloader.dataset))
            if self.test_loss:
                metrics.update(_parse_losses(self.test_loss, 'test'))
            return metrics
        finally:
            self.current_subset = None
            for preprocessor, kept in zip(
                self._preprocessors, kept_before, strict=True
            ):
                preprocessor.kept_modalities = kept
            for metric, name, folder in folders_before:
                setattr(metric, name, folder)

    def _enter_output_folders(self, label: str) -> list[tuple[Any, str, str | Path]]:
        """Point metrics that write predictions to a folder of this subset."""
        before = []
        for metric, name in itertools.product(self.evaluator.metrics, _FOLDERS):
            folder = getattr(metric, name, None)
            if not isinstance(folder, str | Path):
                continue
            before.append((metric, name, folder))
            own = Path(folder) / label
            setattr(metric, name, type(folder)(own))
            if is_main_process():
                own.mkdir(parents=True, exist_ok=True)
        return before


def subset_table(by_subset: dict[str, dict[str, float]]) -> str:
    """Lay out the scalar metrics, one subset a row."""
    columns = list(
        dict.fromkeys(
            name
            for values in by_subset.values()
            for name, value in values.items()
            if isinstance(value, Real)
        )
    )
    table = PrettyTable(['modalities', *columns])
    table.align = 'r'
    table.align['modalities'] = 'l'
    for label, values in by_subset.items():
        cells = [values.get(name) for name in columns]
        table.add_row([label, *('' if c is None else f'{c:.2f}' for c in cells)])
    return table.get_string()


def _masking_preprocessors(model: nn.Module) -> list[Any]:
    """Find the preprocessors that can mask, through any wrapper around the model."""
    found = [m for m in model.modules() if hasattr(m, 'kept_modalities')]
    if not found:
        raise TypeError(
            'ModalitySubsetTestLoop masks modalities in the data preprocessor, but no '
            f'part of the model {type(model).__name__} has `kept_modalities`. Set '
            "model.data_preprocessor=dict(type='mmseg_xmodal.ModalityPreprocessor', "
            'modalities=modalities).'
        )
    return found
