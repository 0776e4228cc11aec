"""Which images of a batch belong to which domain."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.logging import print_log
from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_xmodal.structures import stored_labels

from ..adaptation.base import DomainBatch

DOMAINS = ('source', 'target')
# Where pseudo-labels may be made, and such from files; no truth.
_KEPT = ('gt_pseudo_valid', stored_labels.KEY)


class DomainSplitter:
    """Splits batches into source and target, and takes the truth off the target.

    The domain of a sample is, in this order: its metainfo ``domain`` (``'source'`` or
    ``'target'``); what ``domains`` says about its data set, named in the metainfo
    ``source`` by ``MultiSourceDataset``; a data set of the name ``'source'`` or
    ``'target'``; the first data set is the source, every other one a target.

    Args:
        domains: Name of a data set to its domain.

    Raises:
        ValueError: If a value of ``domains`` is no domain.
    """

    def __init__(self, domains: Mapping[str, str] | None = None) -> None:
        self.domains = dict(domains or {})
        self._warned = False
        wrong = sorted(set(self.domains.values()) - set(DOMAINS))
        if wrong:
            raise ValueError(
                f'domains={self.domains} has the values {wrong}, expected '
                f'{list(DOMAINS)}. Correct domains in the model.'
            )

    def domain_of(self, sample: SegDataSample) -> str:
        """Domain of a sample.

        Raises:
            ValueError: If nothing says it, or ``domains`` leaves its data set out.
        """
        meta: Mapping[str, Any] = sample.metainfo
        named, name = meta.get('domain'), meta.get('source')
        if named is None:
            named = self.domains.get(str(name), None if self.domains else name)
        if named in DOMAINS:
            return named
        index = meta.get('source_index')
        if 'domain' in meta or self.domains or index is None:
            raise ValueError(
                f'The domain of {meta.get("img_path")!r} is unknown: its metainfo has '
                f'domain={meta.get("domain")!r}, source={name!r}, the model domains='
                f'{self.domains}. Put the data sets into mmseg_xmodal.'
                "MultiSourceDataset(names=['source', 'target']), or give every name in "
                'domains of the model.'
            )
        return 'target' if index else 'source'

    def __call__(
        self, inputs: Tensor, samples: Sequence[SegDataSample]
    ) -> tuple[DomainBatch, DomainBatch]:
        """Source and target of a batch.

        Shape:
            - inputs: (B, C, H, W)

        Raises:
            ValueError: If a domain is absent.
        """
        places: dict[str, list[int]] = {domain: [] for domain in DOMAINS}
        for i, sample in enumerate(samples):
            places[self.domain_of(sample)].append(i)
        absent = [domain for domain in DOMAINS if not places[domain]]
        if absent:
            raise ValueError(
                f'A batch of {len(samples)} images has none of the {absent[0]} domain. '
                "Set train_dataloader.sampler=dict(type='mmseg_xmodal."
                "MultiSourceSampler', batch_size=..., source_ratio=[1, 1])."
            )
        source, target = (
            DomainBatch(_select(inputs, places[d]), [samples[i] for i in places[d]])
            for d in DOMAINS
        )
        target.samples = [self._without_truth(s) for s in target.samples]
        return source, target

    def _without_truth(self, sample: SegDataSample) -> SegDataSample:
        fields = {key: value for key, value in sample.items() if _is_kept(key)}
        if len(fields) < len(sample.keys()) and not self._warned:
            self._warned = True
            print_log(
                f'The target {sample.get("img_path")!r} carries '
                f'{sorted(set(sample.keys()) - set(fields))}. Truth of the target is '
                'never used: it is taken off here. (Said once.)',
                logger='current',
                level=logging.WARNING,
            )
        bare = type(sample)(metainfo=sample.metainfo)
        bare.set_data(fields)
        return bare


def _is_kept(key: str) -> bool:
    return not key.startswith(('gt_', 'ignored_')) or key in _KEPT


def _select(inputs: Tensor, places: Sequence[int]) -> Tensor:
    first, last = places[0], places[-1]
    if list(places) == list(range(first, last + 1)):
        return inputs[first : last + 1]
    return inputs[list(places)]
