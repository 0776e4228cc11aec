"""How much of a pretrained encoder trains: all of it, a low-rank part, or nothing.

LoRA: LoRA: Low-Rank Adaptation of Large Language Models, 2021,
https://arxiv.org/abs/2106.09685, by the `peft` package (Apache-2.0). It is put into the
encoder when that is built, so that checkpoints, resuming and DDP need nothing else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmseg_xmodal.compat import import_extra

MODES = ('full', 'frozen', 'lora')
_BASE = '.base_layer'  # between the name of an adapted layer and its weight


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What of an encoder trains.

    Args:
        mode: ``'full'``; ``'frozen'`` (the encoder stays in eval mode); ``'lora'``
            (low-rank additions to its linear layers; batch norms stay in eval mode).
        rank: Rank of the additions, LoRA only, as are the next three.
        alpha: They are scaled by ``alpha / rank``.
        dropout: Before each addition.
        targets: Names of the layers, or the ends of their names (``'attn.qkv'``);
            None = the linear layers of the attention, in an encoder without
            attention all linear layers (1x1 convolutions are linear, too).
        also: Beginnings of parameter names that train besides, such as
            ``'patch_embed'`` for modalities that the weights have not seen.

    Raises:
        ValueError: If the mode is unknown, or a number makes no sense.
    """

    mode: str = 'full'
    rank: int = 8
    alpha: float = 16
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None
    also: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ('targets', 'also'):
            value = getattr(self, name)
            if value is not None:
                value = (value,) if isinstance(value, str) else tuple(value)
                object.__setattr__(self, name, value)
        problem = None
        if self.mode not in MODES:
            problem = f'mode={self.mode!r}, expected one of {MODES}'
        elif self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            problem = (
                f'rank={self.rank}, alpha={self.alpha}, dropout={self.dropout}, '
                'expected rank >= 1, alpha > 0 and dropout in [0, 1)'
            )
        if problem:
            raise ValueError(f'tuning has {problem}. Change `tuning` of the backbone.')

    @classmethod
    def build(cls, value: str | Mapping[str, Any] | Tuning) -> Tuning:
        """Take a mode, or a dict of the fields above.

        Raises:
            ValueError: If a field is unknown.
        """
        if isinstance(value, Tuning):
            return value
        if isinstance(value, str):
            return cls(value)
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = set(value) - set(known)
        if unknown or 'mode' not in value:
            raise ValueError(
                f'tuning has the keys {sorted(value)}, expected mode and some of '
                f"{known[1:]}, such as tuning=dict(mode='lora', rank=8). Change "
                '`tuning` of the backbone.'
            )
        return cls(**value)

    def __str__(self) -> str:
        text = self.mode
        if self.mode == 'lora':
            text += f' (rank {self.rank}, alpha {self.alpha:g})'
        return text + (f' and {list(self.also)}' if self.also else '')


def base_name(name: str) -> str:
    """Name of a tensor without the level that an adapted layer puts in."""
    return name.replace(_BASE, '')


def is_addition(name: str) -> bool:
    """Whether a tensor belongs to the low-rank additions."""
    return '.lora_' in name


def apply_tuning(encoder: nn.Module, tuning: Tuning, called: Collection[str]) -> None:
    """Decide which parameters of an encoder train; put LoRA in.

    Args:
        encoder: Changed in place.
        tuning: What to do.
        called: Names of the modules whose call changes the output.

    Raises:
        ImportError: If LoRA is asked for without ``peft``.
        ValueError: If a name of ``targets`` or ``also`` fits nothing, or LoRA on a
            target would have no effect.
    """
    if tuning.mode == 'full':
        return
    encoder.requires_grad_(False)
    if tuning.mode == 'lora':
        peft = import_extra('peft', 'encoders')
        config = peft.LoraConfig(
            r=tuning.rank,
            lora_alpha=tuning.alpha,
            lora_dropout=tuning.dropout,
            target_modules=find_targets(encoder, tuning.targets, called),
        )
        peft.inject_adapter_in_model(config, encoder)
    for name, parameter in encoder.named_parameters():
        chosen = base_name(name).startswith(tuning.also) if tuning.also else False
        parameter.requires_grad_(is_addition(name) or chosen)
    _check_also(encoder, tuning)


def _check_also(encoder: nn.Module, tuning: Tuning) -> None:
    names = [base_name(name) for name, _ in encoder.named_parameters()]
    lost = [a for a in tuning.also if not any(n.startswith(a) for n in names)]
    if lost:
        raise ValueError(
            f'tuning has also={list(tuning.also)}, but no parameter of the encoder '
            f'begins with {lost}; it has {names[:8]} and more. Change `tuning` of the '
            'backbone.'
        )


def find_targets(
    encoder: nn.Module, targets: tuple[str, ...] | None, called: Collection[str]
) -> list[str]:
    """Find the layers that get low-rank additions.

    Some encoders (BEiT, EVA, Swin v2) use the weight of a layer without calling the
    layer: an addition to it would change nothing. Such layers are left out, or refused
    when named.

    Args:
        encoder: Where to look.
        targets: See :class:`Tuning`.
        called: Names of the modules whose call changes the output.

    Returns:
        Full module names.

    Raises:
        ValueError: If there is no such layer, or it is not called.
    """
    modules = dict(encoder.named_modules())
    if targets is None:
        linear = [n for n, m in modules.items() if _is_linear(m)]
        inside = [n for n in linear if 'attn' in n or 'attention' in n]
        found = [n for n in inside or linear if n in called]
        if found:
            return found
    else:
        found = [n for n in modules if _ends(n, targets)]
        deaf = [n for n in found if n not in called]
        if deaf:
            raise ValueError(
                f'LoRA on {deaf[:4]} would have no effect: the encoder does '
                'not call these layers (it may use their weights). Take them out of '
                'targets in `tuning` of the backbone.'
            )
        lost = [t for t in targets if not any(_ends(n, (t,)) for n in found)]
        if not lost:
            return found
    linear = [n for n in called if isinstance(modules[n], nn.Linear | nn.Conv2d)]
    raise ValueError(
        f'tuning has targets={targets}, which fit no layer of the encoder; LoRA goes '
        f'on layers such as {sorted(linear)[:8]}. Give the names, or their ends, as '
        'targets in `tuning` of the backbone.'
    )


def _is_linear(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return module.kernel_size == (1, 1) and module.groups == 1
    return isinstance(module, nn.Linear)


def _ends(name: str, targets: tuple[str, ...]) -> bool:
    return any(name == t or name.endswith(f'.{t}') for t in targets)


def set_encoder_mode(encoder: nn.Module, tuning: Tuning) -> None:
    """Put what must not move back into eval mode, after ``train()``."""
    if tuning.mode == 'frozen':
        encoder.eval()
    elif tuning.mode == 'lora':
        for module in encoder.modules():
            if isinstance(module, _BatchNorm):
                module.eval()


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """Count the parameters that train, and all."""
    sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
    return sum(n for n, trains in sizes if trains), sum(n for n, _ in sizes)


def to_adapted_names(
    encoder: nn.Module, state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Translate weights of the plain encoder into the names of an adapted one.

    Args:
        encoder: Plain, or with LoRA.
        state: Plain name to tensor.

    Returns:
        Name in ``encoder`` to tensor; names that it lacks stay.
    """
    names = {base_name(n): n for n in encoder.state_dict() if not is_addition(n)}
    return {names.get(name, name): value for name, value in state.items()}
