"""Training of :class:`MultiTaskEncoderDecoder`."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.structures import InstanceData
from torch import nn

from mmseg_xmodal.models.layers.gradient_gate import GradientGate
from mmseg_xmodal.models.layers.task_batch import connected_zero
from mmseg_xmodal.models.segmentors import multitask_losses
from mmseg_xmodal.registry import MODELS

from .multitask_toys import (
    AUX,
    BACKBONE,
    SEG,
    WIDTHS,
    gradients,
    step,
    toy_heads,
    toy_inputs,
    toy_model,
    toy_samples,
)

TERMS = {'seg.loss_ce', 'height.loss_square', 'cover.loss_ce', 'det.loss_box'}
LOGGED = {'seg.acc_seg', 'height.rmse', 'cover.acc_seg'}
INTERACTION = dict(type='mmseg_xmodal.ToyInteraction', in_channels=list(WIDTHS))


def test_terms_are_named_by_task_and_losses_are_added():
    model = toy_model()
    losses = model.loss(toy_inputs(), toy_samples())
    assert set(losses) == TERMS | LOGGED
    total, logged = model.parse_losses(losses)
    assert list(logged) == ['loss', *losses]
    assert torch.equal(logged['loss'], total.detach())
    torch.testing.assert_close(total, sum(losses[name] for name in TERMS))
    assert {t: float(v.detach()) for t, v in total.multitask.losses.items()} == {
        key.split('.')[0]: float(losses[key].detach()) for key in TERMS
    }


def test_segmentation_alone_is_the_stock_segmentor():
    ours = toy_model(task_heads={}, auxiliary_head=AUX)
    cfg = dict(backbone=BACKBONE, decode_head=SEG, auxiliary_head=AUX)
    stock = MODELS.build(dict(type='mmseg.EncoderDecoder', **cfg))
    stock.load_state_dict(ours.state_dict())
    total, logged = step(ours)
    expected, terms = stock.parse_losses(stock.loss(toy_inputs(), toy_samples()))
    assert torch.equal(total, expected)
    names = [n.replace('decode.', 'seg.').replace('aux.', 'seg.aux_') for n in terms]
    assert list(logged) == names
    total.backward()
    expected.backward()
    grads = gradients(ours)
    for name, parameter in stock.named_parameters():
        if parameter.grad is None:  # of a level that no head reads
            assert (grads[name] == 0).all(), name
        else:
            assert torch.equal(grads[name], parameter.grad), name


def test_auxiliary_heads_belong_to_the_segmentation():
    heads = [AUX, AUX | dict(in_channels=32, in_index=3)]
    losses = toy_model(auxiliary_head=heads).loss(toy_inputs(), toy_samples())
    assert {name for name in losses if name.startswith('seg.')} == {
        'seg.loss_ce',
        'seg.acc_seg',
        *(f'seg.aux_{i}_{name}' for i in (0, 1) for name in ('loss_ce', 'acc_seg')),
    }


@pytest.mark.parametrize('interaction', [None, INTERACTION])
@pytest.mark.parametrize(
    ('task', 'field'), [('seg', 'gt_sem_seg'), ('det', 'gt_instances')]
)
def test_an_unlabelled_task_is_a_connected_zero(task, field, interaction):
    model = toy_model(auxiliary_head=AUX, interaction=interaction)
    losses = model.loss(toy_inputs(), toy_samples(without=[field]))
    assert [name for name in losses if name.startswith(f'{task}.')] == [
        f'{task}.loss_unlabelled'
    ]
    assert losses[f'{task}.loss_unlabelled'] == 0
    total, _ = model.parse_losses(losses)
    assert total.multitask.unlabelled == (task,)
    assert task not in total.multitask.losses
    total.backward()
    grads = gradients(model)  # of all parameters, so DDP does not wait
    own = 'decode_head.' if task == 'seg' else f'task_heads.{task}.'
    assert all((g == 0).all() for n, g in grads.items() if n.startswith(own))
    # Nobody else reads the last level.
    reached = any((g != 0).any() for n, g in grads.items() if 'stages.3' in n)
    assert reached is (task != 'det')


def test_a_connected_zero_is_one_whatever_the_parameters_are():
    module = nn.Linear(2, 3)
    with torch.no_grad():
        module.weight.fill_(float('nan'))
    x = torch.full((2, 3), float('inf'), requires_grad=True)
    zero = connected_zero(module, x)
    zero.backward()
    assert zero == 0
    assert all((grad == 0).all() for grad in (*gradients(module).values(), x.grad))
    assert connected_zero(module.requires_grad_(False)) == 0


def test_a_task_trains_on_the_samples_that_have_its_labels():
    model = toy_model()
    samples = toy_samples(3)
    del samples[1].gt_height
    samples[2].set_metainfo(dict(task_valid=dict(cover=False, height=True)))
    feats = model.extract_feat(toy_inputs(3))
    losses = model.loss(toy_inputs(3), samples)
    for task, places in (('height', [0, 2]), ('cover', [0, 1]), ('det', [0, 1, 2])):
        own = [samples[i] for i in places]
        expected = model.task_heads[task].loss([f[places] for f in feats], own)
        for name, value in expected.items():
            assert torch.equal(losses[f'{task}.{name}'], value), (task, name)
    total, _ = model.parse_losses(losses)
    assert total.multitask.labelled == dict(
        seg=(0, 1, 2), height=(0, 2), cover=(0, 1), det=(0, 1, 2)
    )


def test_no_objects_and_ignored_pixels_are_labels():
    samples = toy_samples(without=['gt_height'])
    for sample in samples:
        sample.gt_sem_seg.data.fill_(255)
        sample.gt_cover.data.fill_(255)
        none = dict(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
        sample.gt_instances = InstanceData(**none)
    total, _ = step(toy_model(), samples)
    assert total == 0
    assert set(total.multitask.losses) == {'seg', 'cover', 'det'}


@pytest.mark.parametrize('interaction', [None, INTERACTION])
def test_gates_change_nothing_until_they_weigh(monkeypatch, interaction):
    model = toy_model(interaction=interaction, auxiliary_head=AUX)
    results = []
    for gated in (True, False):
        if not gated:
            monkeypatch.setattr(GradientGate, 'all', lambda self, feats: tuple(feats))
        model.zero_grad()
        total, _ = step(model)
        total.backward()
        results.append((total.detach(), gradients(model)))
    assert torch.equal(results[0][0], results[1][0])
    for name, grad in results[1][1].items():
        assert torch.equal(results[0][1][name], grad), name


@pytest.mark.parametrize('interaction', [None, INTERACTION])
def test_gates_weigh_shared_parameters_and_no_others(interaction):
    model = toy_model(interaction=interaction)
    grads = {}
    for weight in (1.0, 0.0, 2.0):
        model.zero_grad()
        total, _ = step(model)
        total.multitask.gates['height'].weight = weight
        total.backward()
        grads[weight] = gradients(model)
    shared = ('backbone.', 'interaction.')
    for name, one in grads[1.0].items():
        none, two = grads[0.0][name], grads[2.0][name]
        if name.startswith(shared):
            # g_other + w g_height, for three weights; float32 sums in another order.
            torch.testing.assert_close(two - one, one - none, rtol=1e-3, atol=1e-5)
        else:
            assert torch.equal(two, one), name
    if interaction:
        only = 'interaction.first.height.weight'
        assert (grads[0.0][only] == 0).all()
        assert (grads[1.0][only] != 0).any()
    assert not torch.equal(
        *(grads[w]['backbone.stages.0.norm.weight'] for w in (0.0, 2.0))
    )


def test_what_the_scalar_carries():
    model = toy_model(interaction=INTERACTION)
    total, _ = step(model)
    batch = total.multitask
    assert list(batch.gates) == ['seg', 'height', 'cover', 'det']
    assert batch.paths == ['0.png', '1.png']
    assert not batch.skip
    assert [x.shape[1] for x in batch.shared] == list(WIDTHS)
    shared = (*model.backbone.parameters(), *model.interaction.parameters())
    assert {id(p) for p in batch.shared_parameters} == {id(p) for p in shared}
    # The task's gradient at the shared maps comes from the graph of its own loss.
    grads = torch.autograd.grad(batch.losses['height'], batch.shared, allow_unused=True)
    assert (grads[0] != 0).any()
    assert all(value is not total for value in batch.losses.values())


def test_intermediate_predictions_are_supervised():
    model = toy_model(interaction=INTERACTION)
    losses = model.loss(toy_inputs(), toy_samples())
    added = {f'{t}.loss_ce_init0' for t in ('seg', 'cover')} | {
        'height.loss_square_init0'
    }
    logged = {name for name in losses if name.endswith('_init0')}
    assert {name for name in logged if 'loss' in name} == added
    total, _ = model.parse_losses(losses)
    torch.testing.assert_close(total, sum(losses[n] for n in TERMS | added))
    assert dict(model.interaction.tasks) == dict(seg=3, height=1, cover=4)
    # Heads read their own pyramids, other tasks the plain one.
    feats = model.extract_feat(toy_inputs())
    pyramids, first = model.interaction(feats)
    expected = model.task_heads.height.loss(pyramids['height'], toy_samples())
    assert torch.equal(losses['height.loss_square'], expected['loss_square'])
    expected = model.decode_head.loss_by_feat(first['seg'][0], toy_samples())
    assert torch.equal(losses['seg.loss_ce_init0'], expected['loss_ce'])
    expected = model.task_heads.det.loss(feats, toy_samples())
    assert torch.equal(losses['det.loss_box'], expected['loss_box'])


def test_a_balancer_weighs_labelled_tasks_and_gets_all_gradients():
    balancer = dict(type='mmseg_xmodal.ToyBalancer')
    model, plain = toy_model(balancer=balancer), toy_model()
    samples = toy_samples(without=['gt_cover'])
    total, logged = step(model, samples)
    expected, _ = step(plain, toy_samples(without=['gt_cover']))
    torch.testing.assert_close(total, 2 * expected)
    torch.testing.assert_close(
        total.multitask.losses['height'], 2 * logged['height.loss_square']
    )
    total.backward()
    assert gradients(model.balancer)['factors.cover'] == 0


@pytest.mark.parametrize('tasks', [['det'], ['height'], ['seg', 'det']])
def test_only_some_tasks(tasks):
    model = toy_model(tasks=tasks, auxiliary_head=AUX)
    assert model.tasks == tuple(tasks)
    assert set(model.task_heads) == set(tasks) - {'seg'}
    samples = toy_samples()
    # The data may still say something about a task that is left out on purpose.
    samples[0].set_metainfo(dict(task_valid=dict(cover=False)))
    total, logged = step(model, samples)
    assert {name.split('.')[0] for name in logged} == {'loss', *tasks}
    total.backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in trained)
    frozen = [p for p in model.decode_head.parameters() if not p.requires_grad]
    assert bool(frozen) is ('seg' not in tasks)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            dict(tasks=['seg', 'depht']),
            r"tasks=\['seg', 'depht'\], expected .*'height'",
        ),
        (dict(tasks=[]), 'at least one of'),
        (dict(tasks='seg'), "tasks='seg', expected a list"),
        (dict(seg_task='det'), "'det' cannot be one of them"),
        (dict(seg_task='a.b'), "'a.b' cannot be one of them"),
        (dict(task_heads=dict(pop=toy_heads()['det'])), "'pop' cannot be one of"),
        (dict(task_heads=dict(det=dict(num_classes=3))), r"task_heads\['det'\]"),
        (dict(on_bad_loss='ignore'), "on_bad_loss='ignore', expected 'raise' or"),
    ],
)
def test_what_the_constructor_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        toy_model(**changes)


def test_a_task_of_the_data_that_the_model_does_not_know():
    samples = toy_samples()
    samples[1].set_metainfo(dict(task_valid=dict(depth=True, seg=True)))
    with pytest.raises(ValueError, match=r"'1.png' has \['depth'\].*'cover', 'det'"):
        toy_model().loss(toy_inputs(), samples)


def test_terms_without_a_task_are_refused():
    model = toy_model()
    losses = model.loss(toy_inputs(), toy_samples())
    losses['loss_extra'] = torch.ones(())
    with pytest.raises(ValueError, match="'loss_extra', expected '<task>.<name>'"):
        model.parse_losses(losses)
    with pytest.raises(RuntimeError, match='call the model again'):
        model.parse_losses(losses)


def test_the_word_loss_counts_in_the_name_of_the_term_alone():
    terms = {'lossy.acc': torch.tensor(9.0), 'lossy.loss_a': torch.tensor(2.0)}
    sums = multitask_losses.task_sums(
        terms | {'lossy.loss_b': torch.tensor(3.0)}, ['lossy']
    )
    assert sums == dict(lossy=torch.tensor(5.0))


def test_stock_training_accumulates():
    """Two batches of two, accumulated, are one step on the mean of their losses."""
    model, other = toy_model(), toy_model()
    wrapper, plain = (
        OptimWrapper(torch.optim.SGD(m.parameters(), 0.1), accumulative_counts=n)
        for m, n in ((model, 2), (other, 1))
    )
    inputs, samples = toy_inputs(4), toy_samples(4)
    halves = [(inputs[:2], samples[:2]), (inputs[2:], samples[2:])]
    for x, own in halves:
        model.train_step(dict(inputs=x, data_samples=own), wrapper)
    totals = [other.parse_losses(other.loss(x, own))[0] for x, own in halves]
    plain.update_params((totals[0] + totals[1]) / 2)
    for name, p in model.named_parameters():
        # Sums of float32 in another order.
        torch.testing.assert_close(
            p, other.get_parameter(name), rtol=1e-4, atol=1e-5, msg=name
        )
    assert not torch.equal(
        model.backbone.stages[0].norm.weight, toy_model().backbone.stages[0].norm.weight
    )


def test_copies_and_checkpoints():
    model = toy_model(balancer=dict(type='mmseg_xmodal.ToyBalancer'))
    model.loss(toy_inputs(), toy_samples())  # leaves a graph, which has no copy
    clone = copy.deepcopy(model)
    with pytest.raises(RuntimeError, match='call the model again'):
        clone.parse_losses({})
    other = toy_model(balancer=dict(type='mmseg_xmodal.ToyBalancer', factor=1.0))
    other.load_state_dict(model.state_dict(), strict=True)
    assert not any('gate' in name for name in model.state_dict())
    assert torch.equal(step(other)[0], step(clone)[0])


def test_mixed_precision():
    model = toy_model(interaction=INTERACTION, auxiliary_head=AUX)
    with torch.autocast('cpu', torch.bfloat16):
        assert model.backbone(toy_inputs())[0].dtype == torch.bfloat16
        losses = model.loss(toy_inputs(), toy_samples(without=['gt_cover']))
    total, _ = model.parse_losses(losses)
    assert total.dtype == torch.float32
    exact, _ = step(model, toy_samples(without=['gt_cover']))
    torch.testing.assert_close(total, exact, rtol=0.02, atol=0)  # bfloat16 has 8 bits
    total.backward()
    assert all(grad.isfinite().all() for grad in gradients(model).values())
