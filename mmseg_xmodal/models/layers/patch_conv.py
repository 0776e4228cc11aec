"""A convolution whose stride is its kernel, as one matrix product.

Its patches do not overlap, so they are a copy of the tokens in another order and the
convolution is a linear layer on them. torch's CPU convolution is several times slower
at such kernels, forwards and backwards.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .slices import is_plain
from .tokens import to_map, to_tokens


def pad_to_kernel(x: Tensor, kernel: int) -> Tensor:
    """Pad a map that is smaller than one kernel with zeros, right and below.

    Shape:
        - x: (B, C, H, W)
        - output: (B, C, max(H, kernel), max(W, kernel))
    """
    lacking = [max(kernel - n, 0) for n in x.shape[2:]]
    return F.pad(x, (0, lacking[1], 0, lacking[0])) if any(lacking) else x


def patch_conv(conv: nn.Module, x: Tensor, size: tuple[int, int]) -> Tensor:
    """Apply an unpadded convolution with stride = kernel to tokens.

    As in the convolution, what does not fill a patch at the right and at the bottom is
    left out; a map smaller than one patch is padded with zeros first. A convolution
    that is more than its weights is called as usual.

    Args:
        conv: The convolution, or what stands in its place.
        x: The tokens, row by row.
        size: Height and width of their map.

    Shape:
        - x: (B, H * W, C)
        - output: (B, floor(H / kernel) * floor(W / kernel), C_out), at least one token
    """
    patch: int = conv.kernel_size[0]  # type: ignore[index, assignment]
    if min(size) < patch or not is_plain(conv):
        return to_tokens(conv(pad_to_kernel(to_map(x, size), patch)))
    rows, columns = size[0] // patch, size[1] // patch
    image = x.unflatten(1, size)[:, : rows * patch, : columns * patch]
    patches = image.unflatten(2, (columns, patch)).unflatten(1, (rows, patch))
    patches = patches.transpose(2, 3).flatten(3).flatten(1, 2)
    weight: Tensor = conv.weight  # type: ignore[assignment]
    bias: Tensor | None = conv.bias  # type: ignore[assignment]
    return F.linear(patches, weight.permute(0, 2, 3, 1).flatten(1), bias)
