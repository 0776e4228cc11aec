"""IoU over the classes of an ontology, whatever the network predicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmseg.evaluation import IoUMetric
from torch import Tensor

from mmseg_xmodal.registry import METRICS
from mmseg_xmodal.structures import DomainOntology

DROPPED = ('ignore', 'false_positive')


@METRICS.register_module()
class OntologyIoUMetric(IoUMetric):
    """mmseg's ``IoUMetric``, averaged over the shared classes of an ontology.

    For a network with more classes than are compared: 19 outputs, evaluated on the 16
    classes of SYNTHIA. Where data set and head have the shared classes themselves
    (``ontology=...`` in the data set), stock ``IoUMetric`` does it.

    A prediction of a class outside of the ontology is wrong wherever it stands. What
    becomes of pixels whose *truth* is such a class is a matter of the protocol:
    ``'ignore'`` leaves them out, as data sets with an ontology do.
    ``'false_positive'`` counts whatever is predicted there against the predicted class:
    so the mean over 19 classes times 19 / 16 is formed, with which DAFormer, HRDA and
    MIC report SYNTHIA.

    Args:
        ontology: A :class:`DomainOntology`, its arguments or its name.
        dropped: See above.
        kwargs: As for mmseg's ``IoUMetric``. With ``format_only`` predictions are
            written as they are, otherwise ``output_dir`` gets shared ids.

    Raises:
        ValueError: If ``dropped`` is another one, or the ontology lacks a class of the
            data set.
    """

    def __init__(
        self,
        ontology: DomainOntology | str | Mapping[str, Any],
        dropped: str = 'ignore',
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.ontology = DomainOntology.build(ontology)
        if dropped not in DROPPED:
            raise ValueError(
                f'OntologyIoUMetric has dropped={dropped!r}, expected one of '
                f'{list(DROPPED)}.'
            )
        self.dropped = dropped

    @property
    def dataset_meta(self) -> dict | None:
        """Metainfo of the data set, with the shared classes as ``classes``."""
        return dict(self._dataset_meta or {}, classes=self.ontology.classes)

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict) -> None:
        self._dataset_meta = dataset_meta

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Count pixels of a batch; see mmengine."""
        if not self.format_only:
            names = (self._dataset_meta or {}).get('classes') or ()
            table = self._table(names)
            data_samples = [self._reduced(sample, table) for sample in data_samples]
        super().process(data_batch, data_samples)

    def _table(self, names: Sequence[str]) -> Tensor:
        """New id of each old one; those outside get the number of shared classes.

        The stock metric does not count ids beyond its classes. Shape: (classes,).
        """
        outside = self.ontology.num_classes
        kept = self.ontology.label_map(names).values()
        return torch.tensor([new if new != 255 else outside for new in kept])

    def _reduced(self, sample: Mapping[str, Any], table: Tensor) -> dict[str, Any]:
        pred, truth = sample['pred_sem_seg'], sample['gt_sem_seg']
        label = truth['data'].long()
        known = label != self.ignore_index
        highest = int(label[known].max()) if bool(known.any()) else 0
        if max(highest, int(pred['data'].max())) >= len(table):
            raise ValueError(
                f'OntologyIoUMetric: {sample.get("img_path")!r} has ids up to '
                f'{highest} and predictions up to {int(pred["data"].max())}, the data '
                f'set {len(table)} classes. Give the head as many, or correct the '
                'classes of the data set.'
            )
        table = table.to(label.device)
        reduced = table[torch.where(known, label, torch.zeros_like(label))]
        left_out = ~known
        if self.dropped == 'ignore':
            left_out = left_out | (reduced == self.ontology.num_classes)
        reduced[left_out] = self.ignore_index
        new = table.to(pred['data'].device)[pred['data'].long()]
        return dict(sample, pred_sem_seg=dict(data=new), gt_sem_seg=dict(data=reduced))
