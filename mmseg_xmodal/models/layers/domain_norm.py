"""A batch norm for each domain, in a network that is shared otherwise.

Paper: Domain-Specific Batch Normalization for Unsupervised Domain Adaptation, Chang et
al., CVPR 2019, https://arxiv.org/abs/1906.03950 (the idea; no code read). Clean room,
nothing copied.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

# How mmseg, timm and transformers say that a forward pass is repeated in the backward.
_REPEATS = ('with_cp', 'grad_checkpointing', 'gradient_checkpointing')


class DomainNorm(nn.Module):
    """Copies of a batch norm, weights and statistics, of which one is active.

    A checkpoint of the plain norm loads into every copy.

    Args:
        norm: The batch norm that is copied.
        domains: Names of the domains; the first is active.

    Shape:
        - input and output: as of ``norm``
    """

    domain_norms: Any

    def __init__(self, norm: _BatchNorm, domains: Sequence[str]) -> None:
        super().__init__()
        self.domain_norms = nn.ModuleDict({d: copy.deepcopy(norm) for d in domains})
        self.active = domains[0]

    def forward(self, x: Tensor) -> Tensor:
        """Normalise as the active domain does."""
        return self.domain_norms[self.active](x)

    def extra_repr(self) -> str:
        """Name the active domain."""
        return f'active={self.active!r}'

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any
    ) -> None:
        own = f'{prefix}domain_norms.'
        for key in [k for k in state_dict if k.startswith(prefix)]:
            if not key.startswith(own):
                value, name = state_dict.pop(key), key[len(prefix) :]
                for domain in self.domain_norms:
                    state_dict[f'{own}{domain}.{name}'] = value
        super()._load_from_state_dict(state_dict, prefix, *args)


def give_domain_norms(networks: Sequence[nn.Module], domains: Sequence[str]) -> None:
    """Replace every batch norm in the networks by one per domain, in place.

    Args:
        networks: What the domains share, such as backbone and neck.
        domains: Names of the domains.

    Raises:
        ValueError: If there is no batch norm, or a part repeats its forward pass in the
            backward one: it would use the norm that is active then.
    """
    made: dict[int, DomainNorm] = {}
    for network in networks:
        repeating = [
            f'{type(m).__name__}.{flag}'
            for m in network.modules()
            for flag in _REPEATS
            if getattr(m, flag, False) is True
        ]
        if repeating:
            raise ValueError(
                f'domain_norm=True with gradient checkpointing ({repeating[0]}): the '
                'repeated pass would use the norms of another domain. Turn one of '
                'them off.'
            )
        for module in list(network.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, _BatchNorm):
                    if id(child) not in made:
                        made[id(child)] = DomainNorm(child, domains)
                    setattr(module, name, made[id(child)])
    if not made:
        kinds = ', '.join(type(network).__name__ for network in networks)
        raise ValueError(
            f'domain_norm=True, but {kinds} has no batch norm. Give it '
            "norm_cfg=dict(type='BN'), or set domain_norm=False in the model."
        )


def domain_norms(network: nn.Module) -> list[DomainNorm]:
    """The norms of a network that know domains."""
    return [m for m in network.modules() if isinstance(m, DomainNorm)]


@contextmanager
def norms_of(networks: Sequence[nn.Module], domain: str) -> Iterator[None]:
    """Inside of the block, the networks normalise as a domain does."""
    norms = [norm for network in networks for norm in domain_norms(network)]
    before = [norm.active for norm in norms]
    try:
        for norm in norms:
            norm.active = domain
        yield
    finally:
        for norm, old in zip(norms, before, strict=True):
            norm.active = old
