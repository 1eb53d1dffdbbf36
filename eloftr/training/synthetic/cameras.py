"""Pinhole cameras: rotations, projection and homographies of grids of points, (rows, H, W) tensors.

Pixel centres are at integers, the top-left one at (0, 0); camera x is right, y down, z forward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

FAR = 1e5  # pixels: stands for points that a camera cannot project


@dataclass(frozen=True)
class Camera:
    """`calibration` (3, 3), `rotation` (3, 3) world to camera, `centre` (3,) in the world."""

    calibration: np.ndarray
    rotation: np.ndarray
    centre: np.ndarray

    @property
    def focal(self) -> float:
        """Pixels."""
        return float(self.calibration[0, 0])

    @property
    def projection(self) -> np.ndarray:
        """(3, 3): world directions to homogeneous pixels, scaled by depth."""
        product: np.ndarray = self.calibration @ self.rotation
        return product


class Raster:
    """The pixels of a view, homogeneous.

    `pixels` (3, H, W): all of them. `coarse` (3, H // 4, W // 4): some 4 pixels apart.
    """

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.pixels = self._grid(step=1)
        self.coarse = self._grid(step=4)

    def inside(self, points: Tensor) -> Tensor:
        """Whether `points` (2, H, W) lie between the outermost pixel centres: (H, W) bool."""
        x, y = points
        inside: Tensor = (x >= 0) & (x <= self.width - 1) & (y >= 0) & (y <= self.height - 1)
        return inside

    def _grid(self, step: int) -> Tensor:
        """Pixels about `step` apart, from the first to the last centre."""
        x = np.linspace(0, self.width - 1, self.width // step)
        y = np.linspace(0, self.height - 1, self.height // step)
        grid = np.broadcast_arrays(x, y[:, None], np.ones(1))
        return torch.from_numpy(np.stack(grid).astype(np.float32))


def unit(vector: np.ndarray) -> np.ndarray:
    """`vector` with length 1."""
    scaled: np.ndarray = vector / np.linalg.norm(vector)
    return scaled


def rotation(axis: np.ndarray, angle: float) -> np.ndarray:
    """(3, 3) rotation by `angle` radians about `axis`, of length 1 (Rodrigues' formula)."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turned: np.ndarray = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    return turned


def linear(matrix: np.ndarray, points: Tensor) -> Tensor:
    """`matrix` (M, N) times `points` (N, H, W)."""
    mapped = torch.from_numpy(matrix.astype(np.float32)) @ points.flatten(1)
    image: Tensor = mapped.unflatten(1, points.shape[1:])
    return image


def affine(matrix: np.ndarray, points: Tensor) -> Tensor:
    """`matrix` (M, 3) applied to (x, y, 1), of `points` (2 or more, H, W)."""
    return linear(matrix[:, :2], points[:2]) + _column(matrix[:, 2])


def homography(matrix: np.ndarray, points: Tensor) -> tuple[Tensor, Tensor]:
    """`points` (2 or more, H, W) through `matrix` (3, 3).

    Returns (2, H, W), and whether they lie in front of the camera (H, W).
    """
    return _divide(affine(matrix, points))


def project(camera: Camera, points: Tensor) -> tuple[Tensor, Tensor]:
    """World points (3, H, W) to pixels (2, H, W).

    Returns too whether they lie in front of the camera (H, W).
    """
    return _divide(linear(camera.projection, points - _column(camera.centre)))


def _divide(mapped: Tensor) -> tuple[Tensor, Tensor]:
    in_front = mapped[2] > 1e-6
    return torch.where(in_front, mapped[:2] / mapped[2], FAR).clamp(-FAR, FAR), in_front


def _column(vector: np.ndarray) -> Tensor:
    return torch.from_numpy(vector.astype(np.float32))[:, None, None]
