from __future__ import annotations

import numpy as np

from mmseg_xmodal.visualization.conflicts import conflict_matrix

CELL = 72


def test_conflict_matrix():
    cosines = np.array([[1.0, -0.9, 0.0], [-0.9, 1.0, np.nan], [0.0, np.nan, 1.0]])
    norms = np.array([0.12345, 7, 300])
    image = conflict_matrix(['segmentation', 'depth', 'det'], cosines, norms, 'step 7')
    assert image.dtype == np.uint8
    top = image.shape[0] - 8 - 3 * CELL
    # The first cell of the diagonal begins at the first blue pixel; then there are
    # three columns and one for the norms.
    row = image[top + 4].astype(int)
    left = int(np.argmax(row[:, 2] - row[:, 0] > 100))
    width = (image.shape[1] - 8 - left) // 4
    rows, columns = np.indices((3, 3))
    cells = image[top + rows * CELL + 4, left + columns * width + 4].astype(int)
    red, _, blue = np.moveaxis(cells, -1, 0)
    assert (blue - red)[np.eye(3, dtype=bool)].min() > 100, 'agreement is blue'
    assert (red - blue)[0, 1] > 100, 'conflict is vermilion'
    assert (cells[0, 2] == 255).all(), 'perpendicular is white'
    assert (cells[1, 2] == 160).all(), 'no number is grey'
    numbers = image[top:, left + 3 * width :]
    assert (numbers < 128).any(), 'the norms are written'
