"""Heatmaps of object centres: what is drawn in training, what is picked at inference.

Objects as points: CenterNet, 2019, https://arxiv.org/abs/1904.07850 (official code
https://github.com/xingyizhou/CenterNet, MIT). The radius follows the rule of CornerNet,
2018, https://arxiv.org/abs/1808.01244. Clean room, nothing copied: the roots below are
our own. The published code divides each root by 2, whatever its leading coefficient is:
for an overlap of 0.7 its radii are 2.8 times as large as the rule allows.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def gaussian_radius(sizes: Tensor, min_overlap: float = 0.7) -> Tensor:
    """How far the corners of a box may move while it still overlaps the true one.

    The radius r is the largest for which each of these has an IoU of ``min_overlap`` =
    t with the box of width w and height h: both corners moved inwards by r in x and y,
    both outwards, both in the same direction.

    * inwards: (w - 2r)(h - 2r) = t w h
    * outwards: w h = t (w + 2r)(h + 2r)
    * shifted: (w - r)(h - r) = 2t / (1 + t) w h

    Args:
        sizes: Width and height, in cells of the heatmap.
        min_overlap: t, in (0, 1).

    Shape:
        - sizes: (N, 2)
        - output: (N,), in cells, not rounded
    """
    t = min_overlap
    both, area = sizes.sum(1), sizes.prod(1)

    def smaller_root(a: float, b: Tensor, c: Tensor) -> Tensor:
        """Of a r^2 - b r + c = 0, in the form that does not cancel."""
        return 2 * c / (b + (b.square() - 4 * a * c).clamp(min=0).sqrt())

    inwards = smaller_root(4, 2 * both, (1 - t) * area)
    shifted = smaller_root(1, both, (1 - t) / (1 + t) * area)
    # 4t r^2 + 2t (w + h) r - (1 - t) w h = 0 has one positive root.
    linear, constant = 2 * t * both, (1 - t) * area
    root = (linear.square() + 16 * t * constant).sqrt()
    outwards = 2 * constant / (linear + root)
    return torch.stack([inwards, shifted, outwards]).amin(0)


def draw_gaussians(
    planes: int, size: tuple[int, int], index: Tensor, cells: Tensor, radii: Tensor
) -> Tensor:
    """Draw one Gaussian per object; where several meet, the largest value stays.

    A Gaussian of radius r has the standard deviation (2r + 1) / 6, reaches r cells in x
    and y, and is exactly 1 at its centre.

    Args:
        planes: Number of maps P.
        size: Height and width of the maps.
        index: Which map each object belongs to.
        cells: Its centre, (x, y), inside of the map.
        radii: Its radius, whole numbers from 0.

    Shape:
        - index: (N,) int64; cells: (N, 2) int64; radii: (N,) int64
        - output: (P, H, W) float32
    """
    height, width = size
    flat = torch.zeros(planes * height * width, device=cells.device)
    if not len(index):
        return flat.view(planes, height, width)
    reach = int(radii.max())
    steps = torch.arange(-reach, reach + 1, device=cells.device)
    dy, dx = torch.meshgrid(steps, steps, indexing='ij')
    dx, dy = dx.flatten(), dy.flatten()
    x, y = cells[:, :1] + dx, cells[:, 1:] + dy
    near = torch.maximum(dx.abs(), dy.abs()) <= radii[:, None]
    inside = near & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    sigma = (2 * radii[:, None] + 1) / 6
    value = torch.exp(-(dx.square() + dy.square()) / (2 * sigma.square()))
    place = (index[:, None] * height + y) * width + x
    # Cells outside of the map add a 0 to the first one.
    flat.scatter_reduce_(
        0,
        torch.where(inside, place, 0).flatten(),
        torch.where(inside, value, 0).flatten(),
        'amax',
    )
    return flat.view(planes, height, width)


def pick_peaks(scores: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The highest local maxima of each image.

    A cell is a peak if no neighbour among its eight is higher: max pooling finds them,
    and no suppression of overlapping boxes is needed.

    Args:
        scores: One map per class, in [0, 1].
        count: K, how many are wanted at most.

    Shape:
        - scores: (B, C, H, W)
        - output: scores (B, K'), labels (B, K') and cells (B, K'), row-major, with
          K' = min(K, C H W). Places behind the last peak have the score 0.
    """
    places = scores.shape[2] * scores.shape[3]
    peak = scores == F.max_pool2d(scores, 3, stride=1, padding=1)
    flat = torch.where(peak, scores, 0).flatten(1)
    best, index = flat.topk(min(count, flat.shape[1]), 1)
    return best, index // places, index % places
