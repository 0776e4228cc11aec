"""What the encoders of other libraries (timm, transformers) share as streams.

The library builds the encoder and runs it. Here its input is padded to whole patches,
its maps are cut to ceil(H / stride), a plain ViT gets its pyramid, and what trains is
decided.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor, nn

from .tuning import (
    Tuning,
    apply_tuning,
    base_name,
    count_parameters,
    set_encoder_mode,
)
from .vit_pyramid import MapNorm, ViTPyramid

Run = Callable[[nn.Module, Tensor], Sequence[Tensor]]
_PROBE_SIZE = (224, 224)  # a multiple of all usual strides: 4 to 32, and 14


@dataclasses.dataclass(frozen=True)
class Encoder:
    """An encoder as its library describes it.

    Args:
        label: For messages, such as ``'timm convnext_atto'``.
        build: Makes the encoder, with random weights.
        run: From the encoder and an input of whole patches to its NCHW maps.
        plain: All its blocks work at one stride (a plain ViT).
        img_size: The one input size (height, width) that it takes; None = any.
    """

    label: str
    build: Callable[[], nn.Module]
    run: Run
    plain: bool
    img_size: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Probe:
    """What a run without memory tells about an encoder.

    Args:
        channels: Of the maps.
        strides: Of the maps, in pixels.
        called: Modules whose call changes the maps.
        unused: Parameters on which no map depends.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    called: frozenset[str]
    unused: frozenset[str]


def probe_encoder(encoder: Encoder, in_channels: int) -> Probe:
    """Build an encoder on the meta device and run it forward and backward.

    Args:
        encoder: What to probe.
        in_channels: Channels of its input.
    """
    size = encoder.img_size or _PROBE_SIZE
    called: set[str] = set()
    with torch.device('meta'), torch.enable_grad():
        twin = encoder.build().eval()
        for name, module in twin.named_modules():
            module.register_forward_hook(lambda *_, name=name: called.add(name))
        maps = encoder.run(twin, torch.zeros(1, in_channels, *size))
        torch.stack([level.sum() for level in maps]).sum().backward()
    unused = {name for name, p in twin.named_parameters() if p.grad is None}
    # A module that is called for nothing (a pooling layer) has unused parameters.
    idle = {name.rpartition('.')[0] for name in unused}
    return Probe(
        tuple(level.shape[1] for level in maps),
        tuple(size[0] // level.shape[2] for level in maps),
        frozenset(called - idle),
        frozenset(unused),
    )


def pick_levels(
    indices: Sequence[int] | None, total: int, plain: bool, label: str
) -> list[int]:
    """Resolve ``out_indices``.

    Args:
        indices: Given by the config, or None.
        total: Levels (blocks of a plain ViT) that there are.
        plain: Whether it is a plain ViT.
        label: For messages.

    Raises:
        ValueError: If an index is out of range, or they do not ascend.
    """
    if indices is None:
        return [total - 1] if plain else list(range(max(total - 4, 0), total))
    chosen = [i + total if i < 0 else i for i in indices]
    wrong = [i for i in chosen if not 0 <= i < total]
    if not chosen or wrong or sorted(set(chosen)) != chosen:
        raise ValueError(
            f'out_indices={list(indices)}, expected ascending numbers from 0 to '
            f'{total - 1}: {label} has {total} levels. Change out_indices of the '
            'backbone.'
        )
    return chosen


class EncoderStream(BaseModule):
    """Base of the streams that hold an encoder of another library.

    Args:
        encoder: The encoder.
        in_channels: Channels of the input.
        pretrained: Where the weights are; the subclass says how they are read.
        pyramid_channels: Of the four maps made from a plain ViT, see
            :class:`ViTPyramid`; None = its own maps. Without meaning for others.
        level_norm: Put a LayerNorm behind each map of an encoder that is no plain
            ViT.
        tuning: What trains, see :class:`Tuning`.
        init_cfg: As in mmengine; applied before ``pretrained``.

    Shape:
        - input: (B, in_channels, H, W)
        - output: one map per level, (B, out_channels[i], ceil(H / strides[i]),
          ceil(W / strides[i]))

    Raises:
        ValueError: If the options do not fit the encoder.
    """

    def __init__(
        self,
        encoder: Encoder,
        in_channels: int,
        pretrained: str | Mapping[str, Any] | None,
        pyramid_channels: int | Sequence[int] | None,
        level_norm: bool,
        tuning: str | Mapping[str, Any] | Tuning,
        init_cfg: dict | list | None,
    ) -> None:
        super().__init__(init_cfg)
        self.label, self.run, self.plain = encoder.label, encoder.run, encoder.plain
        self.img_size = encoder.img_size
        self.in_channels = in_channels
        self.pretrained = pretrained
        self.tuning = Tuning.build(tuning)
        probe = probe_encoder(encoder, in_channels)
        self.multiple = max(probe.strides)
        made: Any = encoder.build()
        # It is initialised as its library does; mmengine would do it a second time.
        made.is_init = True
        self.encoder = made
        apply_tuning(self.encoder, self.tuning, probe.called)
        # A gradient that never comes makes DDP wait for it.
        for name, parameter in self.encoder.named_parameters():
            if base_name(name) in probe.unused:
                parameter.requires_grad_(False)
        self.pyramid: ViTPyramid | None = None
        self.norms: nn.ModuleList | None = None
        self.strides, self.embed_dims = probe.strides, probe.channels
        if self.plain and pyramid_channels is not None:
            self.pyramid = ViTPyramid(probe.channels, self.multiple, pyramid_channels)
            self.strides = self.pyramid.strides
            self.embed_dims = self.pyramid.out_channels
        elif level_norm and not self.plain:
            self.norms = nn.ModuleList(MapNorm(width) for width in probe.channels)
        trained, total = count_parameters(self.encoder)
        print_log(
            f'{type(self).__name__} {self.label}: tuning {self.tuning}, {trained:,} of '
            f'{total:,} parameters of the encoder train.',
            logger='current',
        )
        self.train(self.training)

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the output maps."""
        return self.embed_dims

    @property
    def not_staged(self) -> str:
        """Why the streams cannot exchange between its stages; empty = they can."""
        return f'{self.label} is not known to run stage by stage'

    def read_pretrained(self, path: str) -> Any:
        """Read local weights into the names of ``encoder``."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> EncoderStream:
        """As in torch, but what is frozen stays in eval mode."""
        super().train(mode)
        set_encoder_mode(self.encoder, self.tuning)
        return self

    def pad(self, x: Tensor) -> Tensor:
        """Fill up to whole patches with zeros, at the right and at the bottom.

        Raises:
            ValueError: If the encoder takes another size only.
        """
        height, width = x.shape[2], x.shape[3]
        if self.img_size is not None:
            if (height, width) != self.img_size:
                raise ValueError(
                    f'{self.label} got an input of {height}x{width}, expected '
                    f'{self.img_size[0]}x{self.img_size[1]}, the only size that it '
                    'takes. Set img_size in model_args of the backbone to the crop '
                    "size, and test_cfg=dict(mode='slide', crop_size=..., stride=...) "
                    'in the model; or take another encoder.'
                )
            return x
        rows, columns = -height % self.multiple, -width % self.multiple
        return F.pad(x, (0, columns, 0, rows)) if rows or columns else x

    def finish(self, level: Tensor, i: int, size: tuple[int, int]) -> Tensor:
        """Norm a map of an encoder with several strides and cut the padding off.

        Args:
            level: The map.
            i: Its position in the output.
            size: Height and width of the input in pixels.
        """
        if self.norms is not None:
            level = self.norms[i](level)
        stride = self.strides[i]
        return level[:, :, : -(-size[0] // stride), : -(-size[1] // stride)]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the map of every level."""
        size = (x.shape[2], x.shape[3])
        maps = self.run(self.encoder, self.pad(x))
        if self.pyramid is not None:
            return self.pyramid(maps, size)
        return tuple(self.finish(level, i, size) for i, level in enumerate(maps))
