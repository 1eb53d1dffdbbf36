"""Similarities: scale, rotation and shift, and the one between two sets of points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Similarity:
    """x → scale · rotation @ x + shift."""

    scale: float
    rotation: np.ndarray
    shift: np.ndarray

    @classmethod
    def identity(cls) -> Similarity:
        """Changes nothing."""
        return cls(1.0, np.eye(3), np.zeros(3))

    def __call__(self, xyz: np.ndarray) -> np.ndarray:
        """Points (n, 3), moved."""
        moved: np.ndarray = self.scale * xyz @ self.rotation.T + self.shift
        return moved

    def after(self, first: Similarity) -> Similarity:
        """The similarity that does `first` and then this one."""
        return Similarity(
            self.scale * first.scale, self.rotation @ first.rotation, self(first.shift[None])[0]
        )

    def inverse(self) -> Similarity:
        """Brings moved points back."""
        back = self.rotation.T / self.scale
        return Similarity(1 / self.scale, self.rotation.T, -back @ self.shift)


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
