"""Which samples of a batch belong to which domain's head."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from mmseg.structures import SegDataSample
from torch import Tensor

Places = dict[str, list[int]]


class DomainRouter:
    """Knows the domain of a sample from its metainfo.

    It is the metainfo ``domain``, else the name of the data set that
    ``MultiSourceDataset`` puts at ``source``; ``domains`` turns either into the name of
    a head, unless it is one. What has neither and no ``img_path`` was made within a
    step, such as a pseudo-labelled image, and is of the default domain.

    Args:
        heads: Domains that have a head.
        domains: Name of a data set, or of a domain in the data, to one of ``heads``.

    Raises:
        ValueError: If ``domains`` names a domain without a head.
    """

    def __init__(
        self, heads: Sequence[str], domains: Mapping[str, str] | None = None
    ) -> None:
        self.heads, self.domains = list(heads), dict(domains or {})
        unknown = sorted(set(self.domains.values()) - set(heads))
        if unknown:
            raise ValueError(
                f'domains={self.domains} leads to {unknown}, which has no head: '
                f'decode_heads has {self.heads}. Make both agree in the model.'
            )

    def domain_of(self, meta: Mapping[str, Any], default: str) -> str:
        """Domain of a sample.

        Raises:
            ValueError: If it is unknown, or has no head.
        """
        name = meta.get('domain')
        name = meta.get('source') if name is None else name
        if name is None and 'img_path' not in meta:
            return default
        found = None if name is None else self.domains.get(name, name)
        if found in self.heads:
            return found
        what = f'names {name!r}'
        if name is None:
            what = "has neither 'domain' nor 'source'"
        raise ValueError(
            f'The domain of {meta.get("img_path")!r} is unknown: its metainfo {what}, '
            f'decode_heads has {self.heads}, domains has {sorted(self.domains)}. Name '
            'the data sets in mmseg_xmodal.MultiSourceDataset(names=[...]) as the '
            'heads, or map their names in domains of the model; for prediction alone, '
            'predict_domain may name a head.'
        )

    def places(self, metas: Iterable[Mapping[str, Any]], default: str) -> Places:
        """Places in the batch of each domain's samples, domains in order of the heads.

        Domains without a sample are left out.
        """
        found = [self.domain_of(meta, default) for meta in metas]
        places = {d: [i for i, f in enumerate(found) if f == d] for d in self.heads}
        return {domain: own for domain, own in places.items() if own}


def check_labels(
    samples: Sequence[SegDataSample], places: Places, heads: Mapping[str, Any]
) -> None:
    """Compare labels with the number of classes of the domain's head.

    Raises:
        ValueError: If a sample has no labels, or a class that its head does not have.
    """
    chosen = [(d, samples[i]) for d, own in places.items() for i in own]
    highest = []
    for domain, sample in chosen:
        if 'gt_sem_seg' not in sample:
            raise ValueError(
                f'{sample.get("img_path")!r} of the domain {domain!r} has no '
                'gt_sem_seg, expected labels for every training image. Put '
                'LoadAnnotations into the pipeline of its data set.'
            )
        label = sample.gt_sem_seg.data
        ignored = label == getattr(heads[domain], 'ignore_index', 255)
        highest.append(label.masked_fill(ignored, 0).max().long())
    # One look at the device for the whole batch.
    values = torch.stack(highest).tolist()
    for (domain, sample), value in zip(chosen, values, strict=True):
        head = heads[domain]
        count = max(head.num_classes, 2 if head.out_channels == 1 else 0)
        if value >= count:
            raise ValueError(
                f'The labels of {sample.get("img_path")!r} hold the class {value}, '
                f'the head of its domain {domain!r} has num_classes='
                f'{head.num_classes}. Give decode_heads[{domain!r}] the number of '
                'classes of this data set, or correct domains in the model.'
            )


def tensors_in(maps: Any) -> Iterator[Tensor]:
    """All tensors of a nest of tuples, lists and dicts."""
    if isinstance(maps, Tensor):
        yield maps
    elif isinstance(maps, Mapping | list | tuple):
        values = maps.values() if isinstance(maps, Mapping) else maps
        for value in values:
            yield from tensors_in(value)


def scaled(terms: Mapping[str, Any], weight: float) -> dict[str, Any]:
    """Losses times a factor; what is only logged stays."""
    out: dict[str, Any] = {}
    for name, value in terms.items():
        if weight == 1 or 'loss' not in name:
            out[name] = value
        else:
            many = isinstance(value, list | tuple)
            out[name] = [v * weight for v in value] if many else value * weight
    return out
