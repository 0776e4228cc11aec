"""The training step of domain adaptation where one backward pass is not enough.

``backward='sequential'`` computes the losses of a term after the ones before it went
backward, so that one graph lives at a time; modules with an optimiser of their own
(discriminators) go backward by that. Gradients are those of the sum, one step of each
optimiser follows, and accumulation and loss scales are those of mmengine.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import Tensor, nn

from ..adaptation.base import AdaptationStep, AdaptationTerm, Losses
from ..adaptation.step import prediction_heads
from ..layers.noted_calls import noted_calls, noted_outputs

Average = Callable[[Sequence[nn.Parameter]], None]
OWNERS = ('student', 'discriminator')
WRAPPER = (
    "model_wrapper_cfg=dict(type='mmseg_xmodal.AdaptationDistributedDataParallel')"
)
CONSTRUCTOR = (
    "optim_wrapper.constructor='mmseg_xmodal.AdversarialOptimWrapperConstructor'"
)


@dataclasses.dataclass
class TermGroup:
    """Terms that go backward together.

    Args:
        graphs: Graphs of the step that one of them goes back through.
        terms: In the order of the model.
    """

    graphs: set[str]
    terms: list[AdaptationTerm]


def term_groups(terms: Sequence[AdaptationTerm]) -> list[TermGroup]:
    """Group terms by the graphs that they share.

    The first group, terms on the graph of the source, goes backward with its loss; the
    others keep the order of their first terms.
    """
    groups = [TermGroup({'source'}, [])]
    for term in terms:
        graphs = set(term.GRAPHS)
        sharing = [group for group in groups if group.graphs & graphs]
        if not sharing:
            groups.append(TermGroup(graphs, [term]))
            continue
        first = sharing[0]
        for other in sharing[1:]:
            first.graphs |= other.graphs
            first.terms += other.terms
            groups.remove(other)
        first.graphs |= graphs
        first.terms.append(term)
        first.terms.sort(key=list(terms).index)
    return groups


class Pass(NamedTuple):
    """What goes backward at once.

    Args:
        owner: Whose optimiser goes backward.
        losses: Computes them.
        graphs: Graphs of the step that are done with afterwards.
    """

    owner: str
    losses: Callable[[], Losses]
    graphs: set[str]


def passes(model: Any, step: AdaptationStep) -> Iterator[Pass]:
    """The backward passes of a step, in their order."""
    groups = term_groups(model.terms)
    if not model.sequential:
        together = set[str]().union(*(group.graphs for group in groups))
        groups = [TermGroup(together, list(model.terms))]
    for i, group in enumerate(groups):
        losses = functools.partial(
            model.losses_of, step, group.terms, with_source=i == 0
        )
        yield Pass('student', losses, group.graphs)
    for term in model.terms:
        if term.opponents():
            yield Pass('discriminator', functools.partial(_opposed, term, step), set())


def source_losses(step: AdaptationStep, terms: Iterable[Any]) -> Losses:
    """Losses of the student on the source, noted for the terms that read them."""
    student = step.student
    noted = any(term.USES_SOURCE_LOGITS for term in terms)
    heads = prediction_heads(student) if noted else []
    with (
        noted_calls(getattr(student, 'backbone', None), step.source_calls),
        noted_outputs(heads, step.source_logits),
    ):
        losses = student.loss(step.source.inputs, step.source.samples)
    return {f'source.{name}': value for name, value in losses.items()}


def _opposed(term: AdaptationTerm, step: AdaptationStep) -> Losses:
    return {f'{term.name}.{k}': v for k, v in term.opponent_losses(step).items()}


def own_train_step(
    model: Any, data: Any, optim_wrapper: Any, average: Average | None = None
) -> dict[str, Tensor]:
    """As mmengine's ``train_step``, with several backward passes.

    Args:
        model: The ``DomainAdaptiveSegmentor``.
        data: A batch of the data loader.
        optim_wrapper: One, or those of ``AdversarialOptimWrapperConstructor``.
        average: Averages the gradients of given parameters over processes; called once
            for each optimiser, right before its step.

    Returns:
        What is logged.

    Raises:
        ValueError: If the optimiser wrappers cannot be used.
    """
    wrappers = checked_wrappers(model, optim_wrapper)
    counts = {owner: wrapper.inner_count for owner, wrapper in wrappers.items()}
    with wrappers['student'].optim_context(model):
        batch = model.data_preprocessor(data, True)
        step = model.begin(batch['inputs'], batch['data_samples'])
    found: Losses = {}
    for owner, compute, graphs in passes(model, step):
        wrapper = wrappers[owner]
        with wrapper.optim_context(model):
            losses = compute()
        total, _ = model.parse_losses(losses)
        found.update({name: _detached(value) for name, value in losses.items()})
        # The values would keep the graph.
        del losses
        if isinstance(total, Tensor) and total.requires_grad:
            # Each pass counts one more; all are one iteration.
            wrapper._inner_count = counts[owner]
            wrapper.backward(wrapper.scale_loss(total))
        del total
        step.release(graphs)
    for wrapper in wrappers.values():
        if not wrapper.should_update():
            continue
        if average is not None:
            groups = wrapper.optimizer.param_groups
            average([p for group in groups for p in group['params']])
        wrapper.step()
        wrapper.zero_grad()
    return model.parse_losses(found)[1]


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else [v.detach() for v in value]


def checked_wrappers(model: Any, optim_wrapper: Any) -> dict[str, Any]:
    """The optimiser wrappers by owner.

    Raises:
        ValueError: If one is missing, or updates parameters in a way of its own.
    """
    opposed = [term.name for term in model.terms if term.opponents()]
    several = isinstance(optim_wrapper, OptimWrapperDict)
    names = sorted(optim_wrapper.keys()) if several else None
    if opposed and names != sorted(OWNERS):
        raise ValueError(
            f"The terms {opposed} have optimizer='own', but optim_wrapper is a "
            f'{type(optim_wrapper).__name__} of {names or "one optimiser"}, expected '
            f"those of {list(OWNERS)}. Set {CONSTRUCTOR}, or optimizer='shared' in the "
            'terms.'
        )
    if several and not opposed:
        raise ValueError(
            f"optim_wrapper has {names}, but no term has optimizer='own', expected one "
            'optimiser. Remove optim_wrapper.constructor.'
        )
    wrappers = dict(optim_wrapper.items()) if several else dict(student=optim_wrapper)
    for wrapper in wrappers.values():
        if type(wrapper).update_params is not OptimWrapper.update_params:
            raise ValueError(
                f'optim_wrapper is a {type(wrapper).__name__}, which updates '
                'parameters in a way of its own that several backward passes would '
                "leave out, expected 'OptimWrapper' or 'AmpOptimWrapper'. Set "
                "optim_wrapper.type, or backward='summed' in the model."
            )
    return wrappers


def refuse_one_call(model: Any) -> None:
    """Raise, since all losses were asked for at once.

    Raises:
        ValueError: Always.
    """
    opposed = [term.name for term in model.terms if term.opponents()]
    asked = [f"the terms {opposed} have optimizer='own'"] if opposed else []
    asked += ["backward='sequential'"] if model.sequential else []
    raise ValueError(
        f'DomainAdaptiveSegmentor: {" and ".join(asked)}, which needs the training '
        'step of the model itself, but all losses were asked for at once, as '
        f"mmengine's MMDistributedDataParallel does. Set {WRAPPER}, or take "
        "backward='summed' and optimizer='shared'."
    )
