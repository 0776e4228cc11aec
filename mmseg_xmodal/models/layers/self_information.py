"""How much each class of a prediction tells.

Paper: ADVENT, Vu et al., CVPR 2019, https://arxiv.org/abs/1811.12833, official code
https://github.com/valeoai/ADVENT (Apache-2.0). Clean room, nothing copied.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def self_information(probabilities: Tensor) -> Tensor:
    """-p log2 p / log2 C of each class.

    Shape:
        - probabilities, output: (B, C, H, W); the output sums up to 1 at most
    """
    bits = -probabilities * torch.log2(probabilities + 1e-30)
    return bits / math.log2(probabilities.shape[1])
