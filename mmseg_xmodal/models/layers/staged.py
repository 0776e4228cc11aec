"""Run a backbone stage by stage, so that streams can exchange in between.

A *walker* is a generator over the levels of one backbone: it yields a level's map and
continues from the map that ``send()`` hands back (None = the one it yielded). Sending
back the map itself gives exactly the numbers of the backbone's own ``forward``.

Our backbones have the method ``forward_stages``. For stock backbones, which are not
ours to change, one adapter per family is below; they use attributes that have the same
names in mmseg 1.2.2 (OpenMMLab) and 1.4.2 (onedl).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from torch import Tensor, nn

from .tokens import to_map

Walker = Generator[Tensor, 'Tensor | None', None]


def _next(current: Tensor, replacement: Tensor | None) -> Tensor:
    return current if replacement is None else replacement


def _walk_resnet(net: Any, x: Tensor) -> Walker:
    if net.deep_stem:
        x = net.stem(x)
    else:
        x = net.relu(net.norm1(net.conv1(x)))
    x = net.maxpool(x)
    for i, name in enumerate(net.res_layers):
        x = getattr(net, name)(x)
        if i in net.out_indices:
            x = _next(x, (yield x))


def _walk_mobilenet_v2(net: Any, x: Tensor) -> Walker:
    x = net.conv1(x)
    for i, name in enumerate(net.layers):
        x = getattr(net, name)(x)
        if i in net.out_indices:
            x = _next(x, (yield x))


def _walk_mit(net: Any, x: Tensor) -> Walker:
    for i, (patch_embed, blocks, norm) in enumerate(net.layers):
        x, size = patch_embed(x)
        for block in blocks:
            x = block(x, size)
        x = to_map(norm(x), size)
        if i in net.out_indices:
            x = _next(x, (yield x))


def _walk_swin(net: Any, x: Tensor) -> Walker:
    x, size = net.patch_embed(x)
    if net.use_abs_pos_embed:
        x = x + net.absolute_pos_embed
    x = net.drop_after_pos(x)
    for i, stage in enumerate(net.stages):
        for block in stage.blocks:
            x = block(x, size)
        if i in net.out_indices:
            # The decoder sees the normed map, the next stage the plain one: only
            # what the exchange changed is carried over to the latter.
            level = to_map(getattr(net, f'norm{i}')(x), size)
            replacement = yield level
            if replacement is not None and replacement is not level:
                x = x + (replacement - level).flatten(2).transpose(1, 2)
        if stage.downsample:
            x, size = stage.downsample(x, size)


def _walk_convnext(net: Any, x: Tensor) -> Walker:
    if net.gap_before_final_norm:
        raise ValueError(
            'ConvNeXt with gap_before_final_norm=True has vectors, not maps, as '
            'levels. Set gap_before_final_norm=False in the backbone config.'
        )
    for i, stage in enumerate(net.stages):
        x = stage(net.downsample_layers[i](x))
        if i in net.out_indices:
            level = getattr(net, f'norm{i}')(x)
            replacement = yield level
            if replacement is not None and replacement is not level:
                x = x + (replacement - level)


# By name, not by class: naming a family must not import its package.
_WALKERS: dict[str, Callable[[Any, Tensor], Walker]] = {
    'mmseg.models.backbones.resnet.ResNet': _walk_resnet,
    'mmseg.models.backbones.mobilenet_v2.MobileNetV2': _walk_mobilenet_v2,
    'mmseg.models.backbones.mit.MixVisionTransformer': _walk_mit,
    'mmseg.models.backbones.swin.SwinTransformer': _walk_swin,
    'mmpretrain.models.backbones.convnext.ConvNeXt': _walk_convnext,
}


def supported_backbones() -> list[str]:
    """Names of the families that can exchange between stages."""
    stock = sorted(name.split('.')[0] + '.' + name.split('.')[-1] for name in _WALKERS)
    return [
        'any with a forward_stages method (mmseg_xmodal.MixTransformer, '
        'mmseg_xmodal.TimmStream of ConvNeXt, Swin and PVTv2)',
        *stock,
    ]


def staged_forward(backbone: nn.Module) -> Callable[[Tensor], Walker]:
    """Find out how to run a backbone stage by stage.

    Args:
        backbone: Ours, or a stock one of a known family (subclasses included).

    Returns:
        Function from the input to a walker.

    Raises:
        ValueError: If the backbone belongs to no known family.
    """
    own = getattr(backbone, 'forward_stages', None)
    # A class that holds encoders of several kinds says which of them has no stages.
    reason = getattr(backbone, 'not_staged', '')
    if own is not None and not reason:
        return own
    for base in type(backbone).__mro__:
        walk = _WALKERS.get(f'{base.__module__}.{base.__qualname__}')
        if walk is not None:
            return lambda x: walk(backbone, x)
    raise ValueError(
        f'{type(backbone).__name__} cannot exchange between its stages'
        f'{f" ({reason})" if reason else ""}; supported: '
        f'{"; ".join(supported_backbones())}. Set exchange=False in the backbone '
        'config to fuse each level after a plain forward, or give the class a '
        'forward_stages generator.'
    )


def advance(walker: Walker, replacement: Tensor | None) -> Tensor | None:
    """Send a replacement and return the next level, None behind the last one."""
    try:
        return walker.send(replacement)
    except StopIteration:
        return None
