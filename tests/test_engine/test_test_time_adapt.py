"""Adaptation while testing: statistics of norms, and Tent."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import MODELS as MMSEG_MODELS
from torch import Tensor, nn

from mmseg_xmodal.models.layers.logit_probabilities import logit_probabilities
from mmseg_xmodal.models.layers.test_time_norms import batch_statistics
from tests.test_models.adaptation_toys import SIZE, student_cfg, wrapper

from .adaptation_run import TargetImages, images, log_text

LOOP = 'mmseg_xmodal.TestTimeAdaptLoop'


class Predictions(BaseMetric):
    """Keeps the logits of every image."""

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += [s['seg_logits']['data'].clone() for s in data_samples]

    def compute_metrics(self, results: list) -> dict:
        self.logits = results
        return dict(seen=len(results))


def segmentor(**kwargs: Any) -> Any:
    """Its norms have running statistics of their own."""
    torch.manual_seed(0)
    model = MMSEG_MODELS.build(student_cfg(**kwargs))
    model.decode_head.conv_seg.weight.data.mul_(10)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


def adapt(
    model: nn.Module, work_dir: Path, hooks: Any = (), **test_cfg: Any
) -> list[Tensor]:
    """Logits of the five images."""
    metric = Predictions()
    runner = Runner(
        model=model,
        work_dir=str(work_dir),
        test_dataloader=images(test_cfg.pop('batch_size', 2)),
        test_evaluator=[metric],
        test_cfg=dict(type=LOOP, **test_cfg),
        custom_hooks=list(hooks),
        experiment_name=f'tta{id(metric)}',
        default_scope='mmseg',
    )
    assert runner.test()['seen'] == 5
    return metric.logits


def logits_of(model: Any, x: Tensor) -> Tensor:
    return model.encode_decode(x, [dict(img_shape=SIZE, pad_shape=SIZE) for _ in x])


def batches(size: int = 2) -> list[Tensor]:
    """The preprocessed images of each test batch."""
    model = segmentor()
    items = [TargetImages()[i] for i in range(5)]
    return [
        model.data_preprocessor(
            dict(inputs=[item['inputs'] for item in items[i : i + size]]), False
        )['inputs']
        for i in range(0, 5, size)
    ]


def norms_of(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [
        m
        for name, m in model.named_modules()
        if isinstance(m, nn.BatchNorm2d) and not name.startswith('auxiliary')
    ]


def published_tent(
    model: Any, steps: int = 1, episodic: bool = False, lr: float = 1e-3
) -> list[Tensor]:
    """Norms in training mode, one optimiser, prediction before the update."""
    model = copy.deepcopy(model)
    model.eval().requires_grad_(False)
    for norm in norms_of(model):
        norm.train().requires_grad_(True)
        norm.running_mean = norm.running_var = None
        norm.track_running_stats = False
    params = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(params, lr=lr)
    first = copy.deepcopy([p.detach() for p in params])
    found: list[Tensor] = []
    for x in batches():
        if episodic:
            optimiser = torch.optim.Adam(params, lr=lr)
            for param, value in zip(params, first, strict=True):
                param.data.copy_(value)
        for _ in range(steps):
            logits = logits_of(model, x)
            loss = -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        found += list(logits.detach())
    return found


def close(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(
        torch.allclose(a, b, atol=1e-5, rtol=1e-4)
        for a, b in zip(found, expected, strict=True)
    )


def test_norm_takes_the_statistics_of_the_batch(tmp_path: Path) -> None:
    model = segmentor()
    found = adapt(model, tmp_path, method='norm')
    reference = copy.deepcopy(model).eval()
    for norm in norms_of(reference):
        norm.train()
    with torch.no_grad():
        expected = [y for x in batches() for y in logits_of(reference, x)]
    assert close(found, expected)
    assert 'norm on EncoderDecoder: 3 batch norms' in log_text(tmp_path)


def test_prior_mixes_the_source_in() -> None:
    """By the formula of Schneider et al., and at both ends."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3).eval()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    nn.init.uniform_(norm.weight)
    x = torch.randn(4, 3, 5, 6)
    with batch_statistics([norm], prior=12.0):
        out = norm(x)
    share = 4 / 16
    mean = share * x.mean((0, 2, 3)) + (1 - share) * norm.running_mean
    var = share * x.var((0, 2, 3), unbiased=False) + (1 - share) * norm.running_var
    view = (1, 3, 1, 1)
    expected = (x - mean.view(view)) / (var + norm.eps).sqrt().view(view)
    expected = expected * norm.weight.view(view) + norm.bias.view(view)
    torch.testing.assert_close(out, expected)
    plain = norm(x)
    with batch_statistics([norm], prior=1e9):
        torch.testing.assert_close(norm(x), plain, atol=1e-5, rtol=1e-5)
    with batch_statistics([norm]):  # global pooling of one image
        one = x[:1, :, :1, :1]
        torch.testing.assert_close(norm(one), plain[:1, :, :1, :1])
    assert not norm.training
    assert 'forward' not in vars(norm)


@pytest.mark.parametrize(('steps', 'episodic'), [(1, False), (3, False), (2, True)])
def test_tent_as_published(tmp_path: Path, steps: int, episodic: bool) -> None:
    model = segmentor()
    before = copy.deepcopy(model.state_dict())
    found = adapt(model, tmp_path, steps=steps, episodic=episodic)
    assert close(found, published_tent(model, steps, episodic))
    # It does something, and leaves nothing.
    other = published_tent(model, steps, not episodic)
    assert not torch.allclose(found[-1], other[-1], atol=1e-5)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert 'encode_decode' not in vars(model)
    assert not any(m.training for m in model.modules())


def test_prediction_after_the_update(tmp_path: Path) -> None:
    model = segmentor()
    kwargs: dict[str, Any] = dict(batch_size=5, optimizer=dict(type='SGD', lr=0.1))
    before = adapt(model, tmp_path, **kwargs)
    after = adapt(model, tmp_path, predict='after', **kwargs)
    entropies = [_entropy(torch.stack(x)) for x in (before, after)]
    assert entropies[1] < entropies[0]


def _entropy(logits: Tensor) -> float:
    p = logit_probabilities(logits)
    return float(-(p * p.log()).sum(1).mean())


def test_slide_inference_adapts_in_each_window(tmp_path: Path) -> None:
    model = segmentor()
    model.test_cfg = ConfigDict(mode='slide', crop_size=(32, 32), stride=(32, 16))
    model.decode_head.test_cfg = model.test_cfg
    before = copy.deepcopy(model.state_dict())
    calls: list[int] = []
    plain = type(model).encode_decode

    class Counted(type(model)):  # type: ignore[misc]
        def encode_decode(self, inputs: Tensor, metas: list) -> Tensor:
            calls.append(inputs.shape[-1])
            return plain(self, inputs, metas)

    model.__class__ = Counted
    adapt(model, tmp_path)
    assert calls == [32] * 6  # two windows, three batches
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_the_predicting_network_of_an_adaptation(tmp_path: Path) -> None:
    """The teacher is frozen, and adapts all the same."""
    model = wrapper([], predict_on='teacher')
    for norm in norms_of(model.teacher):
        norm.running_mean.normal_(0, 0.3)
    flags = [p.requires_grad for p in model.parameters()]
    found = adapt(model, tmp_path)
    assert close(found, published_tent(model.teacher))
    assert [p.requires_grad for p in model.parameters()] == flags


def test_layer_norms(tmp_path: Path) -> None:
    """Their statistics are those of each place: only scale and shift move."""

    class Norm(nn.LayerNorm):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.movedim(1, -1)).movedim(-1, 1)

    model = segmentor()
    model.backbone.second[1] = Norm(8)
    with pytest.raises(ValueError, match="kinds \\['group'\\].*'batch': 2, 'layer': 1"):
        adapt(model, tmp_path, norms=['group'])
    plain = adapt(model, tmp_path, norms=['layer'], optimizer=dict(type='SGD', lr=0.0))
    with torch.no_grad():
        expected = [y for x in batches() for y in logits_of(model, x)]
    assert close(plain, expected)
    moved = adapt(model, tmp_path, norms=['layer'])
    assert torch.allclose(moved[0], plain[0])  # predicted before the first step
    assert not torch.allclose(moved[-1], plain[-1])


def test_half_precision(tmp_path: Path) -> None:
    model = segmentor()
    found = adapt(model, tmp_path, fp16=True, prior=2.0)
    exact = adapt(model, tmp_path, prior=2.0)
    # bfloat16 has 8 bits; Adam's first step has the size of lr whatever the gradient.
    torch.testing.assert_close(found[0].float(), exact[0], atol=0.1, rtol=0.1)
    assert not torch.equal(found[0].float(), exact[0])


def test_norms_that_are_folded_adapt_too(tmp_path: Path) -> None:
    """Our heads fold a batch norm in eval mode into the linear map before."""
    cfg = student_cfg()
    cfg.pop('auxiliary_head')
    cfg['decode_head'] = dict(
        type='mmseg_xmodal.FastSegformerHead',
        in_channels=[6, 8],
        in_index=[0, 1],
        channels=8,
        num_classes=4,
        dropout_ratio=0.0,
        norm_cfg=dict(type='BN'),
    )
    torch.manual_seed(0)
    model = MMSEG_MODELS.build(cfg)
    model.decode_head.fusion_conv.norm.running_mean.fill_(0.3)
    reference = copy.deepcopy(model).eval()
    for norm in norms_of(reference):
        norm.train()
    with torch.no_grad():
        expected = [y for x in batches() for y in logits_of(reference, x)]
    assert close(adapt(model, tmp_path, method='norm'), expected)


def test_weights_exchanged_by_a_hook_are_the_ones_that_adapt(tmp_path: Path) -> None:
    """As EMAHook does it: others in before_test_epoch, back in after_test_epoch."""

    class Exchange(Hook):
        def before_test_epoch(self, runner: Any) -> None:
            self.own = copy.deepcopy(runner.model.state_dict())
            runner.model.load_state_dict(other)

        def after_test_epoch(self, runner: Any, metrics: Any = None) -> None:
            self.left = copy.deepcopy(runner.model.state_dict())
            runner.model.load_state_dict(self.own)

    model, better = segmentor(), segmentor()
    better.backbone.first[1].weight.data.fill_(2.0)
    other = copy.deepcopy(better.state_dict())
    hook = Exchange()
    assert close(adapt(model, tmp_path, hooks=[hook]), published_tent(better))
    for key, value in hook.left.items():
        assert torch.equal(value, other[key]), key


def test_refusals(tmp_path: Path) -> None:
    for wrong in (dict(method='cotta'), dict(prior=-1), dict(norms='batch')):
        with pytest.raises(ValueError, match='TestTimeAdaptLoop'):
            adapt(segmentor(), tmp_path, **wrong)
    model = segmentor()
    for parent in (model.backbone.first, model.backbone.second):
        parent[1] = nn.GroupNorm(2, parent[1].num_features)
    model.decode_head.convs[0].bn = nn.Identity()
    with pytest.raises(ValueError, match='Only batch norms have statistics'):
        adapt(model, tmp_path, method='norm')
    tta = MMSEG_MODELS.build(
        dict(type='mmseg_xmodal.XModalTTAModel', module=segmentor())
    )
    with pytest.raises(TypeError, match='without --tta'):
        adapt(tta, tmp_path)
    model = segmentor()
    model.backbone.first[1].weight.data[0] = float('nan')
    with pytest.raises(FloatingPointError, match='entropy is nan'):
        adapt(model, tmp_path)
    assert 'encode_decode' not in vars(model)  # put back after an error, too
    model = segmentor()
    model.inference = lambda x, _: torch.zeros(len(x), 4, *x.shape[-2:])
    with pytest.raises(TypeError, match='without its encode_decode'):
        adapt(model, tmp_path)
