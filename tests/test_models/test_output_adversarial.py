"""Adversaries on the outputs: the published step by hand, gradient reversal, resume."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.runner import CheckpointLoader, Runner
from torch import Tensor, nn
from torch.nn import functional as F

from mmseg_xmodal.engine import (
    AdversarialOptimWrapperConstructor,
    AdversarialOptimWrapperDict,
)
from mmseg_xmodal.models import OutputAdversarial
from mmseg_xmodal.models.layers.output_discriminator import OutputDiscriminator

from . import resolution_toys
from .adaptation_toys import (
    CLASSES,
    MEAN,
    SIZE,
    STD,
    batch,
    student_cfg,
    wrapper,
)

# A large weight: the published one would hide a wrong gradient behind the source loss.
TERM = dict(type='mmseg_xmodal.OutputAdversarial', weight=0.3, channels=4)
OWN = TERM | dict(optimizer='own')
ENTROPY = dict(type='mmseg_xmodal.EntropyMinimization', weight=0.1)
SGD = dict(type='SGD', lr=0.05, momentum=0.9)
ADAM = dict(type='Adam', lr=1e-3, betas=(0.9, 0.99))


def wrappers(model: nn.Module, **cfg: Any) -> AdversarialOptimWrapperDict:
    paramwise = cfg.pop('paramwise_cfg', None)
    cfg = dict(type='OptimWrapper', optimizer=dict(SGD), discriminator=ADAM) | cfg
    return AdversarialOptimWrapperConstructor(cfg, paramwise)(model)


class PublishedStep:
    """AdaptSegNet and ADVENT in the order of their description, one step at a time.

    Args:
        student: Is copied.
        discriminators: For the head and the auxiliary head; are copied.
        information: Whether they see self-information.
        squares: LS-GAN instead of binary cross entropy.
    """

    def __init__(
        self, student: nn.Module, discriminators: Any, information: bool, squares: bool
    ) -> None:
        self.student = copy.deepcopy(student).train()
        self.nets = copy.deepcopy(discriminators)
        self.information, self.squares = information, squares
        self.optimisers = [
            torch.optim.SGD(self.student.parameters(), lr=0.05, momentum=0.9),
            torch.optim.Adam(self.nets.parameters(), lr=1e-3, betas=(0.9, 0.99)),
        ]

    def predict(self, x: Tensor) -> list[Tensor]:
        feats = self.student.backbone(x)
        outs = [self.student.decode_head(feats), self.student.auxiliary_head(feats)]
        return [F.interpolate(out, SIZE, mode='bilinear') for out in outs]

    def answer(self, net: nn.Module, out: Tensor, domain: int) -> Tensor:
        """Loss of a discriminator written out: five convolutions, leaky ReLUs."""
        x = out.softmax(1)
        if self.information:
            x = -x * torch.log2(x + 1e-30) / math.log2(CLASSES)
        convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
        assert len(convs) == 5
        for i, conv in enumerate(convs):
            x = F.leaky_relu(x, 0.2) if i else x
            x = F.conv2d(x, conv.weight, conv.bias, stride=2, padding=1)
        if self.squares:
            return ((x - domain) ** 2).mean()
        probability = x.sigmoid()
        return -(probability if domain else 1 - probability).log().mean()

    def step(self, images: list[Tensor], truth: Tensor) -> dict[str, float]:
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
        x = (torch.stack(images)[:, [2, 1, 0]].float() - mean) / std
        for optimiser in self.optimisers:
            optimiser.zero_grad()
        self.nets.requires_grad_(False)
        own = self.predict(x[:2])
        losses = [
            F.cross_entropy(out, truth, ignore_index=255, reduction='none').mean()
            for out in own
        ]
        (losses[0] + 0.4 * losses[1]).backward()
        other = self.predict(x[2:])
        found = {}
        fooled = 0.0
        for i, (net, out) in enumerate(zip(self.nets, other, strict=True)):
            loss = 0.3 * (0.2 if i else 1.0) * self.answer(net, out, 0)
            found[f'loss_adversarial{"_aux0" if i else ""}'] = loss.item()
            fooled = fooled + loss
        fooled.backward()
        self.nets.requires_grad_(True)
        for i, net in enumerate(self.nets):
            halves = [
                0.5 * self.answer(net, out[i].detach(), domain)
                for domain, out in enumerate((own, other))
            ]
            for half in halves:
                half.backward()
            total = sum(half.item() for half in halves)
            found[f'loss_discriminator{"_aux0" if i else ""}'] = total
        for optimiser in self.optimisers:
            optimiser.step()
        return found


@pytest.mark.parametrize(
    ('reads', 'objective', 'backward'),
    [
        ('probabilities', 'bce', 'summed'),
        ('self_information', 'bce', 'sequential'),
        ('probabilities', 'squares', 'summed'),
    ],
)
def test_steps_are_the_published_ones(reads: str, objective: str, backward: str):
    """Losses, student, buffers and discriminators over three steps."""
    term = OWN | dict(reads=reads, objective=objective)
    model = wrapper([term], backward=backward)
    nets = model.terms[0].discriminators
    for parameter in nets.parameters():
        parameter.data.mul_(2)  # not undecided
    hand = PublishedStep(
        model.student, nets, reads == 'self_information', objective == 'squares'
    )
    optimisers = wrappers(model)
    for t in range(3):
        data = batch(t)
        truth = torch.cat([s.gt_sem_seg.data for s in data['data_samples'][:2]])
        expected = hand.step(data['inputs'], truth)
        logged = model.train_step(data, optimisers)
        for key, value in expected.items():
            got = logged[f'adversarial.{key}'].item()
            assert got == pytest.approx(value, rel=1e-4), (t, key)
        for ours, theirs in ((model.student, hand.student), (nets, hand.nets)):
            torch.testing.assert_close(
                ours.state_dict(), dict(theirs.state_dict()), rtol=1e-4, atol=2e-6
            )
    assert expected['loss_adversarial'] != pytest.approx(0.3 * math.log(2), rel=1e-2)


def test_one_optimiser_reverses_the_gradient() -> None:
    """Discriminators get the published gradient, the student what it descends on."""
    shared, own = wrapper([TERM]), wrapper([OWN])
    own.load_state_dict(shared.state_dict())
    data = shared.data_preprocessor(batch(), True)
    total, logged = shared.parse_losses(shared(**data, mode='loss'))
    total.backward()
    assert {k for k in logged if k.startswith('adversarial')} == {
        'adversarial.loss_discriminator',
        'adversarial.loss_discriminator_aux0',
    }
    optimisers = wrappers(own)
    kept = []
    optimisers['discriminator'].optimizer.register_step_pre_hook(
        lambda *_: kept.extend(p.grad.clone() for p in own.terms.parameters())
    )
    own.train_step(batch(), optimisers)
    for parameter, grad in zip(shared.terms.parameters(), kept, strict=True):
        torch.testing.assert_close(parameter.grad, grad)

    # The student: of the source loss, less the discriminators' loss on the target.
    by_hand = wrapper([])
    by_hand.load_state_dict(shared.state_dict(), strict=False)
    step = by_hand.begin(**by_hand.data_preprocessor(batch(), True))
    loss, _ = by_hand.parse_losses(by_hand.losses_of(step, [], with_source=True))
    for i, out in enumerate(step.target_logits):
        seen = F.interpolate(out, SIZE, mode='bilinear').softmax(1)
        answer = shared.terms[0].discriminators[i](seen)
        truth = torch.ones_like(answer)
        told = F.binary_cross_entropy_with_logits(answer, truth)
        loss = loss - 0.3 * (0.2 if i else 1.0) * told
    loss.backward()
    for ours, hand in zip(
        shared.student.parameters(), by_hand.student.parameters(), strict=True
    ):
        torch.testing.assert_close(ours.grad, hand.grad, rtol=1e-4, atol=1e-6)


def test_without_auxiliary_and_with_one_channel() -> None:
    cfg = student_cfg()
    cfg['decode_head'].update(num_classes=2, out_channels=1, threshold=0.5)
    cfg['decode_head']['loss_decode'].update(use_sigmoid=True)
    del cfg['auxiliary_head']
    model = wrapper([TERM | dict(auxiliary=0)], student=cfg)
    (net,) = model.terms[0].discriminators
    assert net.layers[0].in_channels == 2
    data = batch()
    for s in data['data_samples'][:2]:
        s.gt_sem_seg.data.clamp_(max=1)
    optimiser = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    assert model.train_step(data, optimiser)['loss'].isfinite()
    assert len(wrapper([TERM | dict(auxiliary=0)]).terms[0].discriminators) == 1


def test_discriminator() -> None:
    net = OutputDiscriminator(CLASSES)
    widths = [m.out_channels for m in net.layers if isinstance(m, nn.Conv2d)]
    assert widths == [64, 128, 256, 512, 1]
    assert net(torch.randn(2, CLASSES, 70, 33)).shape == (2, 1, 2, 1)
    with pytest.raises(ValueError, match=r'\(31, 64\) pixels.*at least 32'):
        net(torch.randn(1, CLASSES, 31, 64))


@pytest.mark.parametrize('wrong', [dict(reads='logits'), dict(objective='hinge')])
def test_bad_arguments(wrong: dict) -> None:
    (value,) = wrong.values()
    with pytest.raises(ValueError, match=value):
        OutputAdversarial(**wrong)


def test_a_head_that_hides_its_logits_is_named() -> None:
    model = wrapper([TERM])
    model.student.auxiliary_head.loss = lambda *args: dict(loss_ce=torch.zeros(()))
    data = model.data_preprocessor(batch(), True)
    with pytest.raises(ValueError, match=r'FCNHead \(number 1\).*auxiliary=0'):
        model(**data, mode='loss')


# Optimisers


def test_two_resolutions_are_refused() -> None:
    for student in (resolution_toys.config(), resolution_toys.build()):
        with pytest.raises(ValueError, match='MultiResolutionSeg.*EncoderDecoder'):
            wrapper(terms=[TERM], student=student)
    wrapper(terms=[ENTROPY], student=resolution_toys.build())


def test_each_parameter_has_one_optimiser() -> None:
    model = wrapper([ENTROPY, OWN])
    keys = list(model.state_dict())
    paramwise = dict(custom_keys={'student.decode_head': dict(lr_mult=10)})
    found = wrappers(
        model,
        clip_grad=dict(max_norm=1.0),
        accumulative_counts=2,
        paramwise_cfg=paramwise,
    )
    assert list(model.state_dict()) == keys
    ids = {
        name: [id(p) for g in w.optimizer.param_groups for p in g['params']]
        for name, w in found.items()
    }
    assert sorted(ids['discriminator']) == sorted(
        id(p) for p in model.terms.parameters()
    )
    assert not set(ids['student']) & set(ids['discriminator'])
    assert set(ids['student']) >= {id(p) for p in model.student.parameters()}
    student, discriminator = found['student'], found['discriminator']
    assert {g['lr'] for g in student.optimizer.param_groups} == {0.05, 0.5}
    assert discriminator.optimizer.defaults['betas'] == (0.9, 0.99)
    assert student.clip_grad_kwargs
    assert not discriminator.clip_grad_kwargs
    # The published one, and another constructor for the student.
    built = AdversarialOptimWrapperConstructor(
        dict(
            optimizer=dict(SGD),
            student_constructor='mmseg_xmodal.ParamGroupOptimWrapperConstructor',
        ),
        dict(left_out=['teacher.*']),
    )(model)
    assert built['discriminator'].optimizer.defaults['lr'] == 1e-4
    total = sum(len(g['params']) for g in built['student'].optimizer.param_groups)
    assert total == len(list(model.student.parameters()))


def test_wrong_optimisers_are_refused() -> None:
    own, shared = wrapper([OWN]), wrapper([TERM])
    plain = OptimWrapper(torch.optim.SGD(own.parameters(), lr=0.1))
    line = 'optim_wrapper.constructor=.mmseg_xmodal.AdversarialOptimWrapperConstructor'
    with pytest.raises(ValueError, match=rf"\['adversarial'\] have.*{line}"):
        own.train_step(batch(), plain)
    with pytest.raises(ValueError, match="has no term.*optimizer='own'"):
        wrappers(shared)
    with pytest.raises(ValueError, match=r"parts \['param_groups', 'state'\]"):
        wrappers(own).load_state_dict(plain.state_dict())
    # As the stock wrapper of distributed training calls it.
    data = own.data_preprocessor(batch(), True)
    with pytest.raises(ValueError, match='AdaptationDistributedDataParallel'):
        own(**data, mode='loss')
    with torch.no_grad():
        assert 'adversarial.loss_adversarial' in own(**data, mode='loss')


def test_both_accumulate_to_the_last_batch() -> None:
    model = wrapper([OWN])
    optimisers = wrappers(model, accumulative_counts=2)
    optimisers.initialize_count_status(model, 0, 5)
    steps: dict[str, list[int]] = dict(student=[], discriminator=[])
    for name, own in optimisers.items():
        own.optimizer.register_step_pre_hook(lambda *_, n=name: steps[n].append(t))
    updates = []
    for t in range(5):
        model.train_step(batch(t), optimisers)
        updates.append(optimisers.should_update())
    assert steps == dict(student=[1, 3, 4], discriminator=[1, 3, 4])
    assert updates == [False, True, False, True, True]
    assert optimisers.inner_count == 5


class TestResume:
    """Both optimisers, the discriminators and the teacher go on exactly."""

    def config(self, folder: Path, iterations: int, **changes: Any) -> Config:
        mix = dict(type='mmseg_xmodal.ClassMixSelfTraining')
        return Config(
            dict(
                default_scope='mmseg',
                work_dir=str(folder),
                model=dict(
                    type='mmseg_xmodal.DomainAdaptiveSegmentor',
                    student=student_cfg(),
                    terms=[OWN, mix],
                    backward='sequential',
                ),
                train_dataloader=dict(
                    batch_size=4,
                    num_workers=0,
                    sampler=dict(type='InfiniteSampler', shuffle=False),
                    dataset=dict(type='mmseg_xmodal.AdaptToyImages'),
                ),
                train_cfg=dict(
                    type='IterBasedTrainLoop', max_iters=iterations, val_interval=100
                ),
                optim_wrapper=dict(
                    optimizer=dict(SGD),
                    constructor='mmseg_xmodal.AdversarialOptimWrapperConstructor',
                    discriminator=ADAM,
                ),
                param_scheduler=dict(type='PolyLR', power=0.9, by_epoch=False, end=10),
                default_hooks=dict(
                    checkpoint=dict(type='CheckpointHook', interval=2, by_epoch=False),
                    logger=dict(type='LoggerHook', interval=1),
                ),
                custom_hooks=[
                    dict(type='mmseg_xmodal.RandomStateHook'),
                    dict(type='mmseg_xmodal.EMATeacherHook', when='after'),
                ],
                log_processor=dict(by_epoch=False),
                randomness=dict(seed=0),
                experiment_name=f'{folder.name}{iterations}{len(changes)}',
            )
            | changes
        )

    def test_resume_is_exact(self, tmp_path: Path) -> None:
        Runner.from_cfg(self.config(tmp_path / 'whole', 4)).train()
        Runner.from_cfg(self.config(tmp_path / 'cut', 2)).train()
        runner = Runner.from_cfg(self.config(tmp_path / 'cut', 4, resume=True))
        runner.train()
        rates = runner.optim_wrapper.get_lr()
        assert rates['student.lr'][0] < 0.05
        assert rates['discriminator.lr'][0] < 1e-3
        whole, cut = (
            CheckpointLoader.load_checkpoint(str(tmp_path / name / 'iter_4.pth'), 'cpu')
            for name in ('whole', 'cut')
        )
        assert whole['state_dict'].keys() == cut['state_dict'].keys()
        assert any('discriminators' in key for key in cut['state_dict'])
        for key, value in whole['state_dict'].items():
            assert torch.equal(value, cut['state_dict'][key]), key
        for name in ('student', 'discriminator'):
            mine, other = (c['optimizer'][name]['state'] for c in (whole, cut))
            assert mine.keys() == other.keys() != set()
            for index, state in mine.items():
                for key, value in state.items():
                    torch.testing.assert_close(value, other[index][key], rtol=0, atol=0)
        assert whole['ema_teacher'] == cut['ema_teacher'] == dict(steps=4, moves=4)
