"""From the config of a domain-adaptive segmentor to its parts."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.model import BaseModel, PretrainedInit, initialize
from mmseg.models.segmentors.base import BaseSegmentor
from mmseg.registry import MODELS as MMSEG_MODELS
from torch import nn

from ..adaptation.base import AdaptationTerm


def build_student(
    student: dict | nn.Module, data_preprocessor: dict | nn.Module | None
) -> tuple[Any, Any]:
    """The student, and the preprocessor of the whole: that of the student's config.

    Raises:
        TypeError: If the student is no segmentor, or weighs its losses itself.
    """
    network: Any = student
    if isinstance(student, Mapping):
        cfg = dict(student)
        own = cfg.pop('data_preprocessor', None)
        data_preprocessor = data_preprocessor if own is None else own
        network = MMSEG_MODELS.build(cfg)
    _check_student(network)
    return network, data_preprocessor


def build_anchor(anchor: dict | str | None, student: Any) -> Any:
    """A frozen backbone: a copy of the student's, or that of a config.

    Raises:
        ValueError: If it is another word than 'copy', or there is nothing to copy.
    """
    if anchor is None:
        return None
    if isinstance(anchor, Mapping):
        return frozen(MMSEG_MODELS.build(anchor))
    if anchor != 'copy' or not hasattr(student, 'backbone'):
        raise ValueError(
            f'anchor={anchor!r} with a {type(student).__name__} as student, '
            "expected 'copy' for a copy of the student's backbone, where it has "
            'one, or the config of a backbone.'
        )
    return frozen(copy.deepcopy(student.backbone))


def build_terms(terms: Sequence[dict | AdaptationTerm], model: Any) -> nn.ModuleList:
    """The terms, checked against the parts that the model has.

    Raises:
        TypeError: If one is no term.
        ValueError: If one lacks a part, or two have one name.
    """
    built = [MMSEG_MODELS.build(t) if isinstance(t, Mapping) else t for t in terms]
    names = []
    for term in built:
        if not isinstance(term, AdaptationTerm):
            raise TypeError(
                f'terms has a {type(term).__name__}, expected adaptation terms '
                "such as dict(type='mmseg_xmodal.ClassMixSelfTraining')."
            )
        for part in term.NEEDS:
            if getattr(model, part, None) is None:
                raise ValueError(
                    f'The term {type(term).__name__} needs the part {part!r}, '
                    f"which the model does not have. Set {part}='copy' in the "
                    'model, or remove the term.'
                )
        term.attach(model.student)
        names.append(term.name)
    if len({*names, 'source'}) <= len(names):
        raise ValueError(
            f'The terms have the names {names}, expected different ones, and none '
            "'source'. Give name=... to a term of a class that stands twice."
        )
    return nn.ModuleList(built)


def apply_init_cfg(model: Any, pretrained: bool) -> None:
    """Initialise the whole by its ``init_cfg``.

    Args:
        model: Of mmengine.
        pretrained: Whether by the configs that load a checkpoint, or by the others.
    """
    cfgs = model.init_cfg or []
    for cfg in [cfgs] if isinstance(cfgs, Mapping) else cfgs:
        if (cfg['type'] in ('Pretrained', PretrainedInit)) == pretrained:
            # It is emptied there.
            initialize(model, copy.deepcopy(cfg))


def frozen(module: nn.Module) -> nn.Module:
    """The module without gradients, in eval mode."""
    # Not chained: `train` of many stock backbones returns nothing.
    module.requires_grad_(False)
    module.eval()
    return module


def check_choice(name: str, got: str, expected: Sequence[str]) -> None:
    """Raise unless an argument is one of some words."""
    if got not in expected:
        raise ValueError(
            f'{name}={got!r}, expected one of {list(expected)}. Correct it in the '
            'model.'
        )


def _check_student(student: nn.Module) -> None:
    if not isinstance(student, BaseSegmentor):
        raise TypeError(
            f'student is a {type(student).__name__}, expected a segmentor such as '
            "dict(type='EncoderDecoder', ...)."
        )
    if type(student).parse_losses is not BaseModel.parse_losses:
        raise TypeError(
            f'student is a {type(student).__name__}, which weighs its losses itself; '
            'inside of an adaptation they would be summed without its weights. Use an '
            'EncoderDecoder.'
        )
