"""The similarity between two sets of points: scale, rotation and shift."""

from __future__ import annotations

import numpy as np


def umeyama(source: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Find the scale, R (3, 3) and t (3,) that bring `scale · R @ source + t` closest to target.

    source, target: (n, 3). The squared error is the least possible. Umeyama, "Least-squares
    estimation of transformation parameters between two point patterns", 1991.
    """
    mean0, mean1 = source.mean(0), target.mean(0)
    centred0, centred1 = source - mean0, target - mean1
    U, values, Vt = np.linalg.svd(centred1.T @ centred0)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(U @ Vt))])
    R = (U * sign) @ Vt
    scale = float((values * sign).sum() / max((centred0**2).sum(), 1e-300))
    return scale, R, mean1 - scale * R @ mean0
