"""Adam on a few numbers that are no parameters of the model.

FAMO and GradNorm learn task weights at a rate of their own, with gradients that do not
come from the loss. The state lies in buffers, so it is in the checkpoint.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AdamState(nn.Module):
    """Adam (Kingma and Ba, 2015) for one vector, with weight decay in the gradient.

    Args:
        count: Length of the vector.
        lr: Learning rate.
        weight_decay: Factor on the value that is added to its gradient.
        betas: Decay of the two moments.
        eps: Added to the root of the second moment.
        dtype: Of the moments.
    """

    first: Tensor
    second: Tensor
    steps: Tensor

    def __init__(
        self,
        count: int,
        lr: float,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.lr, self.weight_decay = lr, weight_decay
        self.betas, self.eps = betas, eps
        self.register_buffer('first', torch.zeros(count, dtype=dtype))
        self.register_buffer('second', torch.zeros(count, dtype=dtype))
        self.register_buffer('steps', torch.zeros(count, dtype=torch.int64))

    @torch.no_grad()
    def step(self, value: Tensor, grad: Tensor, moved: Tensor) -> None:
        """Change ``value`` in place.

        Args:
            value: The vector.
            grad: Its gradient.
            moved: Entries that take part; the others and their moments stay as they
                are. With a mask nothing waits for the GPU.

        Shape:
            - value, grad, moved: (count,)
        """
        grad = grad.to(self.first.dtype) + self.weight_decay * value
        a, b = self.betas
        first = torch.lerp(grad, self.first, a)
        second = torch.lerp(grad.square(), self.second, b)
        self.first.copy_(torch.where(moved, first, self.first))
        self.second.copy_(torch.where(moved, second, self.second))
        self.steps += moved
        # An entry that has never moved is divided by 1 - 1 and then not used.
        steps = self.steps.to(self.first.dtype)
        mean = self.first / (1 - a**steps)
        spread = (self.second / (1 - b**steps)).sqrt() + self.eps
        value.copy_(torch.where(moved, value - self.lr * mean / spread, value))
