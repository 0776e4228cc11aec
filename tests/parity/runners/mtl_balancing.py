"""Loss balancers and gradient rules against LibMTL, and Delta_m."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmseg_xmodal.engine import GradientRuleOptimWrapper
from mmseg_xmodal.evaluation.delta_m import delta_m
from mmseg_xmodal.models import balancing
from mmseg_xmodal.models.layers.gradient_gate import GradientGate
from mmseg_xmodal.models.layers.task_batch import TaskBatch

from ..fixture import Fixture

REPOSITORY = 'https://github.com/median-research-group/LibMTL'
# Arrays that are given to the methods.
INPUTS = (
    r'(\w+\.)?grads|theta|losses|DWA\.loss_history|GradNorm\.(initial_losses|v)|'
    r'FAMO\.losses_(before|after)'
)


class Case(NamedTuple):
    """Gradients and losses, and what the arrays about them begin with."""

    prefix: str
    grads: Tensor
    losses: Tensor
    arrays: Mapping[str, Tensor]
    settings: Mapping[str, Any]

    @property
    def tasks(self) -> list[str]:
        return [f't{i}' for i in range(len(self.losses))]

    def has(self, name: str) -> bool:
        return self.prefix + name in self.arrays

    def matches(self, pattern: str) -> Iterator[tuple[str, ...]]:
        """Groups of the pattern, for every array of this case that it fits."""
        for name in self.arrays:
            match = re.fullmatch(re.escape(self.prefix) + pattern, name)
            if match:
                yield match.groups()

    def linear(self, theta: Tensor, values: Tensor | None = None) -> dict[str, Tensor]:
        """Losses with these values whose gradients are ``grads``."""
        values = self.losses if values is None else values
        moved = theta - theta.detach()
        return {
            task: value + grad @ moved
            for task, value, grad in zip(self.tasks, values, self.grads, strict=True)
        }

    def by_wrapper(self, rule: balancing.GradientRule) -> Tensor:
        """What a step of the optimiser wrapper takes from the shared parameters."""
        theta = nn.Parameter(torch.zeros_like(self.grads[0]))
        wrapper = GradientRuleOptimWrapper(torch.optim.SGD([theta], lr=1.0), rule=rule)
        shared = theta * 1
        gates = {task: GradientGate() for task in self.tasks}
        losses = {t: self.linear(gate(shared))[t] for t, gate in gates.items()}
        total = sum(losses.values())
        total.multitask = TaskBatch(
            losses, gates=gates, shared=(shared,), shared_parameters=[theta]
        )
        wrapper.update_params(total)
        return -theta.detach()

    def by_balancer(
        self, balancer: balancing.LossBalancer, values: Tensor | None = None
    ) -> Tensor:
        """Gradient on the shared parameters; those of the balancer stay in it."""
        theta = nn.Parameter(torch.zeros_like(self.grads[0]))
        sum(balancer(self.linear(theta, values)).values()).backward()
        return theta.grad

    def weights(self, balancer: balancing.LossBalancer) -> Tensor:
        return torch.stack([balancer.last_weights[task] for task in self.tasks])

    def rule(self, rule: balancing.GradientRule) -> Tensor:
        grads = self.grads.double()
        return rule(grads @ grads.T, self.losses)


def run_mtl_balancing(fixture: Fixture) -> dict[str, Tensor]:
    """Compute every output that the fixture holds.

    Args:
        fixture: With any numbers of tasks, orders, constants and sets of gradients.
    """
    arrays = {name: torch.from_numpy(a) for name, a in fixture.arrays().items()}
    settings = fixture.meta['settings']
    outputs = _delta_m(settings.get('delta_m', {}))
    for name in arrays:
        if re.fullmatch(r'(\w+\.)?grads', name):
            prefix = name.removesuffix('grads')
            case = Case(prefix, arrays[name], arrays['losses'], arrays, settings)
            if prefix:
                stated = torch.tensor(settings[prefix[:-1]]['gram'])
                torch.testing.assert_close(case.grads @ case.grads.T, stated)
            for method in METHODS:
                outputs.update({prefix + k: v for k, v in method(case).items()})
    outputs = {k: v.detach().to(arrays[k].dtype) for k, v in outputs.items()}
    left = {n for n in arrays if not re.fullmatch(INPUTS, n)} ^ set(outputs)
    assert not left, f'recorded and not computed, or the reverse: {sorted(left)}'
    return outputs


def _uw(case: Case) -> dict[str, Tensor]:
    if not case.has('UW.weights'):
        return {}
    init = case.settings['UW']['log_var_init']
    balancer = balancing.UncertaintyWeighting(case.tasks, init=_each(case, init))
    combined = case.by_balancer(balancer)
    return {
        'UW.combined_grad': combined,
        'UW.weights': case.weights(balancer),
        'UW.grad_log_var': balancer.log_var.grad,
    }


def _each(case: Case, value: float) -> dict[str, float]:
    return dict.fromkeys(case.tasks, value)


def _dwa(case: Case) -> dict[str, Tensor]:
    epochs = [int(e) for (e,) in case.matches(r'DWA\.weights_epoch(\d+)')]
    outputs = {}
    if epochs:
        # One iteration is one epoch.
        temperature = case.settings['DWA']['T']
        balancer = balancing.DynamicWeightAverage(case.tasks, 1, temperature)
        history = case.arrays['DWA.loss_history']
        for epoch in range(max(epochs) + 1):
            values = history[:, min(epoch, history.shape[1] - 1)]
            combined = case.by_balancer(balancer, values)
            outputs[f'DWA.weights_epoch{epoch}'] = case.weights(balancer)
            if f'DWA.combined_grad_epoch{epoch}' in case.arrays:
                outputs[f'DWA.combined_grad_epoch{epoch}'] = combined
    return outputs


def _pcgrad(case: Case) -> dict[str, Tensor]:
    outputs = {}
    for (name,) in case.matches(r'PCGrad\.(\w+)\.weights'):
        orders = case.settings['PCGrad']['orders'][name]
        rule = balancing.PCGrad(orders=orders)
        outputs[f'PCGrad.{name}.weights'] = case.rule(rule)
        outputs[f'PCGrad.{name}.combined_grad'] = case.by_wrapper(rule)
    return outputs


def _cagrad(case: Case) -> dict[str, Tensor]:
    outputs = {}
    for c, rescale in case.matches(r'CAGrad\.c([\d.]+)\.rescale(\d)\.w'):
        rule = balancing.CAGrad(c=float(c), rescale=int(rescale))
        name = f'CAGrad.c{c}.rescale{rescale}'
        outputs[f'{name}.w'] = rule.simplex(case.grads @ case.grads.T)
        outputs[f'{name}.combined_grad'] = case.by_wrapper(rule)
    return outputs


def _imtl(case: Case) -> dict[str, Tensor]:
    if not case.has('IMTL_G.alpha'):
        return {}
    rule = balancing.IMTLG()
    outputs = {
        'IMTL_G.alpha': case.rule(rule),
        'IMTL_G.combined_grad': case.by_wrapper(rule),
    }
    if case.has('IMTL_G.scale_grad'):
        balancer = balancing.IMTLLoss(case.tasks)
        case.by_balancer(balancer)
        outputs['IMTL_G.scale_grad'] = balancer.scales.grad
    return outputs


def _mgda(case: Case) -> dict[str, Tensor]:
    outputs = {}
    for (name,) in case.matches(r'MGDA\.([^.]+)\.weights'):
        rule = balancing.MGDA(normalisation=name)
        gram = case.grads @ case.grads.T
        outputs[f'MGDA.{name}.weights'] = rule.simplex(gram, case.losses)
        outputs[f'MGDA.{name}.combined_grad'] = case.by_wrapper(rule)
    return outputs


def _gradnorm(case: Case) -> dict[str, Tensor]:
    outputs = {}
    for (alpha,) in case.matches(r'GradNorm\.alpha([\d.]+)\.weights'):
        rule = balancing.GradNorm(case.tasks, alpha=float(alpha))
        rule.bind(case.tasks)
        rule.v.copy_(case.arrays['GradNorm.v'])
        rule.first.copy_(case.arrays['GradNorm.initial_losses'])
        rule.seen.fill_(1)
        name = f'GradNorm.alpha{alpha}'
        rows = torch.arange(len(case.tasks))
        gram = case.grads @ case.grads.T
        outputs[f'{name}.grad_v'] = rule.gradient(gram, case.losses, rows)
        outputs[f'{name}.weights'] = rule.weights()
        outputs[f'{name}.combined_grad'] = case.by_wrapper(rule)
    return outputs


def _aligned(case: Case) -> dict[str, Tensor]:
    if not case.has('AlignedMTL.weights'):
        return {}
    rule = balancing.AlignedMTL()
    return {
        'AlignedMTL.weights': case.rule(rule),
        'AlignedMTL.combined_grad': case.by_wrapper(rule),
    }


def _famo(case: Case) -> dict[str, Tensor]:
    outputs: dict[str, Tensor] = {}
    steps = sorted(int(i) for (i,) in case.matches(r'FAMO\.step(\d+)\.z_used'))
    if not steps:
        return outputs
    spec = case.settings['FAMO']
    balancer = balancing.FAMO(
        case.tasks, lr=spec['lr'], weight_decay=spec['weight_decay']
    )
    gradients: list[Tensor] = []
    step = balancer.adam.step

    def spy(value: Tensor, grad: Tensor, moved: Tensor) -> None:
        gradients.append(grad)
        step(value, grad, moved)

    balancer.adam.step = spy
    for i in steps:
        before, after = (
            case.arrays[f'FAMO.losses_{w}'][i] for w in ('before', 'after')
        )
        name = f'FAMO.step{i}'
        outputs[f'{name}.z_used'] = torch.softmax(balancer.logits, 0)
        outputs[f'{name}.combined_grad'] = case.by_balancer(balancer, before)
        outputs[f'{name}.effective_loss_weights'] = case.weights(balancer)
        with balancer.measuring():
            balancer(dict(zip(case.tasks, after, strict=True)))
        outputs[f'{name}.logits_after'] = balancer.logits.clone()
        outputs[f'{name}.logits_grad'] = gradients[-1]
    return outputs


METHODS = (
    _uw,
    _dwa,
    _pcgrad,
    _cagrad,
    _imtl,
    _mgda,
    _gradnorm,
    _aligned,
    _famo,
)


def _delta_m(spec: Mapping[str, Any]) -> dict[str, Tensor]:
    values: dict[str, float] = {}
    if 'libmtl' in spec:
        new, base, higher = (
            {
                task: {f'm{i}': value for i, value in enumerate(row)}
                for task, row in spec[key].items()
            }
            for key in ('new', 'base', 'higher_better')
        )
        values['libmtl'] = delta_m(
            new, base, higher, grouping='libmtl', sign='higher_is_better'
        )
    if 'one_metric_per_task' in spec:
        one = spec['one_metric_per_task']
        # Root mean square error and mean angle are errors; IoU and F-measure are not.
        higher = {
            task: {metric: metric not in ('rmse', 'mean') for metric in metrics}
            for task, metrics in one['single'].items()
        }
        values['one_metric_per_task'] = delta_m(
            one['multi'],
            one['single'],
            higher,
            grouping='one_metric_per_task',
            sign='higher_is_better',
        )
    return {
        f'delta_m.{name}': torch.tensor(value, dtype=torch.float64)
        for name, value in values.items()
    }
