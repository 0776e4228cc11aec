"""Write a model's predictions as labels to train on, the surest of each class.

Paper: FDA, Yang and Soatto, CVPR 2020, https://arxiv.org/abs/2004.05498; the rule of a
threshold for each class is that of its self-training. The official code has no licence
and was not opened; written from a description. Clean room, nothing copied.

Difference: confidences are kept in 1/65535, so thresholds are exact to that.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from mmseg_xmodal.models.layers.logit_probabilities import class_probabilities
from mmseg_xmodal.progress import slow_progress
from mmseg_xmodal.registry import METRICS
from mmseg_xmodal.structures.stored_labels import label_path

_LEVELS = 65535
_IGNORED = 255
_RAW = '.pseudo_label_raw'
_MARK = 'made_by_PseudoLabelWriter'


@METRICS.register_module()
class PseudoLabelWriter(BaseMetric):
    """Offline pseudo-labels, written by stock ``test.py`` as its ``test_evaluator``.

    A class keeps its surest pixels: those at or above the confidence that ``drop`` of
    them stay below, and at least all above ``cap``. The others become 255. Labels have
    the size of the image file; ``LoadPseudoLabels`` reads them. Images that were
    written before are written again, and what a killed run left in
    ``.pseudo_label_raw`` is removed. Several processes must share the folder.

    Args:
        out_dir: Receives ``<path below img_root>.png``, and ``thresholds.json`` beside
            them. Labels and confidences of all pixels lie in
            ``out_dir/.pseudo_label_raw`` until the thresholds are known: 24 bit a
            pixel.
        img_root: Folder of the images, another one than ``out_dir``.
        drop: Share of a class's pixels that is left out, in [0, 1): 0.66 as published.
        cap: Confidence in [0, 1] that always suffices: 0.9 as published.
        scores: Whether the head gives scores, not logits (Mask2Former).
        collect_device: See mmengine.
        prefix: Of the results, the share of pixels that is kept. Defaults to
            ``'pseudo'``.

    Shape:
        - files: (H, W) uint8, class ids, 255 = unsure

    Raises:
        ValueError: If a number lies outside of its range, ``out_dir`` is ``img_root``
            or has a ``.pseudo_label_raw`` of someone else, there are more than 255
            classes, or an image does not lie in ``img_root``.
    """

    default_prefix = 'pseudo'

    def __init__(
        self,
        out_dir: str,
        img_root: str,
        drop: float = 0.66,
        cap: float = 0.9,
        scores: bool = False,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if not (0 <= drop < 1 and 0 <= cap <= 1):
            raise ValueError(
                f'PseudoLabelWriter has drop={drop} and cap={cap}, expected a share in '
                '[0, 1) and a confidence in [0, 1].'
            )
        self.out_dir, self.img_root = Path(out_dir), img_root
        self.drop, self.cap, self.scores = drop, cap, scores
        self._check_out_dir()

    @property
    def _raw(self) -> Path:
        return self.out_dir / _RAW

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Write label and confidence of every pixel of a batch."""
        self._claim_raw()
        for sample in data_samples:
            probabilities = class_probabilities(
                sample['seg_logits']['data'].float(), self.scores
            )
            if len(probabilities) > _IGNORED:
                raise ValueError(
                    f'PseudoLabelWriter: the network has {len(probabilities)} classes, '
                    f'expected at most {_IGNORED}: labels are written as 8 bit, '
                    f'{_IGNORED} is unsure. Take a network with fewer.'
                )
            if len(probabilities) == 1:
                label = sample['pred_sem_seg']['data'][0]
                second = probabilities[0]
                confidence = second.where(label == 1, 1 - second)
            else:
                confidence, label = probabilities.max(dim=0)
            levels = (confidence.double() * _LEVELS).round().cpu().numpy()
            target = label_path(
                self.out_dir, self.img_root, sample['img_path'], type(self).__name__
            )
            name = target.relative_to(self.out_dir).as_posix()
            _write(self._raw / 'label' / name, label.cpu().numpy().astype(np.uint8))
            _write(self._raw / 'confidence' / name, levels.astype(np.uint16))
            self.results.append(name)

    def _check_out_dir(self) -> None:
        if self.out_dir.resolve() == Path(self.img_root).resolve():
            raise ValueError(
                f'PseudoLabelWriter: out_dir={str(self.out_dir)!r} is img_root='
                f'{str(self.img_root)!r}, where labels would replace the images. Give '
                'another out_dir.'
            )

    def _claim_raw(self) -> None:
        """Make sure that the folder that is removed at the end is ours.

        It gets its place together with its mark, in one move: several processes do
        this at a time, and none may take the folder of another for a foreign one.
        """
        if (self._raw / _MARK).is_file():
            return
        self._check_out_dir()  # a loop over subsets changes it
        self.out_dir.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=_RAW, dir=self.out_dir))
        (made / _MARK).touch()
        try:
            made.rename(self._raw)
        except OSError as error:  # something is there, most likely of another process
            shutil.rmtree(made)
            if not (self._raw / _MARK).is_file():
                raise ValueError(
                    f'{str(self._raw)!r} was not made by PseudoLabelWriter, which '
                    'would write into it and remove it. Move it away, or give another '
                    'out_dir.'
                ) from error

    def compute_metrics(self, results: list[str]) -> dict[str, float]:
        """Find the thresholds and write the labels; see mmengine.

        Returns:
            ``kept`` and ``kept.<class>``, percent of all pixels and of those that are
            predicted as the class.
        """
        names = list(dict.fromkeys(results))
        classes = list((self.dataset_meta or {})['classes'])
        counts = np.zeros((len(classes), _LEVELS + 1), np.int64)
        for _, label, levels in self._read(names, 'thresholds'):
            joint = label.astype(np.int64) * (_LEVELS + 1) + levels
            pixels = np.bincount(joint.reshape(-1), minlength=counts.size)
            counts += pixels.reshape(counts.shape)
        thresholds = class_thresholds(counts, self.drop, self.cap)
        for name, label, levels in self._read(names, 'pseudo-labels'):
            label[levels < thresholds[label]] = _IGNORED
            _write(self.out_dir / name, label)
        kept = [int(own[t:].sum()) for own, t in zip(counts, thresholds, strict=True)]
        text = {c: t / _LEVELS for c, t in zip(classes, thresholds, strict=True)}
        (self.out_dir / 'thresholds.json').write_text(json.dumps(text, indent=1))
        shutil.rmtree(self._raw)
        print_log(f'{len(names)} pseudo-labels are in {self.out_dir}', 'current')
        shares = {
            f'kept.{name}': 100 * own / max(int(total), 1)
            for name, own, total in zip(classes, kept, counts.sum(1), strict=True)
        }
        return dict(kept=100 * sum(kept) / max(int(counts.sum()), 1), **shares)

    def _read(
        self, names: Sequence[str], title: str
    ) -> Iterable[tuple[str, np.ndarray, np.ndarray]]:
        for name in slow_progress(names, len(names), title):
            label, levels = (
                _read(self._raw / part / name) for part in ('label', 'confidence')
            )
            yield name, label, levels


def class_thresholds(counts: np.ndarray, drop: float, cap: float) -> np.ndarray:
    """Least level of each class that counts.

    The level at place ``round(drop * n)`` of the n sorted ones, at most that of
    ``cap``. A class without pixels has that of ``cap``.

    Args:
        counts: Pixels of each class and level; the last level is the confidence 1.
        drop: Share below the threshold.
        cap: Confidence.

    Shape:
        - counts: (classes, levels)
        - output: (classes,) int64
    """
    highest = round(cap * (counts.shape[1] - 1))
    thresholds = np.full(len(counts), highest, np.int64)
    for i, own in enumerate(counts):
        total = int(own.sum())
        if total:
            place = min(round(drop * total), total - 1)
            level = int(np.searchsorted(np.cumsum(own), place, side='right'))
            thresholds[i] = min(level, highest)
    return thresholds


def _read(path: Path) -> np.ndarray:
    raster = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if raster is None:
        raise OSError(
            f'{str(path)!r} cannot be read, which this evaluation wrote. Is out_dir of '
            'PseudoLabelWriter a folder that all processes share?'
        )
    return raster


def _write(path: Path, raster: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # In one move: no half-written file is ever read as labels.
    part = path.with_suffix('.part.png')
    if not cv2.imwrite(str(part), raster):
        raise OSError(f'{str(part)!r} cannot be written. Is the disk full?')
    part.replace(path)
