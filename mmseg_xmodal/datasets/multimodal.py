"""A data set of aligned files: one folder and one suffix per modality."""

from __future__ import annotations

import os.path as osp
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from mmengine import fileio
from mmseg.datasets import BaseSegDataset

from mmseg_xmodal.registry import DATASETS
from mmseg_xmodal.structures import DomainOntology, ModalityLayout

from .folders import LABELS, check_keys, folders_of
from .samplers import RareClassIndex, SeededIndex, seeded_rng
from .transforms.sample_source import SampleSource
from .transforms.stack import ModalitiesCfg

_SHOWN = 20


@DATASETS.register_module()
class MultiModalSegDataset(BaseSegDataset):
    """Samples made of one file per modality, all with the same stem.

    ``rgb/train/a/007.png``, ``depth/train/a/007.npy`` and ``labels/train/a/007.png``
    are sample ``a/007`` of ``data_prefix=dict(rgb='rgb/train', depth='depth/train',
    seg_map_path='labels/train')`` and ``suffixes=dict(depth='.npy')``.

    Args:
        modalities: The config's ``modalities``.
        data_prefix: Folder of each modality, by default its name, and, under
            ``seg_map_path``, of the labels: left out or None makes an unlabelled set.
            None for a modality that may be missing says that no sample has it. A named
            data set knows its folders and suffixes (``FOLDERS``, ``SUFFIXES``); what is
            given here replaces them one by one.
        split: Folder inside each of these, such as ``'train'``.
        suffixes: End of the file names by modality, and ``seg_map`` for the labels.
            Defaults to ``'.png'`` for those left out. Two modalities may share a folder
            (``'_nir.png'`` beside ``'_rgb.png'``).
        ann_file: Text file with one stem per line (a named data set may read more
            than that, see :meth:`stem_of_line`). Defaults to every stem found.
        ontology: Makes the data set's classes those of a :class:`DomainOntology`, given
            as the object, its arguments or its name (``'synthia16'``).
        kwargs: As for mmseg's ``BaseSegDataset`` (``data_root``, ``metainfo``,
            ``pipeline``, ``ignore_index``, ``reduce_zero_label``, ...).

    Raises:
        FileNotFoundError: If folders or files are missing: all of them in one error. A
            modality with ``may_be_missing=True`` may lack files, but not all of them;
            its path is None then.
        ValueError: If ``data_prefix`` or ``suffixes`` have unknown or missing keys, a
            required modality has no folder, or the ontology does not know a class.
    """

    FOLDERS: ClassVar[Mapping[str, str]] = {}
    SUFFIXES: ClassVar[Mapping[str, str]] = {}
    label_map: dict[int, int] | None

    def __init__(
        self,
        modalities: ModalitiesCfg,
        data_prefix: Mapping[str, str | None] | None = None,
        split: str = '',
        suffixes: Mapping[str, str] | None = None,
        ontology: DomainOntology | str | Mapping[str, Any] | None = None,
        lazy_init: bool = False,
        **kwargs: Any,
    ) -> None:
        self.layout = ModalityLayout.build(modalities)
        prefix, suffixes = dict(data_prefix or {}), dict(suffixes or {})
        check_keys('data_prefix', prefix, self.layout, LABELS)
        folders = folders_of(self.layout, {**self.FOLDERS, **prefix})
        check_keys('suffixes', suffixes, self.layout, 'seg_map')
        suffixes = {**self.SUFFIXES, **suffixes}
        self._nowhere: set[str] = set()
        prefixes = {k: osp.join(p, split) if split else p for k, p in folders.items()}
        self.suffixes = {n: suffixes.get(n, '.png') for n in self.layout.names}
        self.suffixes[LABELS] = suffixes.get('seg_map', '.png')
        prefixes |= self._further_prefixes(split)
        super().__init__(
            data_prefix=prefixes,
            seg_map_suffix=self.suffixes[LABELS],
            lazy_init=True,
            **kwargs,
        )
        if ontology is not None:
            self._adopt(DomainOntology.build(ontology))
        # mmseg's confusion_matrix.py looks here, also for classes of the config. To
        # type checkers it is a variable of the class, which subclasses set.
        self.__dict__['METAINFO'] = self._metainfo
        if not lazy_init:
            self.full_init()

    def _adopt(self, ontology: DomainOntology) -> None:
        """Take the classes of an ontology in the place of the own ones."""
        own = self._metainfo.get('classes')
        if own is None or self.label_map is not None:
            raise ValueError(
                f'{type(self).__name__} got an ontology and metainfo.classes={own}, '
                'expected the classes of the label files, all of them. Give '
                'metainfo=dict(classes=[...]) to a data set without own ones, and '
                'leave it out otherwise.'
            )
        self.label_map = ontology.label_map(own)
        self._metainfo.update(ontology.metainfo, label_map=self.label_map)

    def _further_prefixes(self, split: str) -> dict[str, str]:
        """What a subclass pairs besides modalities and labels, with its suffixes."""
        return {}

    @property
    def _main(self) -> str:
        """The modality whose path stock hooks and metrics read as ``img_path``."""
        there = [m for m in self.layout if m.name in self.data_prefix]
        colour = [m.name for m in there if m.order is not None]
        return (colour or [m.name for m in there])[0]

    def load_data_list(self) -> list[dict]:
        """Pair the files of all modalities.

        Returns:
            One dict per sample, sorted by stem: ``img_path``, ``modality_paths``,
            ``seg_map_path`` (where labelled), ``label_map``, ``reduce_zero_label``,
            ``seg_fields``, ``num_classes``, ``ignore_index``.

        Raises:
            FileNotFoundError: See the class.
        """
        found = {key: self._stems(key) for key in self.data_prefix}
        stems = self._wanted_stems(found)
        self._check_complete(stems, found)
        return [self._data_info(stem, found) for stem in stems]

    def _stems(self, key: str) -> set[str]:
        """Stems that have a file for ``key``; empty where the folder is missing."""
        folder, suffix = self.data_prefix[key], self.suffixes[key]
        if not fileio.isdir(folder, backend_args=self.backend_args):
            return set()
        # Where '_nir.png' and '.png' share a folder, the longer suffix owns the file.
        longer = tuple(
            self.suffixes[other]
            for other, path in self.data_prefix.items()
            if path == folder
            and len(self.suffixes[other]) > len(suffix)
            and self.suffixes[other].endswith(suffix)
        )
        files = fileio.list_dir_or_file(
            folder,
            list_dir=False,
            suffix=suffix,
            recursive=True,
            backend_args=self.backend_args,
        )
        return {
            f[: -len(suffix)] for f in files if not longer or not f.endswith(longer)
        }

    def _wanted_stems(self, found: Mapping[str, set[str]]) -> list[str]:
        if not self.ann_file:
            return sorted(set().union(*found.values()))
        if not fileio.isfile(self.ann_file, backend_args=self.backend_args):
            raise FileNotFoundError(
                f'ann_file {self.ann_file!r} does not exist, expected a text file with '
                "one stem per line. Correct ann_file, or leave it at '' to take every "
                'file found.'
            )
        text = fileio.get_text(self.ann_file, backend_args=self.backend_args)
        return [self.stem_of_line(line) for line in text.splitlines() if line.strip()]

    def stem_of_line(self, line: str) -> str:
        """Stem that a line of ``ann_file`` names: all of it."""
        return line.strip()

    def _check_complete(
        self, stems: Sequence[str], found: Mapping[str, set[str]]
    ) -> None:
        """List everything that is missing in one error."""
        self._nowhere = {key for key in found if not found[key] & set(stems)}
        required = [k for k in found if not self._may_lack(k)]
        missing = {k: [s for s in stems if s not in found[k]] for k in required}
        modalities = found.keys() & set(self.layout.names)
        if not modalities & set(required):
            some = set().union(*(found[name] for name in modalities))
            missing[self._main] = [s for s in stems if s not in some]
        missing = {key: lacking for key, lacking in missing.items() if lacking}
        if stems and not missing:
            return
        lines = [self._folder_line(key, found[key]) for key in found]
        if stems:
            counts = ', '.join(f'{key} {len(lack)}' for key, lack in missing.items())
            paths = sorted(
                self._path(k, s) for k, lack in missing.items() for s in lack
            )
            lines.append(f'Missing files ({counts}), first {_SHOWN} of {len(paths)}:')
            lines += [f'  {path}' for path in paths[:_SHOWN]]
            head = f'{len(paths)} files are missing for {len(stems)} samples.'
        else:
            head = 'No sample was found.'
        raise FileNotFoundError(
            '\n'.join([f'{type(self).__name__}: {head}', *lines, self._remedy()])
        )

    def _may_lack(self, key: str) -> bool:
        """Whether samples may lack the file of ``key``.

        What no sample at all has is a wrong path.
        """
        return self._is_optional(key) and key not in self._nowhere

    def _is_optional(self, key: str) -> bool:
        return key != LABELS and self.layout[key].may_be_missing

    def _folder_line(self, key: str, stems: set[str]) -> str:
        folder, suffix = self.data_prefix[key], self.suffixes[key]
        line = f'  {key}: {len(stems)} files *{suffix} in {folder}'
        if not fileio.isdir(folder, backend_args=self.backend_args):
            return f'{line} (this folder does not exist)'
        if not stems:
            files = fileio.list_dir_or_file(
                folder, list_dir=False, recursive=True, backend_args=self.backend_args
            )
            others = sorted({osp.splitext(f)[1] for f in files})
            return f'{line} (suffixes there: {others})'
        return line

    def _remedy(self) -> str:
        return (
            'Correct data_root, data_prefix or suffixes, add the files, list the '
            'complete samples in ann_file, or, for a modality that samples may lack, '
            'set modalities[name][may_be_missing]=True; for one of these that no '
            'sample of this data set has, data_prefix=dict(NAME=None).'
        )

    def _path(self, key: str, stem: str) -> str:
        return osp.join(self.data_prefix[key], stem + self.suffixes[key])

    def _data_info(self, stem: str, found: Mapping[str, set[str]]) -> dict:
        paths = {
            name: self._path(name, stem) if stem in found.get(name, ()) else None
            for name in self.layout.names
        }
        first = paths[self._main] or next(p for p in paths.values() if p is not None)
        info = dict(
            img_path=first,
            modality_paths=paths,
            label_map=self.label_map,
            reduce_zero_label=self.reduce_zero_label,
            seg_fields=[],
            ignore_index=self.ignore_index,
        )
        if LABELS in self.data_prefix:
            info[LABELS] = self._path(LABELS, stem)
        if self._metainfo.get('classes') is not None:
            info['num_classes'] = len(self._metainfo['classes'])
        return info

    def get_data_info(self, idx: int) -> dict:
        """Return the sample's paths, with the layout for ``LoadModalities``.

        ``rare_class`` is the class that a ``RareClassSampler`` drew the sample for.
        ``sample_source`` gives transforms that mix samples the others.
        """
        info = super().get_data_info(int(idx))
        if isinstance(idx, RareClassIndex):
            info['rare_class'] = idx.rare_class
        info['modality_layout'] = self.layout
        info['sample_source'] = SampleSource(self)
        return info

    def prepare_data(self, idx: int) -> Any:
        """Load one sample, under its own seed where the sampler gave one.

        Args:
            idx: Position; a :class:`SeededIndex` carries the seed of the augmentation.
        """
        if not isinstance(idx, SeededIndex):
            return self._run_pipeline(idx)
        with seeded_rng(idx.seed):
            position: int = idx
            for _ in range(self.max_refetch + 1):
                data = self._run_pipeline(position)
                if data is not None or self.test_mode:
                    break
                # Drawn here, so that the substitute depends on the seed too.
                position = self._rand_another()
        return data

    def _run_pipeline(self, position: int) -> Any:
        try:
            return super().prepare_data(position)
        except FileNotFoundError:
            raise
        except (OSError, SyntaxError) as error:
            if getattr(error, 'errno', None) is not None:
                raise  # the system's: no permission, too many open files
            # Pillow's words, without the path. LoadModalities names its files itself.
            info = self.get_data_info(position)
            raise ValueError(
                f'A file of the sample {info["img_path"]!r} cannot be decoded, most '
                f'likely its labels {info.get(LABELS)!r}: {error}. Write the file '
                'again, or leave its stem out of ann_file.'
            ) from error
