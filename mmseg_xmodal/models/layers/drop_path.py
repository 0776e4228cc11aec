"""Stochastic depth."""

from __future__ import annotations

from torch import Tensor, nn


class DropPath(nn.Module):
    """Drop the residual branch of whole samples while training.

    Args:
        rate: Probability of dropping, in [0, 1).

    Raises:
        ValueError: If ``rate`` is outside [0, 1).
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(
                f'Drop path rate is {rate}, expected a number in [0, 1). '
                'Change drop_path_rate.'
            )
        self.rate = float(rate)

    def forward(self, x: Tensor) -> Tensor:
        """Scale the kept samples by 1 / (1 - rate), so that the mean stays.

        Shape:
            - x: (B, ...)
            - output: as ``x``
        """
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * mask.div_(keep)

    def extra_repr(self) -> str:
        """Show the rate in ``print(model)``."""
        return f'rate={self.rate:g}'


def linear_drop_path(rate: float, depths: tuple[int, ...]) -> list[list[float]]:
    """Rates that grow linearly from 0 to ``rate`` over all blocks.

    Args:
        rate: Rate of the last block.
        depths: Blocks per stage.

    Returns:
        One list per stage, one rate per block.
    """
    total = sum(depths)
    values = (rate * i / max(total - 1, 1) for i in range(total))
    return [[next(values) for _ in range(depth)] for depth in depths]
