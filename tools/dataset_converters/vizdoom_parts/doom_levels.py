"""Which levels there are and how they are shared out to the splits."""

from __future__ import annotations

import numpy as np

GAMES = ('freedoom1', 'freedoom2')
SPLITS = ('train', 'val', 'test')

# Alternating, so that any evenly spaced choice takes from both games.
_ONE = [(GAMES[0], f'E{e}M{m}') for e in range(1, 5) for m in range(1, 10)]
_TWO = [(GAMES[1], f'MAP{m:02d}') for m in range(1, 33)]
ALL_LEVELS = [pair for both in zip(_ONE, _TWO, strict=False) for pair in both]
ALL_LEVELS += _ONE[len(_TWO) :]


def share_out(count: int) -> dict[str, list[tuple[str, str]]]:
    """Choose levels evenly and give a sixth each, at least one, to val and test.

    Args:
        count: Number of levels in all.

    Raises:
        ValueError: If there are not so many, or too few for three splits.
    """
    if not 3 <= count <= len(ALL_LEVELS):
        raise ValueError(
            f'--levels is {count}, expected 3 to {len(ALL_LEVELS)} (all of them).'
        )
    chosen = [ALL_LEVELS[i] for i in np.arange(count) * len(ALL_LEVELS) // count]
    held = max(1, count // 6)
    spaced = (np.arange(2 * held) * 2 + 1) * count // (4 * held)
    val, test = spaced[::2], spaced[1::2]
    return {
        'train': [c for i, c in enumerate(chosen) if i not in set(spaced.tolist())],
        'val': [chosen[i] for i in val],
        'test': [chosen[i] for i in test],
    }
