"""Leave out whole modalities in training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness

from mmseg_xmodal.registry import TRANSFORMS
from mmseg_xmodal.structures import ModalityLayout

from .stack import ModalitiesCfg, blank, check_stack, layout_of


@TRANSFORMS.register_module()
class ModalityDropout(BaseTransform):
    """Make whole modalities missing, each with its probability, never all.

    Values and validity become 0, as for a file that is missing. At least one of the
    modalities that the sample has is kept: where every one was drawn, one of them,
    drawn evenly, stays.

    Added key: ``dropped_modalities``, a tuple of names.

    Args:
        prob: Probability per modality, or one for all of them.
        modalities: The config's ``modalities``. Defaults to that of the loader.
        dropped: Names to drop always, instead of drawing.
        generator: Source of the draws. Defaults to numpy's global state, which the
            seeded samplers set for each sample.

    Raises:
        ValueError: If a probability lies outside [0, 1], or a modality is unknown.
    """

    def __init__(
        self,
        prob: float | Mapping[str, float] = 0.0,
        modalities: ModalitiesCfg | None = None,
        dropped: Iterable[str] | None = None,
        generator: np.random.Generator | None = None,
    ) -> None:
        self.prob = dict(prob) if isinstance(prob, Mapping) else prob
        values = self.prob.values() if isinstance(self.prob, dict) else [self.prob]
        if not all(0 <= p <= 1 for p in values):
            raise ValueError(
                f'ModalityDropout: prob is {prob}, expected numbers in [0, 1]. Change '
                'it in the pipeline.'
            )
        self.layout = None if modalities is None else ModalityLayout.build(modalities)
        self.dropped = None if dropped is None else tuple(dropped)
        self.generator = generator

    def transform(self, results: dict) -> dict:
        """Drop modalities of one sample.

        Raises:
            ValueError: If a modality that may be dropped has no validity channel, or
                ``dropped`` would leave nothing.
        """
        layout = layout_of(results, self.layout, self)
        where = f'ModalityDropout ({results.get("img_path")!r})'
        img = results['img'] = check_stack(results['img'], layout, where)
        present = [name for name in layout.names if _present(img, layout, name)]
        if self.dropped is None:
            dropped = self._draw(self._probabilities(layout), present)
        else:
            dropped = self.dropped
            _check_validity(layout, dropped)
            if present and set(present) <= set(dropped):
                raise ValueError(
                    f'{where}: dropped={list(dropped)} leaves none of {present}, which '
                    'this sample has. Keep at least one.'
                )
        for name in dropped:
            blank(img, layout, name, np.s_[:])
        results['dropped_modalities'] = dropped
        return results

    def _probabilities(self, layout: ModalityLayout) -> dict[str, float]:
        if isinstance(self.prob, dict):
            given = {layout.check(name): p for name, p in self.prob.items()}
            # In the order of the layout: mmengine sorts the dicts of a saved config,
            # and the draws must not depend on that.
            prob = {name: given.get(name, 0.0) for name in layout.names}
        else:
            prob = dict.fromkeys(layout.names, self.prob)
        _check_validity(layout, [name for name, p in prob.items() if p > 0])
        return prob

    @cache_randomness
    def _draw(self, prob: Mapping[str, float], present: list[str]) -> tuple[str, ...]:
        rng = np.random if self.generator is None else self.generator
        # Drawn for absent modalities too, so that the draws of the others do not depend
        # on which files exist.
        drawn = {name for name, p in prob.items() if rng.random() < p}
        if present and drawn.issuperset(present):
            drawn.remove(present[int(rng.random() * len(present))])
        return tuple(name for name in prob if name in drawn)


def _present(img: np.ndarray, layout: ModalityLayout, name: str) -> bool:
    index = layout.stack_validity_index(name)
    return index is None or bool(img[..., index].any())


def _check_validity(layout: ModalityLayout, names: Iterable[str]) -> None:
    for name in names:
        if layout.stack_validity_index(name) is None:
            raise ValueError(
                f'ModalityDropout drops {name!r}, which has no validity channel, so '
                'that the model could not tell a dropped one from a black one. Set '
                f"modalities[{name!r}]['may_be_missing']=True."
            )
