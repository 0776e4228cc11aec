"""Several data sets in one, for batches that mix them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmcv.transforms import BaseTransform
from mmengine.dataset import BaseDataset, ConcatDataset
from mmengine.structures import BaseDataElement

from mmseg_xmodal.registry import DATASETS


class _TagSource(BaseTransform):
    """Say which data set a sample comes from.

    Args:
        name: Of the data set.
        index: Its place.
    """

    def __init__(self, name: str, index: int) -> None:
        self.name, self.index = name, index

    def transform(self, results: dict) -> dict:
        results['source'], results['source_index'] = self.name, self.index
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.name!r}, {self.index})'


@DATASETS.register_module()
class MultiSourceDataset(ConcatDataset):
    """Data sets one after the other; every sample knows its source.

    mmengine's ``ConcatDataset`` asks for equal metainfo in everything, label map and
    palette included. Here the classes are compared and nothing else: sources may differ
    in folders, modalities, tasks, colours and pipelines. :class:`MultiSourceSampler`
    composes the batches.

    The name and the number of the source stand in ``results['source']`` and
    ``results['source_index']`` when a pipeline starts, and in the metainfo of the
    packed sample. ``metainfo`` is that of the first source, with ``sources``, the
    names, added.

    Args:
        datasets: Configs of the data sets, or the objects: their pipelines get one more
            transform in front.
        names: One name per data set. Defaults to ``'source0'``, ``'source1'``, ...
        allow_different_classes: Whether the class lists may differ: where tasks or
            heads have classes of their own, or labels are mapped later. A data set
            without a list (an unlabelled one) fits to all.
        lazy_init: As in mmengine; data sets given as configs are lazy too.

    Raises:
        TypeError: If an entry of ``datasets`` is no data set.
        ValueError: If class lists differ, or names are missing or used twice.
    """

    def __init__(
        self,
        datasets: Sequence[BaseDataset | dict],
        names: Sequence[str] | None = None,
        allow_different_classes: bool = False,
        lazy_init: bool = False,
    ) -> None:
        if lazy_init:
            datasets = [
                dict(d, lazy_init=True) if isinstance(d, dict) else d for d in datasets
            ]
        built = [DATASETS.build(d) if isinstance(d, dict) else d for d in datasets]
        names = [f'source{i}' for i in range(len(built))] if names is None else names
        self.names = list(names)
        self._check(built)
        leaves = [_leaves(dataset) for dataset in built]
        if not allow_different_classes:
            self._compare_classes(built)
        for index, (name, parts) in enumerate(zip(self.names, leaves, strict=True)):
            for leaf in parts:
                _tag(leaf, name, index)
        self.datasets = built
        self._metainfo = {**built[0].metainfo, 'sources': tuple(self.names)}
        self.ignore_keys: list[str] = []
        self._fully_initialized = False
        if not lazy_init:
            self.full_init()

    def _check(self, built: Sequence[Any]) -> None:
        if not built or not len(self.names) == len(built) == len(set(self.names)):
            raise ValueError(
                f'MultiSourceDataset has {len(built)} data sets and names='
                f'{self.names}, expected at least one, and one name for each, all '
                'different.'
            )

    def _compare_classes(self, built: Sequence[Any]) -> None:
        lists = [
            (name, list(dataset.metainfo['classes']))
            for name, dataset in zip(self.names, built, strict=True)
            if dataset.metainfo.get('classes') is not None
        ]
        for name, classes in lists[1:]:
            first, expected = lists[0]
            if classes != expected:
                raise ValueError(
                    f'The classes of the sources differ: {first!r} has {expected}, '
                    f'{name!r} has {classes}. Give both the same metainfo.classes or '
                    'the same `ontology` (DomainOntology), or, where tasks or heads '
                    'have classes of their own, set allow_different_classes=True.'
                )

    def __getitem__(self, idx: int) -> Any:
        data = super().__getitem__(idx)
        index, _ = self._get_ori_dataset_idx(idx)
        packed = data.get('data_samples') if isinstance(data, dict) else None
        # One sample, or one per view of test-time augmentation. Packers put only the
        # keys that they know into the metainfo.
        for sample in packed if isinstance(packed, list) else [packed]:
            if isinstance(sample, BaseDataElement):
                tag = dict(source=self.names[index], source_index=index)
                sample.set_metainfo(tag)
        return data


def _tag(leaf: Any, name: str, index: int) -> None:
    transforms = leaf.pipeline.transforms
    if any(isinstance(t, _TagSource) for t in transforms):
        raise ValueError(
            f'The {type(leaf).__name__} given as {name!r} is a source already. Give '
            'every source a data set of its own, by config.'
        )
    transforms.insert(0, _TagSource(name, index))


def _leaves(dataset: Any) -> list[Any]:
    """The data sets with a pipeline that a wrapper holds, each once."""
    if hasattr(dataset, 'pipeline'):
        return [dataset]
    inner = getattr(dataset, 'datasets', None)
    if inner is None:
        inner = [dataset.dataset] if hasattr(dataset, 'dataset') else []
    if not inner:
        raise TypeError(
            f'MultiSourceDataset got a {type(dataset).__name__}, expected a data set '
            'of mmengine or a wrapper of one.'
        )
    return [leaf for part in inner for leaf in _leaves(part)]
