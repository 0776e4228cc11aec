"""The rule that fills weights and inputs of the parity fixtures.

Written anew from its description; the checksum in each fixture proves it equal. Every
array follows from a name and a shape: the name seeds a splitmix64 generator in counter
mode, integer arithmetic and correctly rounded floating point do the rest.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

# Case "e": inputs, biases and gains of LayerNorms are smaller by this factor.
SMALL = 1 / 64
# Constants of an architecture: each implementation computes its own.
CONSTANTS = ('relative_position_index', 'Geo.angle', 'Geo.decay', 'attn_mask')

_WEYL = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def _words(name: str, count: int) -> np.ndarray:
    """``count`` random 64-bit words that depend on ``name`` only."""
    text = name.encode()
    seed = np.uint64(zlib.adler32(text) << 32 | zlib.crc32(text))
    with np.errstate(over='ignore'):
        word = seed + _WEYL * np.arange(1, count + 1, dtype=np.uint64)
        for shift, multiplier in zip((30, 27), _MULTIPLIERS, strict=True):
            word = (word ^ (word >> np.uint64(shift))) * multiplier
    return word ^ (word >> np.uint64(31))


def _bell(name: str, shape: Sequence[int]) -> np.ndarray:
    """Sum of four 16-bit uniforms, shifted and scaled to mean 0 and variance 1."""
    words = _words(name, math.prod(shape))
    quarters = sum(words >> np.uint64(s) & np.uint64(0xFFFF) for s in (0, 16, 32, 48))
    deviation = math.sqrt((65536.0**2 - 1) / 3)
    return ((quarters.astype(np.float64) - 131070.0) / deviation).reshape(shape)


def _flat(name: str, shape: Sequence[int]) -> np.ndarray:
    """Uniform in [0, 1) from the upper 53 bits."""
    words = _words(name, math.prod(shape)) >> np.uint64(11)
    return (words.astype(np.float64) * 2.0**-53).reshape(shape)


def _about(centre: float, spread: float) -> Callable[..., np.ndarray]:
    return lambda name, shape: centre + spread * _bell(name, shape)


_HALF, _GAIN, _LITTLE = _about(0.0, 0.5), _about(1.0, 0.1), _about(0.0, 0.1)


def _value(key: str, shape: tuple[int, ...], factor: float) -> np.ndarray:
    """Floating point values of one key, by the first rule that matches."""
    last = key.rpartition('.')[2]
    if last == 'running_mean':
        return _LITTLE(key, shape)
    if last == 'running_var':
        return 1.0 + 0.2 * _flat(key, shape)
    if key.endswith('Geo.weight'):
        return _about(1.0, 0.2)(key, shape)
    if key.endswith(('k_noise.weight', 'v_noise.weight')):
        return _HALF(key, shape)
    if last.endswith('relative_position_bias_table'):
        return _HALF(key, shape)
    if 'layer_scale' in last or 'gamma' in last:
        return _about(0.5, 0.1)(key, shape)
    if last.endswith('bias'):
        return factor * _LITTLE(key, shape)
    if len(shape) == 1:
        return factor * _GAIN(key, shape) if last == 'weight' else _HALF(key, shape)
    kv = key.endswith(('cross_attn.kv1.weight', 'cross_attn.kv2.weight'))
    scale = (0.25 if kv else 1.0) / math.sqrt(math.prod(shape[1:]))
    return _bell(key, shape) * scale


def fill_state(
    shapes: Mapping[str, Sequence[int]], small: bool = False
) -> dict[str, Tensor]:
    """Fill an official state dict.

    Args:
        shapes: Official key to shape, in official order.
        small: Scale biases and the gains of norms without running statistics down.

    Returns:
        Key to tensor; constants of the architecture are left out.
    """
    state = {}
    for key, shape in shapes.items():
        shape = tuple(shape)
        if key.endswith(CONSTANTS):
            continue
        if key.endswith('num_batches_tracked'):
            state[key] = torch.zeros(shape, dtype=torch.int64)
            continue
        statistics = key.removesuffix('weight') + 'running_var'
        has_statistics = key.endswith('weight') and statistics in shapes
        factor = SMALL if small and not has_statistics else 1.0
        state[key] = torch.from_numpy(_value(key, shape, factor).astype(np.float32))
    return state


def checksum(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names and little-endian bytes, in order."""
    digest = hashlib.sha256()
    for key, value in state.items():
        array = value.numpy()
        digest.update(key.encode())
        digest.update(array.astype(array.dtype.newbyteorder('<')).tobytes())
    return digest.hexdigest()


def make_input(name: str, shape: Sequence[int], small: bool = False) -> Tensor:
    """Input of mean 0 and variance 1, already normalised.

    Args:
        name: Of the input in the fixture.
        shape: Of the tensor.
        small: Scale it down, as the weights of the same case.
    """
    values = (SMALL if small else 1.0) * _bell(f'input:{name}', shape)
    return torch.from_numpy(values.astype(np.float32))


def make_uniform(name: str, shape: Sequence[int]) -> Tensor:
    """Uniform values in [0, 1), where official code would draw them."""
    return torch.from_numpy(_flat(f'uniform:{name}', shape).astype(np.float32))
