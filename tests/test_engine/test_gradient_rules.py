from __future__ import annotations

import copy
import logging

import pytest
import torch

from mmseg_xmodal.engine.optimizers import gradient_rules, task_gram
from mmseg_xmodal.models.balancing import (
    MGDA,
    SumRule,
    UncertaintyWeighting,
    UPGrad,
)
from tests.test_models.multitask_toys import step, toy_model, toy_samples

from .task_toy import (
    TaskToy,
    assert_equal,
    own_gradients,
    run,
    total_of,
    toy_batch,
    wrap,
)

INTERACTION = dict(type='mmseg_xmodal.ToyInteraction', in_channels=[8, 16, 24, 32])


def count_backward(module, calls, name):
    """Count the gradients that arrive at the output of a module."""

    def arrives(_):
        calls[name] += 1

    module.register_forward_hook(
        lambda _, args, out: out.register_hook(arrives) and None
    )


@pytest.mark.parametrize('measured', [False, True])
@pytest.mark.parametrize('counts', [1, 3])
def test_sum_is_ordinary_training_bit_for_bit(measured, counts):
    plain, ours = TaskToy(), TaskToy()
    options = dict(accumulative_counts=counts, clip_grad=dict(max_norm=1.0))
    expected = run(plain, wrap(plain, plain=True, **copy.deepcopy(options)), 6)
    wrapper = wrap(ours, SumRule(), **copy.deepcopy(options))
    for i in range(6):
        if measured:
            wrapper.measure(['parameters', 'features'])
        run(ours, wrapper, 1, i)
        assert (wrapper.gram is not None) == measured
    assert_equal(ours.state_dict(), expected)


def test_sum_with_a_learnable_balancer_is_bit_equal_too():
    models = [TaskToy(balancer=UncertaintyWeighting(['a', 'b', 'c'])) for _ in '12']
    expected = run(models[0], wrap(models[0], plain=True))
    assert_equal(run(models[1], wrap(models[1], SumRule())), expected)
    assert expected['balancer.log_var'].ne(0).all()


@pytest.mark.parametrize('space', ['parameters', 'features'])
def test_update_is_the_weighted_sum_and_heads_stay_unweighted(space):
    model, batch = TaskToy().double(), toy_batch()
    batch = dict(
        inputs=batch['inputs'].double(),
        targets={t: v.double() for t, v in batch['targets'].items()},
    )
    gradients = own_gradients(model, batch)
    total_of(model, batch).backward()
    heads = {n: p.grad.clone() for n, p in model.heads.named_parameters()}
    model.zero_grad()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    wrapper = wrap(model, UPGrad(), momentum=0, lr=1.0, gram_space=space)
    wrapper.update_params(total_of(model, batch))
    assert wrapper.tasks == ('a', 'b', 'c')
    assert (wrapper.weights - 1 / 3).abs().max() > 0.01
    moved = {n: before[n] - p.detach() for n, p in model.named_parameters()}
    flat = torch.cat([v.flatten() for n, v in moved.items() if 'backbone' in n])
    expected = sum(
        w * gradients[t] for w, t in zip(wrapper.weights, wrapper.tasks, strict=True)
    )
    torch.testing.assert_close(flat, expected, rtol=1e-9, atol=1e-12)
    for name, grad in heads.items():
        # The step is a subtraction of the weights.
        torch.testing.assert_close(moved[f'heads.{name}'], grad, rtol=0, atol=1e-12)


def test_gram_is_that_of_the_gradients():
    model, batch = TaskToy(), toy_batch()
    matrix = torch.stack(list(own_gradients(model, batch).values())).double()
    wrapper = wrap(model)
    wrapper.update_params(total_of(model, batch))
    torch.testing.assert_close(wrapper.gram, matrix @ matrix.T, rtol=1e-5, atol=1e-7)
    assert wrapper.gram[0, 1] < 0, 'the toy has a conflict'
    assert wrapper.gram.dtype == torch.float64


@pytest.mark.parametrize('interaction', [None, INTERACTION])
def test_the_real_model(interaction):
    samples = toy_samples()
    # Each odd sample has no height.
    samples[1].set_metainfo(dict(task_valid=dict(height=False)))
    plain, ours = (toy_model(interaction=interaction) for _ in '12')
    for model in (plain, ours):
        wrapper = wrap(model, SumRule(), plain=model is plain)
        for _ in range(2):
            if model is ours:
                wrapper.measure(['features'])
            wrapper.update_params(step(model, samples)[0])
    assert_equal(ours.state_dict(), plain.state_dict())

    model = toy_model(interaction=interaction)
    batch = step(model, samples)[0].multitask
    rows = torch.stack(
        [
            torch.cat([g.flatten() for g in _full_gradients(loss, batch)])
            for loss in batch.losses.values()
        ]
    )
    before = [p.detach().clone() for p in batch.shared_parameters]
    wrapper = wrap(model, UPGrad(), momentum=0, lr=1.0)
    wrapper.update_params(step(model, samples)[0])
    assert wrapper.tasks == ('seg', 'height', 'cover', 'det')
    moved = [
        (old - p.detach()).flatten()
        for old, p in zip(before, batch.shared_parameters, strict=True)
    ]
    expected = wrapper.weights.float() @ rows
    assert (expected - rows.mean(0)).abs().max() > 1e-3
    torch.testing.assert_close(torch.cat(moved), expected, rtol=1e-3, atol=1e-5)


def _full_gradients(loss, batch):
    grads = torch.autograd.grad(
        loss, batch.shared_parameters, retain_graph=True, allow_unused=True
    )
    pairs = zip(grads, batch.shared_parameters, strict=True)
    return [torch.zeros_like(p) if g is None else g for g, p in pairs]


def test_gradient_at_a_map_does_not_run_on_through_the_backbone():
    """Boxes read the last map alone, which the backbone makes of the others."""
    batch = step(toy_model())[0].multitask
    grads = torch.autograd.grad(batch.losses['det'], batch.shared, allow_unused=True)
    reached = [grad is not None and bool(grad.any()) for grad in grads]
    assert reached == [False, False, False, True]


def test_gram_in_pieces(monkeypatch):
    grams = []
    for chunk in (task_gram._CHUNK, 7):
        monkeypatch.setattr(task_gram, '_CHUNK', chunk)
        model = TaskToy()
        wrapper = wrap(model, gram_space='features')
        wrapper.measure(['parameters'])
        wrapper.update_params(total_of(model, toy_batch()))
        grams.append(wrapper.grams)
    assert set(grams[0]) == {'parameters', 'features'}
    for space, gram in grams[0].items():
        torch.testing.assert_close(gram, grams[1][space])


def test_features_gram_is_that_of_the_maps():
    model, batch = TaskToy(), toy_batch()
    losses = model(**batch, mode='loss')
    shared = model.batch.shared[0]
    rows = torch.stack(
        [
            torch.autograd.grad(v, shared, retain_graph=True)[0].flatten()
            for v in losses.values()
        ]
    ).double()
    wrapper = wrap(model, gram_space='features')
    wrapper.update_params(total_of(model, batch))
    torch.testing.assert_close(wrapper.gram, rows @ rows.T, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ('space', 'through_backbone'), [('parameters', 4), ('features', 1)]
)
def test_number_of_backward_passes(space, through_backbone):
    """T + 1 = 4; in the space of features only one of them through the backbone."""
    model = TaskToy()
    calls = dict(backbone=0, heads=0)
    count_backward(model.backbone[0], calls, 'backbone')
    for head in model.heads.values():
        count_backward(head, calls, 'heads')
    run(model, wrap(model, gram_space=space), 1)
    # Each task has one head: T alone, and T in the total.
    assert calls == dict(backbone=through_backbone, heads=6)


def test_gradients_never_leave_the_device(monkeypatch):
    sizes = []
    cpu = torch.Tensor.cpu

    def watched(tensor, *args, **kwargs):
        sizes.append(tensor.numel())
        return cpu(tensor, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, 'cpu', watched)
    model = TaskToy()
    run(model, wrap(model), 1)
    assert sizes
    assert max(sizes) <= 9


def test_a_task_without_labels_is_left_out():
    model = TaskToy()
    wrapper = wrap(model, MGDA())
    run(model, wrapper, 1, without=['b'])
    assert wrapper.tasks == ('a', 'c')
    assert wrapper.gram.shape == (2, 2)
    assert float(wrapper.weights.sum()) == pytest.approx(1)


def test_one_labelled_task_has_the_weight_one():
    plain, ours = TaskToy(), TaskToy()
    expected = run(plain, wrap(plain, plain=True), without=['b', 'c'])
    wrapper = wrap(ours, MGDA())
    assert_equal(run(ours, wrapper, without=['b', 'c']), expected)
    assert wrapper.tasks == ('a',)
    assert wrapper.weights.tolist() == [1]
    assert wrapper.gram is None


def test_gradients_that_are_not_finite_have_the_weight_one(monkeypatch):
    lines = []
    monkeypatch.setattr(
        gradient_rules, 'print_log', lambda text, **kwargs: lines.append((text, kwargs))
    )
    model = TaskToy()
    wrapper = wrap(model)
    monkeypatch.setattr(wrapper, '_loss_scale', lambda: float('inf'))
    run(model, wrapper, 1)
    assert wrapper.weights.tolist() == [1, 1, 1]
    assert 'PCGrad' in lines[0][0]
    assert lines[0][1]['level'] == logging.WARNING
    assert all(p.isfinite().all() for p in model.parameters())


def test_loss_scale_is_taken_out(monkeypatch):
    grams = []
    for scale in (1.0, 1024.0):
        model = TaskToy()
        wrapper = wrap(model)
        monkeypatch.setattr(wrapper, '_loss_scale', lambda scale=scale: scale)
        run(model, wrapper, 1)
        grams.append(wrapper.gram)
    torch.testing.assert_close(*grams)


def test_gates_are_open_again():
    model = TaskToy()
    loss = total_of(model, toy_batch())
    gates = loss.multitask.gates
    seen = {}
    for task, gate in gates.items():
        loss.register_hook(lambda _, t=task, g=gate: seen.update({t: g.weight}))
    wrapper = wrap(model)
    wrapper.update_params(loss)
    assert seen == dict(zip(wrapper.tasks, wrapper.weights.tolist(), strict=True))
    assert all(gate.weight is None for gate in gates.values())


def test_anchor_reaches_what_a_task_does_not_use():
    """A rank without labels for a task goes through the same modules."""
    model = TaskToy()
    loss = total_of(model, toy_batch(without=['b']))
    batch = loss.multitask
    grams = task_gram.task_grams(batch, ['a', 'b', 'c'], ['parameters'], 1.0, True)
    gram = grams['parameters']
    assert gram[1].tolist() == [0, 0, 0]
    plain = task_gram.task_grams(batch, ['a', 'c'], ['parameters'], 1.0, False)
    assert torch.equal(gram[[0, 2]][:, [0, 2]], plain['parameters'])
    calls = dict(backbone=0)
    count_backward(model.backbone[0], calls, 'backbone')
    batch = total_of(model, toy_batch(without=['b'])).multitask
    task_gram.task_grams(batch, ['a', 'b', 'c'], ['parameters'], 1.0, True)
    assert calls['backbone'] == 3
