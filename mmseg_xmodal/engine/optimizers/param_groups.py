"""Few parameter groups, by what each parameter is.

The recipes of RGB-X networks differ in which parameters take weight decay, and some
official codes leave parameters out of the optimiser. mmengine's constructor cannot say
the latter, decays parameters that stand outside of a layer (layer scales, position
tables), and makes one group per parameter, with which fused and foreach optimisers
still step tensor by tensor.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from mmseg_xmodal.registry import OPTIM_WRAPPER_CONSTRUCTORS

KINDS = ('norm', 'bias', 'bare', 'flat')
_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_LAYERS = (_ConvNd, nn.Linear, nn.Bilinear, nn.Embedding, nn.MultiheadAttention)
_FIELDS = ('no_decay', 'left_out', 'lr_mult')


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class ParamGroupOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Put every trainable parameter into exactly one of a few groups.

    Options stand in ``paramwise_cfg``. The kinds of parameters that ``no_decay`` and
    ``left_out`` name are

    - ``'norm'``: weight and bias of a norm layer (torch's, or a class ``...Norm``);
    - ``'bias'``: bias of any other layer of torch;
    - ``'bare'``: held by no layer of torch, such as layer scales, gates, tokens,
      relative position tables;
    - ``'flat'``: whatever has one dimension or none, whoever holds it.

    A shell pattern on the name, such as ``'backbone.*.norm*'``, stands there as well.

    The published rules: CMX and DFormer ``no_decay=['norm', 'bias'],
    left_out=['bare']`` (their code never hands bare parameters to the optimiser; the
    default trains them without decay); CMNeXt, StitchFusion and MMSFormer
    ``no_decay=['flat']``; TokenFusion and GeminiFusion ``no_decay=['backbone.*norm*'],
    lr_mult={'decode_head.*': 10.0}``.

    Args:
        optim_wrapper_cfg: As in mmengine.
        paramwise_cfg: ``no_decay``: kinds and patterns without weight decay, by default
            ``['norm', 'bias', 'bare']``; ``left_out``: kinds and patterns that are not
            optimised, by default none (they still get gradients, so that DDP works as
            ever); ``lr_mult``: factor on the learning rate by pattern.

    Raises:
        ValueError: If an option or a kind is unknown, a pattern matches no parameter,
            two patterns of ``lr_mult`` match one, nothing is left to train, or one
            tensor has two names that belong to different groups.
    """

    def __init__(
        self, optim_wrapper_cfg: dict, paramwise_cfg: Mapping[str, Any] | None = None
    ) -> None:
        cfg = dict(paramwise_cfg or {})
        unknown = sorted(set(cfg) - set(_FIELDS))
        if unknown:
            raise ValueError(
                f'paramwise_cfg has the fields {unknown}, expected some of '
                f'{list(_FIELDS)}. For those of mmengine take out constructor='
                "'mmseg_xmodal.ParamGroupOptimWrapperConstructor'."
            )
        self.no_decay = _selectors('no_decay', cfg.get('no_decay', KINDS[:3]))
        self.left_out = _selectors('left_out', cfg.get('left_out', ()))
        self.lr_mult = dict(cfg.get('lr_mult', {}))
        # Never empty: the parent would take all parameters as they are.
        super().__init__(dict(optim_wrapper_cfg), dict(no_decay=list(self.no_decay)))
        if self.lr_mult and self.base_lr is None:
            raise ValueError(
                f'optim_wrapper.optimizer has no lr, which lr_mult={self.lr_mult} '
                'scales. Add it, such as lr=6e-5.'
            )

    def add_params(
        self,
        params: list[dict],
        module: nn.Module,
        prefix: str = '',
        is_dcn_module: int | float | None = None,
    ) -> None:
        """Append the groups of ``module`` to ``params``.

        Args:
            params: The list of groups, extended in place.
            module: The model.
            prefix: Unused, as ``is_dcn_module``; the parent's signature.
            is_dcn_module: Unused.
        """
        chosen: dict[int, tuple[str, tuple[float, bool] | None]] = {}
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        skipped: dict[str, list[nn.Parameter]] = {'frozen': [], 'left out': []}
        matched: set[str] = set()
        for name, kinds, parameter in _parameters(module):
            key = self._group(name, kinds, matched)
            if id(parameter) in chosen:
                _check_tied(name, key, *chosen[id(parameter)])
                continue
            chosen[id(parameter)] = (name, key)
            if not parameter.requires_grad:
                skipped['frozen'].append(parameter)
            elif key is None:
                skipped['left out'].append(parameter)
            else:
                groups.setdefault(key, []).append(parameter)
        self._check(matched, groups, skipped)
        params += [self._make(*key, group) for key, group in groups.items()]
        _log(params, skipped)

    def _group(
        self, name: str, kinds: set[str], matched: set[str]
    ) -> tuple[float, bool] | None:
        """Factor on the learning rate and whether it decays; None = left out."""
        factors = [p for p in self.lr_mult if fnmatchcase(name, p)]
        if len(factors) > 1:
            raise ValueError(
                f'lr_mult: the patterns {factors} all match {name!r}, expected one at '
                'most. Make them exclude each other in paramwise_cfg.'
            )
        no_decay = _matching(self.no_decay, name, kinds)
        left_out = _matching(self.left_out, name, kinds)
        matched.update(factors, no_decay, left_out)
        if left_out:
            return None
        return self.lr_mult[factors[0]] if factors else 1.0, not no_decay

    def _check(self, matched: set[str], groups: Mapping, skipped: Mapping) -> None:
        given = (*self.lr_mult, *self.no_decay, *self.left_out)
        idle = [s for s in given if s not in KINDS and s not in matched]
        if idle:
            raise ValueError(
                f'paramwise_cfg: the patterns {idle} match no parameter of the model. '
                'Compare them with [n for n, _ in model.named_parameters()]; a pattern '
                "covers the whole name, such as 'decode_head.*'."
            )
        if not groups:
            counts = {why: len(parameters) for why, parameters in skipped.items()}
            raise ValueError(
                f'No parameter is left to train: {counts}. Change left_out='
                f'{list(self.left_out)} in paramwise_cfg, or unfreeze the model.'
            )

    def _make(
        self, factor: float, decays: bool, parameters: list[nn.Parameter]
    ) -> dict[str, Any]:
        group: dict[str, Any] = dict(params=parameters)
        if factor != 1:
            group['lr'] = self.base_lr * factor
        if not decays:
            group['weight_decay'] = 0.0
        return group


def _selectors(field: str, given: Sequence[str]) -> tuple[str, ...]:
    plain = [s for s in given if s not in KINDS and not set(s) & set('.*?[')]
    if isinstance(given, str) or plain:
        raise ValueError(
            f'paramwise_cfg.{field} is {given!r}, expected a list of some of '
            f"{list(KINDS)} and of shell patterns such as 'decode_head.*'."
        )
    return tuple(given)


def _matching(selectors: Sequence[str], name: str, kinds: set[str]) -> list[str]:
    return [s for s in selectors if s in kinds or fnmatchcase(name, s)]


def _parameters(model: nn.Module) -> Iterator[tuple[str, set[str], nn.Parameter]]:
    """Name, kinds and tensor of all parameters; tied ones once under each name."""
    for prefix, module in model.named_modules(remove_duplicate=False):
        for name, parameter in module.named_parameters(recurse=False):
            kinds = {'flat'} if parameter.ndim <= 1 else set()
            if isinstance(module, _NORMS) or type(module).__name__.endswith('Norm'):
                kinds.add('norm')
            elif not isinstance(module, _LAYERS):
                kinds.add('bare')
            elif name.endswith('bias'):
                kinds.add('bias')
            yield f'{prefix}.{name}' if prefix else name, kinds, parameter


def _check_tied(
    name: str, key: tuple | None, first_name: str, first_key: tuple | None
) -> None:
    if key != first_key:
        raise ValueError(
            f'{first_name!r} and {name!r} are one tensor, but paramwise_cfg puts them '
            f'into different groups, (lr_mult, decay) = {first_key} and {key} (None: '
            'left out). Choose options that treat both alike.'
        )


def _log(groups: Sequence[dict], skipped: Mapping[str, list[nn.Parameter]]) -> None:
    rows = [(g['params'], {k: g[k] for k in g if k != 'params'}) for g in groups]
    lines = [f'{_count(p)}: {options or "as optimizer says"}' for p, options in rows]
    lines += [f'{_count(p)}: {why}' for why, p in skipped.items() if p]
    print_log(
        'Parameter groups: ' + '; '.join(lines), logger='current', level=logging.INFO
    )


def _count(parameters: Sequence[nn.Parameter]) -> str:
    return f'{len(parameters)} tensors ({sum(p.numel() for p in parameters):,})'
