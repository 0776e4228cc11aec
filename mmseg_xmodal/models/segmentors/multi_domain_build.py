"""From the config of a model with several domains to its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.model import ModuleDict, ModuleList
from mmseg.registry import MODELS as MMSEG_MODELS
from torch import nn

SAMPLE = 'sample'


def check_config(
    decode_heads: Any,
    auxiliary_heads: Mapping[str, Any] | None,
    predict_domain: str | None,
    domain_weights: Mapping[str, float] | None,
    others: Mapping[str, Any],
) -> None:
    """Look at the arguments that name domains.

    Args:
        decode_heads: Domain to the config of its head.
        auxiliary_heads: Domain to configs of its auxiliary heads.
        predict_domain: Domain that predicts.
        domain_weights: Domain to the factor of its losses.
        others: Further arguments of the model.

    Raises:
        ValueError: If one of them cannot be used.
    """
    if not isinstance(decode_heads, Mapping) or not decode_heads:
        raise ValueError(
            f'decode_heads={decode_heads!r}, expected the config of a head for at '
            'least one domain, such as decode_heads=dict(day=dict(type=...), night='
            'dict(type=...)).'
        )
    plain = [n for n in ('decode_head', 'auxiliary_head') if others.get(n) is not None]
    if plain:
        raise ValueError(
            f'The model has {plain}, which is for one domain. Move it into '
            f'{plain[0]}s=dict(<domain>=...), and set {plain[0]}=None where a base '
            'config gives it.'
        )
    _check_names(list(decode_heads))
    known = list(decode_heads)
    _check_known('auxiliary_heads', list(auxiliary_heads or ()), known)
    _check_known('domain_weights', list(domain_weights or ()), known)
    if predict_domain not in (None, SAMPLE, *known):
        raise ValueError(
            f'predict_domain={predict_domain!r}, expected one of {known} '
            f'(decode_heads), or {SAMPLE!r} to look at each sample. Change it in the '
            'model.'
        )
    bad = {d: w for d, w in (domain_weights or {}).items() if not w >= 0}
    if bad:
        raise ValueError(f'domain_weights has {bad}, expected numbers of 0 or more.')


def _check_names(names: Sequence[str]) -> None:
    taken = nn.ModuleDict()
    for name in names:
        usable = bool(name) and '.' not in name and not hasattr(taken, name)
        # mmengine adds up every value with 'loss' in its key.
        if not usable or 'loss' in name or name == SAMPLE:
            raise ValueError(
                f'decode_heads has the domains {list(names)}; {name!r} cannot be one: '
                "a name has no dot and no 'loss' in it, is not 'sample', and no "
                'attribute of torch.nn.ModuleDict. Rename it.'
            )


def _check_known(argument: str, given: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ValueError(
            f'{argument} has {unknown}, which has no head: it names {list(given)}, '
            f'decode_heads {list(known)}. Make both agree in the model.'
        )


def build_heads(argument: str, cfgs: Mapping[str, Any]) -> ModuleDict:
    """Heads by domain; a list of configs gives a ``ModuleList``.

    Args:
        argument: Name of the argument that holds them.
        cfgs: Domain to a config, or to a list of configs.

    Raises:
        ValueError: If a config has no type.
    """
    built: dict[str, nn.Module] = {}
    for domain, cfg in cfgs.items():
        many = isinstance(cfg, Sequence) and not isinstance(cfg, str)
        parts = cfg if many else [cfg]
        if not parts or any(
            not isinstance(c, Mapping) or 'type' not in c for c in parts
        ):
            raise ValueError(
                f'{argument}[{domain!r}] is {cfg!r}, expected the config of a head '
                "with a type, such as dict(type='FCNHead', ...)."
            )
        heads = [MMSEG_MODELS.build(part) for part in parts]
        built[domain] = ModuleList(heads) if many else heads[0]
    return ModuleDict(built)
