"""The ground of a scene: the plane Z = 0, or smooth hills on it, and where rays meet it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from eloftr.training.synthetic.cameras import Camera, Raster, linear
from eloftr.training.synthetic.noise import smooth_noise

NODES = 96  # a side of the height map
FIRST_STEPS, LAST_STEPS = 6, 1  # Newton's, from Z = 0 and from the heights found on a coarser grid


@dataclass(frozen=True)
class Relief:
    """A height map over the square `centre` ± `half` of the world.

    Beyond the square it continues as its border.
    """

    heights: Tensor  # (1, 3, NODES, NODES): Z and its derivatives along X and Y
    centre: np.ndarray  # (2,) world
    half: float  # world

    def at(self, x: Tensor, y: Tensor) -> Tensor:
        """(3, H, W): Z and its derivatives along X and Y at world (x, y), each (H, W)."""
        grid = torch.stack([(x - self.centre[0]) / self.half, (y - self.centre[1]) / self.half], -1)
        return F.grid_sample(self.heights, grid[None], padding_mode="border", align_corners=True)[0]


def random_relief(
    rng: np.random.Generator, cameras: tuple[Camera, Camera], raster: Raster
) -> Relief:
    """Smooth hills, sometimes a fold, over what both cameras see of the plane Z = 0.

    Slopes stay below what the most slanted rays climb, so that little of the relief hides itself.
    """
    seen = [meet_plane(camera, raster.coarse) for camera in cameras]
    x, y = (torch.cat([ground[axis].flatten() for ground in seen]) for axis in (0, 1))
    centre = np.array([float(x.min() + x.max()) / 2, float(y.min() + y.max()) / 2])
    half = float(max(x.max() - x.min(), y.max() - y.min())) / 2
    steepest = max(
        float(
            torch.hypot(ground[0] - c.centre[0], ground[1] - c.centre[1]).quantile(0.95)
            / -c.centre[2]
        )
        for c, ground in zip(cameras, seen, strict=True)
    )
    height = smooth_noise(rng, int(rng.integers(3, 8)), (NODES, NODES))
    height = height + rng.uniform(0, 0.3) * smooth_noise(
        rng, int(rng.integers(8, 14)), (NODES, NODES)
    )
    if rng.random() < 0.35:
        across, along = np.mgrid[-1 : 1 : NODES * 1j, -1 : 1 : NODES * 1j]
        angle = rng.uniform(0, 2 * math.pi)
        fold = np.abs(math.cos(angle) * along + math.sin(angle) * across - rng.uniform(-0.3, 0.3))
        height = rng.uniform(0.1, 0.5) * height + rng.choice([-4, 4]) * fold
    cell = 2 * half / (NODES - 1)
    slope = max(np.abs(axis).max() for axis in np.gradient(height, cell))
    height = height * (rng.uniform(0.2, 1) * min(1.0, 0.9 / steepest) / slope)
    down, right = np.gradient(height, cell)
    grid = np.stack([height, right, down]).astype(np.float32)
    return Relief(torch.from_numpy(grid)[None], centre, half)


def meet_plane(camera: Camera, pixels: Tensor) -> Tensor:
    """World points (3, H, W) where the rays of homogeneous `pixels` (3, H, W) meet Z = 0."""
    dx, dy, dz = _rays(camera, pixels)
    cx, cy, cz = camera.centre.tolist()
    distance = -cz / dz
    return torch.stack([cx + distance * dx, cy + distance * dy, torch.zeros_like(dx)])


def meet_relief(camera: Camera, relief: Relief, raster: Raster) -> Tensor:
    """World points (3, H, W) where the rays of a view meet the relief.

    They are found on the view's coarse grid first.
    """
    heights = torch.zeros_like(raster.coarse[2])
    x, y = _newton(camera, relief, raster.coarse, heights, FIRST_STEPS)
    heights = relief.at(x, y)[:1]
    heights = F.interpolate(
        heights[None], raster.pixels.shape[1:], mode="bilinear", align_corners=True
    )[0, 0]
    x, y = _newton(camera, relief, raster.pixels, heights, LAST_STEPS)
    # Z from the relief, not from the ray: the point is on the ground however well the ray
    # converged.
    return torch.stack([x, y, relief.at(x, y)[0]])


def _newton(
    camera: Camera, relief: Relief, pixels: Tensor, heights: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """World (x, y), each (H, W), where rays meet the relief near `heights` (H, W)."""
    dx, dy, dz = _rays(camera, pixels)
    cx, cy, cz = camera.centre.tolist()
    distance = (heights - cz) / dz
    for _ in range(steps):  # the slope is bounded where a ray grazes the ground or meets it twice
        z, zx, zy = relief.at(cx + distance * dx, cy + distance * dy)
        slope = torch.maximum(dz - zx * dx - zy * dy, 0.25 * dz)
        distance = distance - (cz + distance * dz - z) / slope
    return cx + distance * dx, cy + distance * dy


def _rays(camera: Camera, pixels: Tensor) -> Tensor:
    """World directions (3, H, W) of homogeneous `pixels`, of depth 1 in the camera."""
    return linear(camera.rotation.T @ np.linalg.inv(camera.calibration), pixels)
