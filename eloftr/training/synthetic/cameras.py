"""Pinhole cameras on the CPU, and their projections of grids of points on a device.

Points are (B, rows, H, W) tensors, matrices (B, rows, columns). Pixel centres are at integers, the
top-left one at (0, 0); camera x is right, y down, z forward.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

COARSE_STEP = 4  # pixels
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

    @property
    def rays(self) -> np.ndarray:
        """(3, 3): homogeneous pixels to world directions, of depth 1 in the camera."""
        inverse: np.ndarray = self.rotation.T @ np.linalg.inv(self.calibration)
        return inverse


class Raster:
    """Pixels of views, about `step` apart, from the first pixel centre to the last one.

    `shape`: rows and columns of them. `coarse`: the raster whose pixels are COARSE_STEP apart.
    """

    def __init__(
        self, height: int, width: int, device: torch.device | None = None, step: int = 1
    ) -> None:
        self.height, self.width = height, width
        self.shape = height // step, width // step
        self._x = on_device(np.linspace(0, width - 1, self.shape[1]), device)
        self._y = on_device(np.linspace(0, height - 1, self.shape[0])[:, None], device)
        self.coarse = Raster(height, width, device, COARSE_STEP) if step == 1 else self

    @property
    def device(self) -> torch.device:
        """Where its pixels are."""
        return self._x.device

    def mapped(self, matrices: Tensor) -> Tensor:
        """`matrices` (B, M, 3) times all homogeneous pixels: (B, M, rows, columns)."""
        across, down, constant = matrices[..., None, None].unbind(2)
        return across * self._x + (down * self._y + constant)

    def inside(self, points: Tensor) -> Tensor:
        """Whether `points` (B, 2, H, W) lie between the outermost pixel centres: (B, H, W) bool."""
        x, y = points.unbind(1)
        inside: Tensor = (x >= 0) & (x <= self.width - 1) & (y >= 0) & (y <= self.height - 1)
        return inside

    def normalised(self, points: Tensor) -> Tensor:
        """`points` (B, 2, H, W) as (B, H, W, 2) for grid_sample with aligned corners."""
        x, y = points.unbind(1)
        return torch.stack([x / (self.width - 1), y / (self.height - 1)], -1) * 2 - 1


def on_device(array: np.ndarray, device: torch.device | None) -> Tensor:
    """`array` as a float32 tensor on a device."""
    return torch.from_numpy(array.astype(np.float32)).to(device)


def stacked(
    arrays: Sequence[np.ndarray], shape: tuple[int, ...], device: torch.device | None
) -> Tensor:
    """Arrays of one shape as a float32 tensor with a leading axis, which may be empty."""
    return on_device(np.stack(arrays) if arrays else np.zeros((0, *shape)), device)


class Cameras:
    """Cameras of a batch on a device: `rays` and `projections` (B, 3, 3), `centres` (B, 3)."""

    def __init__(self, rays: Tensor, projections: Tensor, centres: Tensor) -> None:
        self.rays = rays
        self.projections = projections
        self.centres = centres

    @classmethod
    def of(cls, cameras: Sequence[Camera], device: torch.device | None = None) -> Cameras:
        """These cameras, stacked."""
        return cls(
            stacked([camera.rays for camera in cameras], (3, 3), device),
            stacked([camera.projection for camera in cameras], (3, 3), device),
            stacked([camera.centre for camera in cameras], (3,), device),
        )

    def __getitem__(self, chosen: Tensor) -> Cameras:
        return Cameras(self.rays[chosen], self.projections[chosen], self.centres[chosen])

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """World points (B, 3, H, W) to pixels (B, 2, H, W).

        Returns too whether they lie in front of the camera (B, H, W).
        """
        return divided(linear(self.projections, points - self.centres[..., None, None]))


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


def linear(matrices: Tensor, points: Tensor) -> Tensor:
    """`matrices` (B, M, N) times `points` (B, N or more, H, W): (B, M, H, W).

    The sums have a fixed order. A library's product could round otherwise in larger batches.
    """
    columns = matrices[..., None, None]
    mapped = columns[:, :, 0] * points[:, None, 0]
    for axis in range(1, matrices.shape[2]):
        mapped = mapped + columns[:, :, axis] * points[:, None, axis]
    return mapped


def affine(matrices: Tensor, points: Tensor) -> Tensor:
    """`matrices` (B, M, 3) applied to (x, y, 1), of `points` (B, 2 or more, H, W)."""
    return linear(matrices[:, :, :2], points) + matrices[:, :, 2, None, None]


def divided(mapped: Tensor) -> tuple[Tensor, Tensor]:
    """Homogeneous pixels (B, 3, H, W) to pixels (B, 2, H, W).

    Returns too whether they lie in front of the camera (B, H, W).
    """
    depth = mapped[:, 2]
    in_front = depth > 1e-6
    pixels = torch.where(in_front[:, None], mapped[:, :2] / depth[:, None], FAR)
    return pixels.clamp(-FAR, FAR), in_front
