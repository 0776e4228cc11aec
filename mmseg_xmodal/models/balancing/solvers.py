"""Small quadratic programs of the gradient rules, solved exactly.

As many unknowns as tasks: an active-set method (Lawson and Hanson, "Solving Least
Squares Problems", 1974, chapter 23, and its form with a constant sum) ends after a few
steps at the solution, whatever the scales of the gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor


def solve_nonnegative(hessian: Tensor, linear: Tensor) -> Tensor:
    """Minimise ``w H w / 2 + q w`` over ``w >= 0``.

    Args:
        hessian: H, positive semi-definite.
        linear: q, in the range of H.

    Shape:
        - hessian: (T, T), float64
        - linear, output: (T,), float64
    """
    return _active_set(hessian, linear, torch.zeros_like(linear))


def solve_simplex(
    hessian: Tensor, linear: Tensor | None = None, start: Tensor | None = None
) -> Tensor:
    """Minimise ``w H w / 2 + q w`` over ``w >= 0`` with ``sum w = 1``.

    Args:
        hessian: H, positive semi-definite.
        linear: q, in the range of H. Defaults to 0: the point of least norm.
        start: Point of the simplex to begin from, such as the solution of a similar
            problem. Defaults to the best corner.

    Shape:
        - hessian: (T, T), float64
        - linear, start, output: (T,), float64
    """
    if linear is None:
        linear = hessian.new_zeros(len(hessian))
    if start is None:
        start = torch.zeros_like(linear)
        start[(hessian.diagonal() / 2 + linear).argmin()] = 1
    # In units of the gradients' lengths, which may differ by many orders.
    lengths = hessian.diagonal().clamp(min=0).sqrt()
    longest = lengths.max() if lengths.any() else torch.ones_like(lengths[0])
    lengths = torch.where(lengths > 0, lengths, longest)
    total = lengths.min() / lengths
    scaled = _active_set(
        hessian / lengths.outer(lengths),
        linear / lengths / lengths.min(),
        start / total,
        total,
    )
    w = scaled * total
    return w / w.sum()


def _active_set(
    hessian: Tensor, linear: Tensor, w: Tensor, total: Tensor | None = None
) -> Tensor:
    """Minimise over ``w >= 0``, with ``total w = 1`` where a total is given."""
    support = w > 0
    scale = hessian.abs().max().item() * max(1.0, w.max().item())
    scale = max(scale, linear.abs().max().item())
    last: int | None = None
    if support.any():
        w = _descend(hessian, linear, w, support, total)
    # Every pass lowers the objective, and no support comes twice. The bound is for
    # round-off only: the last point is feasible, and as good as float64 tells.
    for _ in range(20 * len(w)):
        slope = hessian @ w + linear
        if total is not None:
            slope = slope - (w @ slope) * total
        slope = slope.masked_fill(support, torch.inf)
        enters = int(slope.argmin())
        if slope[enters] >= -1e-12 * scale or enters == last:
            break
        support[enters] = True
        w = _descend(hessian, linear, w, support, total)
        # What has just entered and could not stay would enter for ever.
        last = None if support[enters] else enters
    return w


def _descend(
    hessian: Tensor, linear: Tensor, w: Tensor, support: Tensor, total: Tensor | None
) -> Tensor:
    """Go to the best point of the face; entries that become 0 leave ``support``."""
    while True:
        best = _best_on_face(hessian, linear, support, total)
        below = support & (best <= 0)
        if not below.any():
            return best
        share = torch.where(below, w / (w - best).clamp(min=1e-300), torch.inf)
        leaves = int(share.argmin())
        w = w + share[leaves].clamp(max=1) * (best - w)
        w[leaves] = 0
        support &= w > 0
        w = w.clamp(min=0)
        if not support.any():
            return w


def _best_on_face(
    hessian: Tensor, linear: Tensor, support: Tensor, total: Tensor | None
) -> Tensor:
    """The minimum over the entries of ``support``, whatever their signs."""
    chosen = support.nonzero().flatten()
    n = len(chosen)
    system, right = hessian[chosen][:, chosen], -linear[chosen]
    if total is not None:
        edge = total[chosen, None]
        corner = system.new_zeros(1, 1)
        system = torch.cat(
            [torch.cat([system, edge], 1), torch.cat([edge.T, corner], 1)]
        )
        right = torch.cat([right, right.new_ones(1)])
    # Dependent gradients make it singular; any of the minima will do.
    solution = torch.linalg.pinv(system, rtol=1e-12, hermitian=True) @ right
    best = torch.zeros_like(linear)
    best[chosen] = solution[:n]
    return best
