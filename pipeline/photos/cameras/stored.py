"""Maps from upright pixels, as in tables, to those of the stored file, as COLMAP has them."""

from __future__ import annotations

import numpy as np

# Maps of pixel offsets (x, y) from the upright to the stored image, by EXIF orientation 1…8.
STORED_FROM_UPRIGHT = np.array(
    [
        [[1, 0], [0, 1]],
        [[-1, 0], [0, 1]],
        [[-1, 0], [0, -1]],
        [[1, 0], [0, -1]],
        [[0, 1], [1, 0]],
        [[0, 1], [-1, 0]],
        [[0, -1], [-1, 0]],
        [[0, -1], [1, 0]],
    ]
)


def maps_to_stored(width: np.ndarray, height: np.ndarray, orientation: np.ndarray) -> np.ndarray:
    """Maps from the pixels of the tables to COLMAP's: (N, 3, 3).

    width, height: (N,) upright. orientation: (N,) EXIF, 1…8. COLMAP's pixels have the stored
    orientation, and their origin is half a pixel further left and up.
    """
    linear = STORED_FROM_UPRIGHT[orientation - 1].astype(np.float64)
    last = np.stack([width - 1, height - 1], axis=1)
    maps = np.zeros((len(linear), 3, 3))
    maps[:, :2, :2] = linear
    # A coordinate that runs backwards starts at the last pixel.
    maps[:, :2, 2] = np.einsum("nij,nj->ni", np.minimum(linear, 0), -last) + 0.5
    maps[:, 2, 2] = 1
    return maps
