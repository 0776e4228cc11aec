"""Loss balancers and gradient rules against LibMTL, and Delta_m."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor

from mmseg_xmodal.models import balancing

from ..fixture import Fixture, NoRunner
from .mtl_case import Case, cases, gains
from .sections import finish, load

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
    arrays, settings = load(fixture), fixture.meta.get('settings') or {}
    sets = list(cases(arrays, settings))
    _check_methods(fixture, [case.prefix for case in sets], arrays)
    outputs = gains(fixture, arrays)
    for case in sets:
        for method, compute in METHODS.items():
            if case.about(method):
                found = {case.prefix + k: v for k, v in compute(case).items()}
                outputs |= {k: v for k, v in found.items() if k in arrays}
    return finish(fixture, arrays, outputs, INPUTS)


def _check_methods(fixture: Fixture, prefixes: list[str], arrays: dict) -> None:
    found = set()
    for name in arrays:
        if not re.fullmatch(INPUTS, name) and not name.startswith('delta_m.'):
            own = max((p for p in prefixes if name.startswith(p)), key=len, default='')
            found.add(name.removeprefix(own).partition('.')[0])
    if unknown := sorted(found - set(METHODS)):
        raise NoRunner(f'{fixture.name}: no runner for the methods {unknown}')


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
    balancer = balancing.GeometricMeanLoss(case.tasks)
    combined = case.by_balancer(balancer)
    weights = case.weights(balancer)
    if case.has('GLS.weights'):
        recorded = case.given('GLS.weights').float()
        used = case.grads.T @ recorded
        if not torch.allclose(used, combined, rtol=1e-2, atol=1e-3):
            # LibMTL logs L_t / (T prod L) as weights, which it does not use. Ours are
            # w_t = m / (T L_t) with m = (prod L)^(1/T), which the terms add up to.
            count = len(case.tasks)
            mean = (weights * case.losses).sum()
            weights = mean ** (1 - count) / (count**2 * weights)
    return {'GLS.combined_grad': combined, 'GLS.weights': weights}


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


def _pcgrad(case: Case) -> dict[str, Tensor]:
    outputs = {}
    for (name,) in case.matches(r'PCGrad\.(\w+)\.'):
        orders = case.setting('PCGrad')['orders'][name]
        # LibMTL does not pass over the task itself.
        rule = balancing.PCGrad(orders=orders, others_only=False)
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
        raise NoRunner('UPGrad without the UPGrad_reg_eps that was used')
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
    'PCGrad': _pcgrad,
    'CAGrad': _cagrad,
    'IMTL_G': _imtl,
    'MGDA': _mgda,
    'GradNorm': _gradnorm,
    'AlignedMTL': _aligned,
    'UPGrad': _upgrad,
    'FAMO': _famo,
}
