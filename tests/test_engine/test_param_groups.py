from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmseg_xmodal.registry import MODELS
from tests.integration.helpers import ROOT

CONSTRUCTOR = 'mmseg_xmodal.ParamGroupOptimWrapperConstructor'
LR, DECAY = 6e-5, 0.01


class ChannelNorm(nn.Module):
    """A norm layer of our own, with its parameters in it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 1, 1))


class Net(nn.Module):
    """One parameter of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict(
            dict(
                conv=nn.Conv2d(3, 4, 3),
                norm=nn.BatchNorm2d(4),
                own=ChannelNorm(),
                mha=nn.MultiheadAttention(4, 2),
            )
        )
        self.backbone.scale = nn.Parameter(torch.ones(4))
        self.backbone.table = nn.Parameter(torch.ones(2, 3))
        self.decode_head = nn.Linear(4, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decode_head(x)


def groups(model: nn.Module, wrapper: str = 'OptimWrapper', **paramwise) -> dict:
    """Names of the parameters by (lr, weight decay)."""
    cfg = dict(
        type=wrapper,
        constructor=CONSTRUCTOR,
        optimizer=dict(type='AdamW', lr=LR, weight_decay=DECAY),
        paramwise_cfg=paramwise or None,
    )
    optimizer = build_optim_wrapper(model, cfg).optimizer
    names = {id(p): n for n, p in getattr(model, 'module', model).named_parameters()}
    found = [names[id(p)] for g in optimizer.param_groups for p in g['params']]
    assert len(found) == len(set(found))
    assert len(optimizer.param_groups) <= 4
    return {
        (g['lr'], g['weight_decay']): {names[id(p)] for p in g['params']}
        for g in optimizer.param_groups
    }


WEIGHTS = {
    'backbone.conv.weight',
    'backbone.mha.in_proj_weight',
    'backbone.mha.out_proj.weight',
    'decode_head.weight',
}
BARE = {'backbone.scale', 'backbone.table'}
NORMS = {'backbone.norm.weight', 'backbone.norm.bias', 'backbone.own.weight'}
BIASES = {
    'backbone.conv.bias',
    'backbone.mha.in_proj_bias',
    'backbone.mha.out_proj.bias',
    'decode_head.bias',
}


def test_default_trains_all_and_decays_weights_only():
    assert groups(Net()) == {
        (LR, DECAY): WEIGHTS,
        (LR, 0.0): NORMS | BIASES | BARE,
    }


def test_official_cmx_leaves_bare_parameters_out():
    found = groups(Net(), no_decay=['norm', 'bias'], left_out=['bare'])
    assert found == {(LR, DECAY): WEIGHTS, (LR, 0.0): NORMS | BIASES}


def test_cmnext_goes_by_dimensions():
    flat = {n for n, p in Net().named_parameters() if p.ndim == 1 and p.requires_grad}
    found = groups(Net(), no_decay=['flat'])
    assert found[LR, 0.0] == flat
    assert found[LR, DECAY] == WEIGHTS | {'backbone.table', 'backbone.own.weight'}


def test_decoder_learns_faster():
    found = groups(Net(), no_decay=['backbone.*norm*'], lr_mult={'decode_head.*': 10.0})
    assert found[LR * 10, DECAY] == {'decode_head.weight', 'decode_head.bias'}
    assert found[LR, 0.0] == {'backbone.norm.weight', 'backbone.norm.bias'}
    assert len(found) == 3


def test_a_wrapped_model_gives_the_groups_of_the_model():
    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    assert groups(Wrapper(Net())) == groups(Net())


def test_left_out_parameters_stand_still_and_the_others_move():
    model = Net()
    before = {n: p.clone() for n, p in model.named_parameters()}
    wrapper = build_optim_wrapper(
        model,
        dict(
            constructor=CONSTRUCTOR,
            optimizer=dict(type='AdamW', lr=0.1, weight_decay=DECAY),
            paramwise_cfg=dict(left_out=['bare']),
        ),
    )
    loss = sum(p.square().sum() for p in model.parameters() if p.requires_grad)
    wrapper.update_params(loss)
    still = {n for n, p in model.named_parameters() if torch.equal(p, before[n])}
    assert still >= BARE | {'frozen.weight', 'frozen.bias'}
    assert not still & WEIGHTS
    assert all(model.get_parameter(n).grad is not None for n in BARE)


def test_under_amp(monkeypatch):
    where = 'mmengine.optim.optimizer.amp_optimizer_wrapper.is_cuda_available'
    monkeypatch.setattr(where, lambda: True)
    assert groups(Net(), 'AmpOptimWrapper') == groups(Net())


def test_log_counts_every_group(caplog, monkeypatch):
    lines = []
    monkeypatch.setattr(
        'mmseg_xmodal.engine.optimizers.param_groups.print_log',
        lambda text, **_: lines.append(text),
    )
    groups(Net(), no_decay=['norm', 'bias'], left_out=['bare'])
    (line,) = lines
    for part in ('4 tensors', '7 tensors', '2 tensors (10): left out'):
        assert part in line
    assert '2 tensors (6): frozen' in line


def tied(model: nn.Module) -> nn.Module:
    model.decode_head.weight = model.backbone.table = nn.Parameter(torch.ones(2, 4))
    return model


@pytest.mark.parametrize(
    ('options', 'pattern'),
    [
        (dict(norm_decay_mult=0.0), r"the fields \['norm_decay_mult'\]"),
        (dict(no_decay='norm'), r"no_decay is 'norm', expected a list"),
        (dict(left_out=['bares']), r"left_out is \['bares'\]"),
        (dict(lr_mult={'head.*': 2.0}), r"\['head\.\*'\] match no parameter"),
        (
            dict(lr_mult={'decode_head.*': 2.0, '*.bias': 3.0}),
            r"all match 'decode_head\.bias'",
        ),
        (dict(left_out=['*']), r'No parameter is left to train'),
    ],
)
def test_errors(options, pattern):
    with pytest.raises(ValueError, match=pattern):
        groups(Net(), **options)


def test_a_tied_tensor_stands_in_one_group_or_is_refused():
    assert sum(map(len, groups(tied(Net()), no_decay=['flat']).values())) == 12
    with pytest.raises(
        ValueError, match=r"'backbone\.table' and 'decode_head\.weight'"
    ):
        groups(tied(Net()), no_decay=['bare'])


def test_lr_mult_needs_a_learning_rate():
    cfg = dict(
        constructor=CONSTRUCTOR,
        optimizer=dict(type='AdamW'),
        paramwise_cfg=dict(lr_mult={'decode_head.*': 2.0}),
    )
    with pytest.raises(ValueError, match='optimizer has no lr'):
        build_optim_wrapper(Net(), cfg)


def recipes() -> list[Path]:
    """One per method, named by its epochs, such as ``..._4xb2-500e_...``."""
    paths = sorted((ROOT / 'configs').glob('*/*.py'), reverse=True)
    return list({p.parent: p for p in paths if re.search(r'-\d+e_', p.name)}.values())


@pytest.mark.parametrize('path', recipes(), ids=lambda path: path.parent.name)
def test_every_recipe_groups_every_parameter(path):
    cfg = Config.fromfile(path)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    # The AMP form needs a GPU, and groups alike.
    cfg.optim_wrapper.type = 'OptimWrapper'
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    grouped = [id(p) for g in optimizer.param_groups for p in g['params']]
    wanted = [id(p) for p in model.parameters() if p.requires_grad]
    assert sorted(grouped) == sorted(wanted)
