"""Cut rectangular holes, for any number of channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness

from mmseg_xmodal.registry import TRANSFORMS
from mmseg_xmodal.structures import ModalityLayout

from .stack import ModalitiesCfg, blank, check_stack, layout_of
from .target_specs import dense_keys, kind_of, void_of


@TRANSFORMS.register_module()
class XModalCutOut(BaseTransform):
    """Cut holes whose pixels become invalid.

    mmseg's ``RandomCutOut`` fails above three channels. A modality without a validity
    channel takes its fill value in the holes (0 after normalisation).

    Args:
        prob: Probability of cutting at all.
        n_holes: Number of holes, or a range (both ends included).
        cutout_shape: Height and width of a hole in pixels, or a list of such pairs.
        cutout_ratio: The same as fractions of the image's height and width. Give this
            or ``cutout_shape``.
        names: Modalities to cut. Defaults to all.
        shared: Whether all these modalities get the same holes. Defaults to True.
        seg_fill_in: Label written into the holes; only with ``shared``. Other targets
            become "unknown" there. Defaults to leaving labels and targets.
        modalities: The config's ``modalities``. Defaults to that of the loader.
        generator: Source of the draws. Defaults to numpy's global state, which the
            seeded samplers set for each sample.

    Raises:
        ValueError: If ``prob`` lies outside [0, 1], both or neither of
            ``cutout_shape`` and ``cutout_ratio`` are given, ``seg_fill_in`` comes
            with ``shared=False``, or ``names`` has an unknown modality.
    """

    def __init__(
        self,
        prob: float,
        n_holes: int | tuple[int, int],
        cutout_shape: Sequence[Any] | None = None,
        cutout_ratio: Sequence[Any] | None = None,
        names: Sequence[str] | None = None,
        shared: bool = True,
        seg_fill_in: int | None = None,
        modalities: ModalitiesCfg | None = None,
        generator: np.random.Generator | None = None,
    ) -> None:
        if not 0 <= prob <= 1:
            raise ValueError(
                f'XModalCutOut: prob is {prob}, expected one in [0, 1]. Change it in '
                'the pipeline.'
            )
        if (cutout_shape is None) == (cutout_ratio is None):
            raise ValueError(
                f'XModalCutOut: cutout_shape={cutout_shape} and cutout_ratio='
                f'{cutout_ratio}, expected exactly one of them. Take the other out of '
                'the pipeline.'
            )
        if seg_fill_in is not None and not shared:
            raise ValueError(
                f'XModalCutOut: seg_fill_in={seg_fill_in} needs shared=True: holes in '
                'different places have no common label.'
            )
        self.prob = prob
        self.n_holes = (n_holes, n_holes) if isinstance(n_holes, int) else n_holes
        self.is_ratio = cutout_ratio is not None
        sizes = [*(cutout_ratio or ()), *(cutout_shape or ())]
        self.sizes: list[Any] = [sizes] if np.ndim(sizes) == 1 else sizes
        self.names = None if names is None else tuple(names)
        self.shared = shared
        self.seg_fill_in = seg_fill_in
        self.layout = None if modalities is None else ModalityLayout.build(modalities)
        self.generator = generator

    def transform(self, results: dict) -> dict:
        """Cut the holes of one sample."""
        layout = layout_of(results, self.layout, self)
        where = f'XModalCutOut ({results.get("img_path")!r})'
        img = results['img'] = check_stack(results['img'], layout, where)
        names = layout.names if self.names is None else self.names
        groups = [names] if self.shared else [(name,) for name in names]
        for group, holes in zip(
            groups, self._draw(img.shape, len(groups)), strict=True
        ):
            for hole in holes:
                for name in group:
                    blank(img, layout, name, hole)
                if self.seg_fill_in is not None:
                    for key in dense_keys(results):
                        void = void_of(kind_of(results, key), self.seg_fill_in)
                        results[key][hole] = void
        return results

    @cache_randomness
    def _draw(self, shape: tuple[int, ...], groups: int) -> list[list[Any]]:
        rng = np.random if self.generator is None else self.generator
        if rng.random() >= self.prob:
            return [[] for _ in range(groups)]
        return [self._holes(rng, shape[0], shape[1]) for _ in range(groups)]

    def _holes(self, rng: Any, height: int, width: int) -> list[tuple[slice, slice]]:
        """Holes that start anywhere in the image and may pass its border."""
        low, high = self.n_holes
        holes = []
        for _ in range(low + int(rng.random() * (high - low + 1))):
            y, x = int(rng.random() * height), int(rng.random() * width)
            h, w = self.sizes[int(rng.random() * len(self.sizes))]
            if self.is_ratio:
                h, w = int(h * height), int(w * width)
            holes.append((slice(y, y + h), slice(x, x + w)))
        return holes

    def __repr__(self) -> str:
        kind = 'cutout_ratio' if self.is_ratio else 'cutout_shape'
        return (
            f'{type(self).__name__}(prob={self.prob}, n_holes={self.n_holes}, '
            f'{kind}={self.sizes}, names={self.names}, shared={self.shared}, '
            f'seg_fill_in={self.seg_fill_in})'
        )
