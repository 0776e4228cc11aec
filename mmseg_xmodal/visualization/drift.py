"""How the shares of classes drift over a training, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

# As many lines as a reader can tell apart.
_MOST = 20
_FLOOR = 1e-4


def plot_drift(
    path: str | Path,
    iterations: Sequence[int],
    shares: np.ndarray,
    source: np.ndarray,
    sure: np.ndarray,
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
) -> None:
    """Draw the shares of the classes, and that of sure pixels, over the iterations.

    Shares are on a logarithmic axis, so that a rare class that vanishes is seen; what
    is below 0.01 % lies on its lower edge. Dots at the right are the shares in the
    source. Of more than 20 classes the most frequent ones are drawn.

    Args:
        path: PNG file to write; missing folders are made.
        iterations: T numbers.
        shares: Of each class in the pseudo-labels, in [0, 1].
        source: Of each class in the truth of the source, over the whole time.
        sure: Share of sure pseudo-labels; NaN where unknown.
        classes: C names.
        palette: RGB colour of each class.

    Shape:
        - shares: (T, C)
        - source: (C,)
        - sure: (T,)
    """
    # No pyplot: the back end of the user's own figures stays as it is.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    order = np.argsort(-np.maximum(shares.max(axis=0), source), kind='stable')
    shown = order[:_MOST]
    figure = Figure(figsize=(11, 6.6), dpi=100, layout='constrained')
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    last = iterations[-1]
    for rank, index in enumerate(shown):
        colour = _dark_enough(palette[index])
        top.plot(
            iterations,
            np.maximum(shares[:, index], _FLOOR),
            color=colour,
            linestyle=('-', '--', ':', '-.')[rank * 4 // max(len(shown), 4)],
            marker='o' if len(iterations) == 1 else None,
            linewidth=1.8,
            label=f'{classes[index]}  {100 * shares[-1, index]:.2f} %',
        )
        if source[index] > 0:
            value = max(source[index], _FLOOR)
            top.plot(last, value, 'o', color=colour, markersize=6, clip_on=False)
    top.set_yscale('log')
    top.set_ylim(_FLOOR, 1)
    ticks = (1e-4, 1e-3, 1e-2, 1e-1, 1)
    top.set_yticks(ticks, ['0.01 % or less', '0.1 %', '1 %', '10 %', '100 %'])
    left_out = len(order) - len(shown)
    note = f', the {_MOST} most frequent of {len(order)}' if left_out else ''
    top.set_title(f'classes of the pseudo-labels{note} (dots: in the source)')
    top.set_ylabel('share of pixels')
    top.legend(title='class, last share', loc='upper left', bbox_to_anchor=(1.01, 1.02))
    bottom.plot(iterations, sure, color='black', marker='.', linewidth=1.5)
    bottom.set_ylim(0, 1)
    bottom.set_yticks((0, 0.5, 1), ['0 %', '50 %', '100 %'])
    bottom.set_ylabel('sure pixels')
    bottom.set_xlabel('iteration')
    for axes in (top, bottom):
        axes.grid(True, color='0.88')
        axes.set_axisbelow(True)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _dark_enough(colour: Sequence[int]) -> tuple[float, float, float]:
    """A colour that is seen on white."""
    r, g, b = (c / 255 for c in colour[:3])
    light = 0.299 * r + 0.587 * g + 0.114 * b
    factor = min(1.0, 0.6 / light) if light else 1.0
    return r * factor, g * factor, b * factor
