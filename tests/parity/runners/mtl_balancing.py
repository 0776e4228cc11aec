"""Loss balancers and gradient rules against LibMTL, and Delta_m."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from mmseg_xmodal.models import balancing

from ..fixture import Fixture, NoRunner
from .mtl_case import Case, cases, gains
from .sections import Parts

REPOSITORY = 'https://github.com/median-research-group/LibMTL'
# Arrays that are given to the methods.
INPUTS = (
    r'(\w+\.)?grads|theta|(\w+\.)?losses|(\w+\.)?DWA\.loss_history|'
    r'(\w+\.)?GradNorm\.(initial_losses|v)|(\w+\.)?FAMO\.losses_(before|after)'
)


def run_mtl_balancing(fixture: Fixture) -> dict[str, Tensor]:
    """Compute every output that the fixture holds.

    Args:
        fixture: With any numbers of tasks, orders, constants and sets of gradients.

    Raises:
        NoRunner: If it holds something of a method that we do not have, or whose
            draws are not given.
    """
    parts = Parts(fixture, INPUTS)
    sets = list(cases(parts.arrays, fixture.meta.get('settings') or {}))
    for case in sets:
        for method in METHODS:
            if recorded := parts.under(f'{case.prefix}{method}.'):
                parts.add(recorded, functools.partial(_compute, case, method))
    parts.add_each(gains(fixture))
    methods = _methods(parts.arrays, [case.prefix for case in sets])
    if unknown := {n: method for n, method in methods.items() if method not in METHODS}:
        named = sorted(set(unknown.values()))
        parts.lack(f'no runner for the methods {named}', unknown)
    return parts.finish()


def _compute(case: Case, method: str) -> dict[str, Tensor]:
    return {case.prefix + k: value for k, value in METHODS[method](case).items()}


def _methods(arrays: Iterable[str], prefixes: list[str]) -> dict[str, str]:
    """The method of every array that is no input and no Delta_m."""
    found = {}
    for name in arrays:
        if not re.fullmatch(INPUTS, name) and not name.startswith('delta_m.'):
            own = max((p for p in prefixes if name.startswith(p)), key=len, default='')
            found[name] = name.removeprefix(own).partition('.')[0]
    return found


def _uw(case: Case) -> dict[str, Tensor]:
    init = case.per_task(case.setting('UW').get('log_var_init', -0.5))
    balancer = balancing.UncertaintyWeighting(case.tasks, init=init)
    combined = case.by_balancer(balancer)
    return {
        'UW.combined_grad': combined,
        'UW.weights': case.weights(balancer),
        'UW.grad_log_var': balancer.log_var.grad,
    }


def _equal(case: Case) -> dict[str, Tensor]:
    balancer = balancing.FixedWeights(case.tasks)
    combined = case.by_balancer(balancer)
    return {'EW.combined_grad': combined, 'EW.weights': case.weights(balancer)}


def _geometric(case: Case) -> dict[str, Tensor]:
    """The recorded weights are what LibMTL logs, which is not what it uses.

    It logs ``L_t / (T prod L)``. Ours are ``w_t = m / (T L_t)`` with the mean
    ``m = (prod L)^(1/T)``, which the terms ``w_t L_t`` add up to: that of LibMTL is
    ``m^(1-T) / (T^2 w_t)``.
    """
    balancer = balancing.GeometricMeanLoss(case.tasks)
    combined = case.by_balancer(balancer)
    weights, count = case.weights(balancer), len(case.tasks)
    mean = (weights * case.losses).sum()
    logged = mean ** (1 - count) / (count**2 * weights)
    return {'GLS.combined_grad': combined, 'GLS.weights': logged}


def _dwa(case: Case) -> dict[str, Tensor]:
    pattern = r'DWA\.(?:weights|combined_grad)_epoch(\d+)$'
    epochs = [int(epoch) for (epoch,) in case.matches(pattern)]
    # One iteration is one epoch.
    temperature = case.setting('DWA')['T']
    balancer = balancing.DynamicWeightAverage(case.tasks, 1, temperature)
    history = case.given('DWA.loss_history')
    outputs = {}
    for epoch in range(max(epochs) + 1):
        values = history[:, min(epoch, history.shape[1] - 1)]
        combined = case.by_balancer(balancer, values)
        outputs[f'DWA.weights_epoch{epoch}'] = case.weights(balancer)
        outputs[f'DWA.combined_grad_epoch{epoch}'] = combined
    return outputs


def pcgrad(case: Case, others_only: bool = False) -> dict[str, Tensor]:
    """PCGrad; LibMTL does not pass over the task itself."""
    outputs = {}
    for (name,) in case.matches(r'PCGrad\.(\w+)\.'):
        orders = case.setting('PCGrad')['orders'][name]
        rule = balancing.PCGrad(orders=orders, others_only=others_only)
        outputs[f'PCGrad.{name}.weights'] = case.rule(rule)
        outputs[f'PCGrad.{name}.combined_grad'] = case.by_wrapper(rule)
    return outputs


def _cagrad(case: Case) -> dict[str, Tensor]:
    outputs = {}
    for c, rescale in case.matches(r'CAGrad\.c([\d.]+)\.rescale(\d)\.'):
        rule = balancing.CAGrad(c=float(c), rescale=int(rescale))
        name = f'CAGrad.c{c}.rescale{rescale}'
        outputs[f'{name}.w'] = rule.simplex(case.gram)
        outputs[f'{name}.combined_grad'] = case.by_wrapper(rule)
    return outputs


def _imtl(case: Case) -> dict[str, Tensor]:
    rule, balancer = balancing.IMTLG(), balancing.IMTLLoss(case.tasks)
    case.by_balancer(balancer)
    return {
        'IMTL_G.alpha': case.rule(rule),
        'IMTL_G.combined_grad': case.by_wrapper(rule),
        'IMTL_G.scale_grad': balancer.scales.grad,
    }


def _mgda(case: Case) -> dict[str, Tensor]:
    outputs = {}
    for (name,) in case.matches(r'MGDA\.([^.]+)\.'):
        rule = balancing.MGDA(normalisation=name)
        outputs[f'MGDA.{name}.weights'] = rule.simplex(case.gram, case.losses)
        outputs[f'MGDA.{name}.combined_grad'] = case.by_wrapper(rule)
    return outputs


def _gradnorm(case: Case) -> dict[str, Tensor]:
    outputs = {}
    for (alpha,) in case.matches(r'GradNorm\.alpha([\d.]+)\.'):
        rule = balancing.GradNorm(case.tasks, alpha=float(alpha))
        rule.bind(case.tasks)
        rule.v.copy_(case.given('GradNorm.v'))
        rule.first.copy_(case.given('GradNorm.initial_losses'))
        rule.seen.fill_(1)
        name = f'GradNorm.alpha{alpha}'
        rows = torch.arange(len(case.tasks))
        outputs[f'{name}.grad_v'] = rule.gradient(case.gram, case.losses, rows)
        outputs[f'{name}.weights'] = rule.weights()
        outputs[f'{name}.combined_grad'] = case.by_wrapper(rule)
    return outputs


def _aligned(case: Case) -> dict[str, Tensor]:
    rule = balancing.AlignedMTL()
    return {
        'AlignedMTL.weights': case.rule(rule),
        'AlignedMTL.combined_grad': case.by_wrapper(rule),
    }


def _upgrad(case: Case) -> dict[str, Tensor]:
    # LibMTL adds a multiple of the identity to the products, over their trace.
    added = case.setting('UPGrad').get('UPGrad_reg_eps')
    if added is None:
        raise NoRunner('no runner for UPGrad without the UPGrad_reg_eps that was used')
    gram = case.grads.double() @ case.grads.double().T
    gram = gram / gram.trace() + added * torch.eye(len(gram), dtype=gram.dtype)
    weights = balancing.UPGrad()(gram, case.losses)
    return {
        'UPGrad.weights': weights,
        'UPGrad.combined_grad': weights @ case.grads.double(),
    }


def _famo(case: Case) -> dict[str, Tensor]:
    outputs: dict[str, Tensor] = {}
    last = max(int(i) for (i,) in case.matches(r'FAMO\.step(\d+)\.'))
    spec = case.setting('FAMO')
    balancer = balancing.FAMO(
        case.tasks, lr=spec['lr'], weight_decay=spec['weight_decay']
    )
    gradients: list[Tensor] = []
    step = balancer.adam.step

    def spy(value: Tensor, grad: Tensor, moved: Tensor) -> None:
        gradients.append(grad)
        step(value, grad, moved)

    balancer.adam.step = spy
    for i in range(last + 1):
        before, after = (case.given(f'FAMO.losses_{w}')[i] for w in ('before', 'after'))
        name = f'FAMO.step{i}'
        outputs[f'{name}.z_used'] = torch.softmax(balancer.logits, 0)
        outputs[f'{name}.combined_grad'] = case.by_balancer(balancer, before)
        outputs[f'{name}.effective_loss_weights'] = case.weights(balancer)
        with balancer.measuring():
            balancer(dict(zip(case.tasks, after, strict=True)))
        outputs[f'{name}.logits_after'] = balancer.logits.clone()
        outputs[f'{name}.logits_grad'] = gradients[-1]
    return outputs


METHODS: dict[str, Callable[[Case], dict[str, Tensor]]] = {
    'EW': _equal,
    'UW': _uw,
    'GLS': _geometric,
    'DWA': _dwa,
    'PCGrad': pcgrad,
    'CAGrad': _cagrad,
    'IMTL_G': _imtl,
    'MGDA': _mgda,
    'GradNorm': _gradnorm,
    'AlignedMTL': _aligned,
    'UPGrad': _upgrad,
    'FAMO': _famo,
}
