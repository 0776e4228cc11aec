"""Compare two forms of a model, count their operations, time them alternately."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from .model import Form, autocast

# Gradients are compared in fp64, relative to the largest published value. In fp32 a
# rounding difference moves the argmax of a global maximum pool, and with it single
# gradients by a thousandth; fp64 leaves rounding at 1e-14.
EXACT = 1e-9
# bf16 rounds at 2 ** -8; the order of sums alone moves either form by this much.
BF16_FACTOR = 2.0

# Attributes that hold a dropout rate in torch, mmcv and our layers.
_DROP_RATES = ('drop_prob', 'drop_path', 'attn_drop', 'dropout', 'dropout_p')


Batch = tuple[Tensor, list]


def parameters(form: Form) -> int:
    """Count the parameters."""
    return sum(p.numel() for p in form.module.parameters())


def flops(form: Form, x: Tensor) -> int:
    """Count the floating-point operations of one forward pass in eval mode.

    ``torch.utils.flop_counter`` counts convolutions, matrix products and attention, two
    operations per multiply-add, on both stacks; mmengine's analysis misses fused
    attention. Attention runs as matrix products here, since the counter knows no fused
    CPU kernel.
    """
    form.module.eval()
    # The counter does not know the in-place product of inference in slices.
    in_place = {torch.ops.aten.addmm_: _addmm_flops}
    counter = FlopCounterMode(display=False, custom_mapping=in_place)
    # It looks for the gradient function of whatever learns and is given to a module: a
    # parameter that is an argument has none.
    learning = [p for p in form.module.parameters() if p.requires_grad]
    form.module.requires_grad_(False)
    try:
        with counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            form.logits(x)
    finally:
        for parameter in learning:
            parameter.requires_grad_()
    return counter.get_total_flops()


def _addmm_flops(_out: Any, left: Any, right: Any, **_: Any) -> int:
    """Operations of ``out.addmm_(left, right)`` from the shapes."""
    return 2 * left[0] * left[1] * right[1]


def forward_step(form: Form, x: Tensor, precision: str) -> Callable[[], Any]:
    """Return one inference step: eval mode, no gradients, logits only."""

    def step() -> Tensor:
        with torch.no_grad(), autocast(x.device.type, precision):
            return form.logits(x)

    return step


def train_step(
    form: Form, x: Tensor, samples: list, precision: str
) -> Callable[[], Any]:
    """Return one training step: forward, loss, backward; no optimiser."""

    def step() -> None:
        form.module.zero_grad(set_to_none=True)
        with autocast(x.device.type, precision):
            loss = form.loss(x, samples)
        loss.backward()

    return step


def make_step(
    form: Form, mode: str, x: Tensor, samples: list, precision: str
) -> Callable[[], Any]:
    """Put the form into a mode, ``'forward'`` or ``'train'``, and return its step."""
    form.module.train(mode == 'train')
    if mode == 'train':
        return train_step(form, x, samples, precision)
    return forward_step(form, x, precision)


# ---------------------------------------------------------------- comparison


def compare(
    forms: Sequence[Form],
    batch: Batch,
    exact_batch: Batch,
    precision: str,
    tolerance: float,
) -> dict[str, Any]:
    """Compare outputs, loss and gradients of ours and the published form.

    * Eval mode, fp32 without TF32, the measured input: the logits.
    * Training mode, fp64: logits, loss, the gradient of the input and the norm of all
      parameter gradients, with dropout and drop path off, since the two forms may draw
      in another order.
    * For bf16: ours may be at most twice as far from the published fp32 logits as the
      published form is itself.

    Args:
        forms: Ours, then the published one.
        batch: The measured input and labels.
        exact_batch: Input and labels of any size for the comparison in fp64.
        precision: ``'fp32'`` or ``'bf16'``.
        tolerance: Largest allowed difference of the fp32 logits, relative to the
            largest published one.

    Returns:
        ``passed``, and per quantity ``max_abs``, ``relative`` and ``allowed``.
    """
    ours, published = forms
    x = batch[0]
    checks = {}
    with _exact_fp32(), _eval(ours.module), _eval(published.module):
        wanted = forward_step(published, x, 'fp32')()
        got = forward_step(ours, x, 'fp32')()
        checks['logits'] = _difference(got, wanted, tolerance)
    got_train = _train_outputs(ours, *exact_batch)
    wanted_train = _train_outputs(published, *exact_batch)
    for name, value in got_train.items():
        checks[name] = _difference(value, wanted_train[name], EXACT)
    if precision == 'bf16':
        with _eval(ours.module), _eval(published.module):
            low = forward_step(published, x, 'bf16')().float()
            reference = _difference(low, wanted, float('inf'))
            allowed = max(BF16_FACTOR * reference['relative'], tolerance)
            checks['logits in bf16'] = {
                **_difference(forward_step(ours, x, 'bf16')().float(), wanted, allowed),
                'published_relative': reference['relative'],
            }
    passed = all(check['relative'] <= check['allowed'] for check in checks.values())
    return {'passed': passed, 'checks': checks}


def _difference(got: Tensor, wanted: Tensor, allowed: float) -> dict[str, float]:
    if got.shape != wanted.shape:
        raise ValueError(
            f'ours gives {tuple(got.shape)}, the published form {tuple(wanted.shape)}: '
            'they are not forms of one method. Correct the published form.'
        )
    max_abs = (got - wanted).abs().max().item()
    scale = wanted.abs().max().item()
    # A nan anywhere must fail: comparisons with nan are false, hence the inf.
    if not (max_abs < float('inf') and scale < float('inf')):
        max_abs = relative = float('inf')
    else:
        relative = max_abs / max(scale, torch.finfo(torch.float32).tiny)
    return {'max_abs': max_abs, 'relative': relative, 'allowed': allowed}


def _train_outputs(form: Form, x: Tensor, samples: list) -> dict[str, Tensor]:
    """Return what one training step computes, in fp64."""
    module = form.module
    was_training = module.training
    saved = {k: v.clone() for k, v in module.state_dict().items()}
    module.train().double()
    x = x.double().requires_grad_()
    try:
        with _without_dropout(module):
            logits = form.logits(x).detach()
            module.zero_grad(set_to_none=True)
            loss = form.loss(x, samples)
            loss.backward()
        assert x.grad is not None
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        return {
            'fp64 training logits': logits,
            'fp64 loss': loss.detach(),
            # Validity is constant here, and published forms do not know it.
            'fp64 input gradient': x.grad[:, x.detach().amax((0, 2, 3)) != 1],
            'fp64 parameter gradient norm': torch.stack(
                [g.norm() for g in gradients]
            ).norm(),
        }
    finally:
        module.zero_grad(set_to_none=True)
        module.float().train(was_training)
        module.load_state_dict(saved)  # running statistics have moved


@contextmanager
def _eval(module: nn.Module) -> Iterator[None]:
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)


@contextmanager
def _without_dropout(module: nn.Module) -> Iterator[None]:
    changed: list[tuple[nn.Module, str, float]] = []
    for part in module.modules():
        drops = 'drop' in type(part).__name__.lower()
        candidates = (*_DROP_RATES, 'p', 'rate') if drops else _DROP_RATES
        names = [n for n in candidates if isinstance(getattr(part, n, None), float)]
        for name in names:
            changed.append((part, name, getattr(part, name)))
            setattr(part, name, 0.0)
    try:
        yield
    finally:
        for part, name, value in changed:
            setattr(part, name, value)


@contextmanager
def _exact_fp32() -> Iterator[None]:
    matmul = torch.backends.cuda.matmul.allow_tf32
    conv = torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul
        torch.backends.cudnn.allow_tf32 = conv


# -------------------------------------------------------------------- timing


def time_alternately(
    steps: dict[str, Callable[[], Any]],
    repeats: int,
    device: str,
    warmup: int = 2,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """Time the steps in turn, the order reversed every round.

    Alternating lets both forms see the same drift of clock and load.

    Args:
        steps: What to time, by name.
        repeats: Timed rounds.
        device: CUDA devices are synchronised around each step.
        warmup: Untimed rounds before.
        tick: Called after each step.

    Returns:
        Seconds per round, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_index in range(-warmup, repeats):
        order = list(steps) if round_index % 2 == 0 else list(reversed(steps))
        for name in order:
            elapsed = _time_once(steps[name], device)
            if round_index >= 0:
                seconds[name].append(elapsed)
            tick()
    return seconds


def _time_once(step: Callable[[], Any], device: str) -> float:
    cuda = device.startswith('cuda')
    if cuda:
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    step()
    if cuda:
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median and quartiles."""
    if len(values) < 2:
        value = values[0]
        return {'median': value, 'q1': value, 'q3': value}
    q1, median, q3 = statistics.quantiles(values, n=4, method='inclusive')
    return {'median': median, 'q1': q1, 'q3': q3}


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> dict[str, float]:
    """Return the spread of the per-round ratio."""
    return spread([a / b for a, b in zip(numerator, denominator, strict=True)])
