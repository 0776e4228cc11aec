"""torchvision's MobileNetV2 into mmseg's backbone.

Paper: MobileNetV2, Sandler et al., CVPR 2018, https://arxiv.org/abs/1801.04381. Source:
https://github.com/pytorch/vision (BSD-3-Clause); the weights have no licence of their
own there, see its model documentation.

What comes out is the state of the backbone alone, for
``backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=...))``. The last 1x1
convolution and the classifier have no place in it.
"""

from __future__ import annotations

import re
from typing import Any

from .io import shorten
from .official import Official, State, register_official, renaming

# Blocks of each layer; mmseg keeps them apart, torchvision counts through.
_BLOCKS = (1, 2, 3, 4, 3, 3, 1)
_PLACES = [
    (layer + 1, block) for layer, count in enumerate(_BLOCKS) for block in range(count)
]
_LEAF = r'(weight|bias|running_mean|running_var|num_batches_tracked)'
_UNUSED = ('features.18.', 'classifier.')
_MARKS = {'features.0.0.weight': (32, 3, 3, 3), 'features.17.conv.2.weight': (320, 960)}


def mobilenetv2_key(key: str) -> str | None:
    """Translate one key of torchvision; None when it is none, ``''`` for unused ones.

    Args:
        key: Such as ``features.2.conv.0.0.weight``.

    Returns:
        Such as ``layer2.0.conv.0.conv.weight``.
    """
    if key.startswith(_UNUSED):
        return ''
    stem = re.fullmatch(rf'features\.0\.([01])\.{_LEAF}', key)
    if stem:
        return f'conv1.{_part(stem[1])}.{stem[2]}'
    inner = re.fullmatch(rf'features\.(\d+)\.conv\.(\d)(?:\.([01]))?\.{_LEAF}', key)
    if not inner or not 1 <= int(inner[1]) <= len(_PLACES):
        return None
    layer, block = _PLACES[int(inner[1]) - 1]
    step, part = int(inner[2]), inner[3]
    if part is None:
        # The linear convolution and its norm stand next to each other.
        linear = 1 if layer == 1 else 2
        step, part = linear, str(step - linear)
    return f'layer{layer}.{block}.conv.{step}.{_part(part)}.{inner[4]}'


def _part(index: str) -> str:
    return 'conv' if index == '0' else 'bn'


def mobilenetv2_config(state: State) -> dict[str, Any]:
    """Config of the backbone of a torchvision MobileNetV2 of width 1.

    Raises:
        ValueError: If it is none.
    """
    got = {key: tuple(state[key].shape) for key in _MARKS if key in state}
    if any(got.get(key, ())[: len(size)] != size for key, size in _MARKS.items()):
        raise ValueError(
            f'This is no MobileNetV2 of torchvision: got {got}, expected {_MARKS} at '
            f'the beginning of the shapes. The first keys are {shorten(state, 5)}. '
            'Give mobilenet_v2-*.pth of torchvision.'
        )
    return dict(type='mmseg.MobileNetV2')


MOBILENETV2 = register_official(
    Official(
        name='mobilenetv2',
        title="torchvision's MobileNetV2 (ImageNet), the backbone",
        config=mobilenetv2_config,
        translate=renaming(mobilenetv2_key),
        notes=(
            'inputs are RGB: mean=[123.675, 116.28, 103.53], '
            'std=[58.395, 57.12, 57.375]',
        ),
    )
)
