"""``compile=True`` of mmengine, which compiles ``train_step``, changes no number."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.optim import OptimWrapper
from mmseg.registry import MODELS as MMSEG_MODELS
from torch import Tensor, nn

from mmseg_xmodal.models.layers.noted_calls import (
    note_calls,
    noted_calls,
    noted_outputs,
)

from .adaptation_toys import DRAWS, AdaptToyBackbone, batch, student_cfg, wrapper

MIX = dict(type='mmseg_xmodal.ClassMixSelfTraining')
ANCHOR = dict(type='mmseg_xmodal.FeatureAnchor', classes=[1, 3])
MASKED = dict(type='mmseg_xmodal.MaskedConsistency', block=16)
CONTRAST = dict(type='mmseg_xmodal.PrototypeContrast', weight=1.0)
AGREE = dict(type='mmseg_xmodal.CrossModalAgreement', fused=True)
SURE = dict(threshold=0.3)


class Sum(nn.Module):
    def forward(self, maps: list[Tensor]) -> Tensor:
        return maps[0] + maps[1]


class TwoStreams(nn.Module):
    """Two encoders of one image, small ones since each pass is compiled."""

    out_channels = (6, 8)
    input = SimpleNamespace(names=('rgb', 'depth'))

    def __init__(self) -> None:
        super().__init__()
        self.streams = nn.ModuleList([AdaptToyBackbone(), AdaptToyBackbone()])
        self.fusions = nn.ModuleList([Sum(), Sum()])

    def forward(self, x: Tensor) -> list[Tensor]:
        levels = zip(*(stream(x) for stream in self.streams), strict=True)
        return [
            fuse(list(maps)) for fuse, maps in zip(self.fusions, levels, strict=True)
        ]


def two_streams() -> dict[str, Any]:
    torch.manual_seed(0)
    student = MMSEG_MODELS.build(student_cfg())
    student.backbone = TwoStreams()
    return dict(student=student, data_preprocessor=student.data_preprocessor)


CASES: dict[str, Any] = {
    'anchor': lambda: wrapper([ANCHOR, MIX, MASKED], anchor='copy', pseudo_labels=SURE),
    'maps': lambda: wrapper([CONTRAST | dict(in_channels=8), MIX], pseudo_labels=SURE),
    'head': lambda: wrapper(
        [CONTRAST | dict(feature='head', prototypes_of='teacher'), MIX],
        pseudo_labels=SURE,
    ),
    'streams': lambda: wrapper([AGREE, MASKED], **two_streams()),
}


def three_steps(name: str, compiled: bool) -> list[dict[str, float]]:
    torch._dynamo.reset()
    model = CASES[name]()
    wrap = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.05))
    if compiled:
        model.train_step = torch.compile(model.train_step, backend='eager')
    logged = []
    for t in range(3):
        torch.manual_seed(t)
        np.random.seed(t)  # noqa: NPY002
        model.next_draws = dict(DRAWS)
        found = model.train_step(batch(t), wrap)
        logged.append({key: float(value) for key, value in found.items()})
    assert not any('forward' in m.__dict__ for m in model.modules())
    return logged


@pytest.mark.parametrize('name', CASES)
def test_compiled_steps_are_those_of_plain_ones(name: str) -> None:
    """Passes that are noted and passes that are not take turns."""
    expected, got = (three_steps(name, compiled) for compiled in (False, True))
    assert len({step['loss'] for step in expected}) == 3
    for ours, plain in zip(got, expected, strict=True):
        assert ours == pytest.approx(plain, rel=1e-5)


# What notes the passes


def test_several_note_a_module_and_stop_in_any_order() -> None:
    module = nn.Linear(2, 3)
    x = torch.ones(1, 2)
    first, second, third = [], [], []
    stops = [
        note_calls(module, lambda args, output, own=own: own.append((args, output)))
        for own in (first, second)
    ]
    with noted_calls(module, third):
        out = module(x)
        stops[0]()
        module(x)
    module.forward(x)
    stops[1]()
    stops[1]()
    module(x)
    assert [len(own) for own in (first, second, third)] == [1, 3, 2]
    assert first[0][0][0] is x
    assert first[0][1] is out
    assert 'forward' not in module.__dict__


def test_a_forward_of_the_module_itself_stays() -> None:
    """Such as one that the user compiled."""
    module = nn.Linear(2, 3)
    own = module.forward
    module.forward = lambda x: own(x) + 1
    replaced = module.forward
    calls: list[Any] = []
    outputs: list[Tensor] = []
    with noted_calls(module, calls), noted_outputs([module], outputs):
        got = module(torch.ones(1, 2))
    assert module.forward is replaced
    torch.testing.assert_close(got, own(torch.ones(1, 2)) + 1)
    assert calls[0][1] is got
    assert outputs[0].equal(got)
    assert not outputs[0].requires_grad


def test_a_pass_that_breaks_off_leaves_nothing() -> None:
    module = nn.Linear(2, 3)
    outputs: list[Tensor] = []
    with pytest.raises(RuntimeError), noted_outputs([module], outputs):
        module(torch.ones(1, 5))
    assert outputs == []
    assert 'forward' not in module.__dict__
