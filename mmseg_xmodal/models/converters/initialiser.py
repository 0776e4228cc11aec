"""Initialise all streams of a backbone from one single-image checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from mmengine.logging import print_log
from torch import Tensor, nn

from ..layers.first_conv import FIRST_CONV_MODES, adapt_first_conv, find_first_conv
from ..layers.tuning import is_addition
from .io import load_state, shorten
from .layouts import split_backbone
from .mit import Converted


@dataclasses.dataclass(frozen=True)
class InitReport:
    """What an initialisation loaded.

    Args:
        checkpoint: Where the weights came from.
        layout: Layout of the checkpoint.
        loaded: Stream name to the number of tensors loaded.
        skipped: Keys of the checkpoint without a place.
        adapted: Stream name to what happened to its first convolution.
        new: Tensors that the checkpoint lacks, at their initial values; not counted as
            loaded.
    """

    checkpoint: str
    layout: str
    loaded: dict[str, int]
    skipped: tuple[str, ...] = ()
    adapted: dict[str, str] = dataclasses.field(default_factory=dict)
    new: tuple[str, ...] = ()

    def __str__(self) -> str:
        counts = ', '.join(f'{name}: {n} tensors' for name, n in self.loaded.items())
        lines = [f'Loaded {self.checkpoint} (layout {self.layout}) into {counts}.']
        for name, what in self.adapted.items():
            lines.append(f'First convolution of {name}: {what}.')
        if self.new:
            lines.append(f'New, not in the checkpoint: {shorten(self.new, 8)}.')
        if self.skipped:
            lines.append(f'Not used: {shorten(self.skipped, 8)}.')
        return ' '.join(lines)


def keep_layout(state: Mapping[str, Tensor]) -> Converted:
    """Take weights in the backbone's own layout; a prefix ``backbone.`` goes off."""
    inside, outside = split_backbone(state)
    return Converted(dict(inside), 'the backbone', tuple(outside))


def _options(pretrained: str | Mapping[str, Any]) -> tuple[str, Any]:
    if isinstance(pretrained, str):
        return pretrained, None
    unknown = set(pretrained) - {'checkpoint', 'first_conv'}
    if unknown or 'checkpoint' not in pretrained:
        raise ValueError(
            f'pretrained has the keys {sorted(pretrained)}, expected checkpoint and, '
            'optionally, first_conv. Change `pretrained` of the backbone.'
        )
    return pretrained['checkpoint'], pretrained.get('first_conv')


def _fit_first_conv(
    name: str, module: nn.Module, state: dict[str, Tensor], mode: str | None
) -> str | None:
    """Adapt the first convolution in ``state``; return what was done, if anything."""
    layer, conv = find_first_conv(module)
    key = f'{layer}.weight'
    old = state.get(key)
    if old is None or old.shape[1] == conv.weight.shape[1]:
        return None
    new = conv.weight.shape[1]
    if mode not in FIRST_CONV_MODES:
        raise ValueError(
            f'Stream {name!r} has {new} input channels, the first convolution {key!r} '
            f'of the checkpoint {old.shape[1]}; first_conv is {mode!r}, expected one '
            f'of {FIRST_CONV_MODES}. Set pretrained=dict(checkpoint=..., '
            "first_conv='sum') in the backbone ('sum' equals replicated channels)."
        )
    if mode == 'random':
        state[key] = conv.weight.detach().clone()
    else:
        state[key] = adapt_first_conv(old, new, mode)
    return f'{old.shape[1]} to {new} channels by {mode!r}'


def _check(
    name: str, module: nn.Module, state: Mapping[str, Tensor], fits: str
) -> None:
    """Raise unless every tensor of ``module`` is in ``state`` with its shape."""
    hint = f' The file fits {fits}.' if fits else ''
    own = module.state_dict()
    # Low-rank additions start as they are built.
    wanted = [k for k in own if 'num_batches_tracked' not in k and not is_addition(k)]
    missing = [k for k in wanted if k not in state]
    if missing:
        raise ValueError(
            f'The checkpoint lacks {len(missing)} of {len(own)} tensors of stream '
            f'{name!r}: {shorten(missing)}. Choose the checkpoint of the same '
            f'backbone and variant.{hint}'
        )
    wrong = [
        f'{k}: got {tuple(state[k].shape)}, expected {tuple(v.shape)}'
        for k, v in own.items()
        if k in state and state[k].shape != v.shape
    ]
    if wrong:
        raise ValueError(
            f'{len(wrong)} tensors of stream {name!r} have other shapes: '
            f'{shorten(wrong, 5)}. Choose the checkpoint of the same '
            f'variant.{hint}'
        )


def initialise_streams(
    streams: Mapping[str, nn.Module],
    pretrained: str | Mapping[str, Any],
    convert: Callable[[Any], Converted] = keep_layout,
    read: Callable[[str], Any] = load_state,
) -> InitReport:
    """Load one checkpoint into every stream, and say what was loaded.

    Args:
        streams: Stream name to its backbone. A backbone that several streams share is
            loaded once.
        pretrained: Path or address, or ``dict(checkpoint=..., first_conv=...)``.
            ``first_conv`` says what happens where the input channels differ from the
            checkpoint's: ``'sum'``, ``'mean'``, ``'repeat'`` or ``'random'``, see
            :func:`adapt_first_conv`; a dict gives one per stream. Without it a
            difference is an error.
        convert: From the checkpoint's layout into that of the backbones. A key that
            is left over after it must be skipped by it or is reported as not used.
        read: From the path to what ``convert`` takes.

    Returns:
        The report, which is logged as well.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the weights do not fit, or a first convolution differs and
            ``first_conv`` does not say what to do.
    """
    path, first_conv = _options(pretrained)
    converted = convert(read(path))
    if isinstance(first_conv, Mapping) and set(first_conv) - set(streams):
        raise ValueError(
            f'first_conv names the streams {sorted(first_conv)}, expected some of '
            f'{list(streams)}. Change `pretrained` of the backbone.'
        )
    loaded: dict[str, int] = {}
    adapted: dict[str, str] = {}
    unused = set(converted.state)
    done: dict[int, str] = {}
    for name, module in streams.items():
        if id(module) in done:
            loaded[name] = loaded[done[id(module)]]
            continue
        done[id(module)] = name
        state = dict(converted.state)
        mode = first_conv.get(name) if isinstance(first_conv, Mapping) else first_conv
        what = _fit_first_conv(name, module, state, mode)
        if what is not None:
            adapted[name] = what
        _check(name, module, state, converted.fits)
        own = module.state_dict().keys()
        fitting = {key: value for key, value in state.items() if key in own}
        module.load_state_dict(fitting, strict=False)
        loaded[name] = len(fitting.keys() - set(converted.new))
        unused -= own
    if unused and converted.complete:
        raise ValueError(
            f'{path!r} has {len(unused)} tensors that the backbone lacks: '
            f'{shorten(sorted(unused))}. Choose the checkpoint of the same variant'
            f'{f"; the file fits {converted.fits}" if converted.fits else ""}.'
        )
    skipped = (*converted.skipped, *(k for k in converted.state if k in unused))
    report = InitReport(
        str(path), converted.layout, loaded, skipped, adapted, converted.new
    )
    print_log(str(report), logger='current')
    return report
