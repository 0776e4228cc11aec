"""IoU of each domain of a test set that mixes several."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.logging import print_log
from mmseg.evaluation import IoUMetric

from mmseg_xmodal.registry import METRICS
from mmseg_xmodal.structures import DomainOntology

from .task_metric import mean_known

_KEYS = ('domain', 'source')
_MEANS: dict[str, Callable[[list[float]], float]] = {
    'mean': statistics.fmean,
    'harmonic': statistics.harmonic_mean,
}
_STOCK = {'aAcc', 'mIoU', 'mAcc', 'mDice', 'mFscore', 'mPrecision', 'mRecall'}


@METRICS.register_module()
class DomainIoUMetric(IoUMetric):
    """mmseg's ``IoUMetric``, one set of results for each domain of the samples.

    A domain is what the samples' metainfo says: the name of the part in a
    ``MultiSourceDataset``, the condition of ACDC. Its results are those that the stock
    metric gives on its samples alone, named ``<domain>/mIoU`` and so on.

    Args:
        key: Entry of the metainfo that names the domain, such as ``'condition'``.
            Defaults to ``'domain'``, and ``'source'`` where that is missing.
        classes_for: Further means over some classes, name to their names, or to that
            of an ontology: ``{'mIoU13': 'synthia13'}``. The IoU of a class is the one
            among all classes: a pixel of a class that is left out counts against
            whatever is predicted there. ``OntologyIoUMetric`` can ignore such pixels.
        across: ``'mean'`` or ``'harmonic'``: this mean over the domains as well, of
            the mIoU and of the means above, named ``mean/mIoU`` and so on.
        per_class: Whether ``<domain>/IoU.<class>`` are results too, NaN for a class
            that is neither there nor predicted.
        kwargs: As for mmseg's ``IoUMetric``.

    Raises:
        ValueError: If an argument cannot be used; on evaluation, if a sample has no
            domain or the data set lacks a class.
    """

    def __init__(
        self,
        key: str | None = None,
        classes_for: Mapping[str, str | Sequence[str]] | None = None,
        across: str | None = None,
        per_class: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        taken = sorted(_STOCK.intersection(classes_for or {}))
        if taken or across not in (None, *_MEANS):
            raise ValueError(
                f'DomainIoUMetric has across={across!r} and classes_for with the names '
                f'{list(classes_for or {})}, expected one of {list(_MEANS)} or None, '
                f'and names other than {sorted(_STOCK)}.'
            )
        self.keys = _KEYS if key is None else (key,)
        self.classes_for = {
            name: DomainOntology.build(kept).classes if isinstance(kept, str) else kept
            for name, kept in (classes_for or {}).items()
        }
        self.across, self.per_class = across, per_class

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Count pixels of a batch; see mmengine."""
        for sample in data_samples:
            counted = len(self.results)
            super().process(data_batch, [sample])
            if len(self.results) > counted:
                self.results[-1] = (self._domain_of(sample), self.results[-1])

    def _domain_of(self, sample: Mapping[str, Any]) -> str:
        for key in self.keys:
            if sample.get(key) is not None:
                return str(sample[key])
        raise ValueError(
            f'DomainIoUMetric: {sample.get("img_path")!r} has none of {self.keys} in '
            'its metainfo. Put the test sets into mmseg_xmodal.MultiSourceDataset('
            'names=[...]), or name the entry: key=..., and keep it by '
            'PackXModalInputs(extra_meta_keys=[...]).'
        )

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Results of the whole data set; see mmengine."""
        if self.format_only:
            return super().compute_metrics(results)
        by_domain: dict[str, list] = {}
        for domain, areas in results:
            by_domain.setdefault(domain, []).append(areas)
        if self.across in by_domain:
            raise ValueError(
                f'DomainIoUMetric has across={self.across!r}, which is the name of a '
                'domain too. Give the domain another name.'
            )
        found = {name: self._of_domain(name, own) for name, own in by_domain.items()}
        if self.across is not None:
            names = ['mIoU', *self.classes_for]
            found[self.across] = {
                name: self._mean([own[name] for own in found.values()])
                for name in names
                if all(name in own for own in found.values())
            }
        return {
            f'{domain}/{name}': value
            for domain, own in found.items()
            for name, value in own.items()
        }

    def _mean(self, values: list[float]) -> float:
        assert self.across is not None
        if any(np.isnan(values)):
            return float('nan')
        return round(_MEANS[self.across](values), 2)

    def _of_domain(self, domain: str, results: list) -> dict[str, float]:
        print_log(f'{len(results)} samples of {domain!r}:', logger='current')
        found = {k: float(v) for k, v in super().compute_metrics(results).items()}
        intersection = sum(areas[0] for areas in results).numpy()
        union = sum(areas[1] for areas in results).numpy()
        with np.errstate(invalid='ignore', divide='ignore'):
            iou = 100 * intersection / union
        if self.nan_to_num is not None:
            iou = np.nan_to_num(iou, nan=100 * self.nan_to_num)
        classes = list((self.dataset_meta or {})['classes'])
        for name, kept in self.classes_for.items():
            lost = [c for c in kept if c not in classes]
            if lost or not kept:
                raise ValueError(
                    f'DomainIoUMetric: classes_for[{name!r}] names '
                    f'{lost or "nothing"}, expected classes of the data set: '
                    f'{classes}.'
                )
            found[name] = round(mean_known([iou[classes.index(c)] for c in kept]), 2)
        if self.per_class:
            pairs = zip(classes, iou.tolist(), strict=True)
            found |= {f'IoU.{name}': round(value, 2) for name, value in pairs}
        return found
