"""The ground of a scene: the plane Z = 0, or smooth hills on it, and where rays meet it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from eloftr.training.synthetic.cameras import Camera, Cameras, Raster, stacked
from eloftr.training.synthetic.noise import smooth_noise

NODES = 96  # a side of the height map
FIRST_STEPS, LAST_STEPS = 6, 1  # Newton's, from Z = 0 and from the heights found on a coarser grid


@dataclass(frozen=True, eq=False)
class Relief:
    """A height map over the square `centre` ± `half` of the world.

    Beyond the square it continues as its border.
    """

    heights: np.ndarray  # (3, NODES, NODES) float32: Z and its derivatives along X and Y
    centre: np.ndarray  # (2,) world
    half: float  # world


class Reliefs:
    """Reliefs of a batch on a device, N in all."""

    def __init__(self, reliefs: Sequence[Relief], device: torch.device | None) -> None:
        self.heights = stacked([r.heights for r in reliefs], (3, NODES, NODES), device)
        self.centre = stacked([r.centre for r in reliefs], (2,), device)
        self.half = stacked([np.array(r.half) for r in reliefs], (), device)

    def at(self, x: Tensor, y: Tensor) -> Tensor:
        """(N, 3, H, W): Z and its derivatives along X and Y at world (x, y), each (N, H, W)."""
        centre, half = self.centre[..., None, None], self.half[:, None, None]
        grid = torch.stack([(x - centre[:, 0]) / half, (y - centre[:, 1]) / half], -1)
        return F.grid_sample(self.heights, grid, padding_mode="border", align_corners=True)


def random_relief(
    rng: np.random.Generator, cameras: tuple[Camera, Camera], raster: Raster
) -> Relief:
    """Smooth hills, sometimes a fold, over what both cameras see of the plane Z = 0.

    Slopes stay below what the most slanted rays climb, so that little of the relief hides itself.
    """
    x, y, _ = meet_plane(Cameras.of(cameras), raster).unbind(1)
    centre = np.array([float(x.min() + x.max()) / 2, float(y.min() + y.max()) / 2])
    half = float(max(x.max() - x.min(), y.max() - y.min())) / 2
    steepest = max(
        float(
            torch.hypot(x[view] - c.centre[0], y[view] - c.centre[1]).quantile(0.95) / -c.centre[2]
        )
        for view, c in enumerate(cameras)
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
    return Relief(grid, centre, half)


def meet_plane(cameras: Cameras, raster: Raster) -> Tensor:
    """World points (B, 3, H, W) where the rays of a view meet Z = 0."""
    dx, dy, dz = raster.mapped(cameras.rays).unbind(1)
    cx, cy, cz = cameras.centres[..., None, None].unbind(1)
    distance = -cz / dz
    return torch.stack([cx + distance * dx, cy + distance * dy, torch.zeros_like(dx)], 1)


def meet_reliefs(cameras: Cameras, reliefs: Reliefs, raster: Raster) -> Tensor:
    """World points (N, 3, H, W) where the rays of a view meet the reliefs.

    They are found on the view's coarse raster first.
    """
    plane = reliefs.half.new_zeros(())
    x, y = _newton(cameras, reliefs, raster.coarse, plane, FIRST_STEPS)
    heights = F.interpolate(
        reliefs.at(x, y)[:, :1], raster.shape, mode="bilinear", align_corners=True
    )[:, 0]
    x, y = _newton(cameras, reliefs, raster, heights, LAST_STEPS)
    # Z from the relief, not from the ray: the point is on the ground however well the ray
    # converged.
    return torch.stack([x, y, reliefs.at(x, y)[:, 0]], 1)


def _newton(
    cameras: Cameras, reliefs: Reliefs, raster: Raster, heights: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """World (x, y), each (N, H, W), where rays meet the reliefs near `heights` (N, H, W) or ()."""
    dx, dy, dz = raster.mapped(cameras.rays).unbind(1)
    cx, cy, cz = cameras.centres[..., None, None].unbind(1)
    distance = (heights - cz) / dz
    for _ in range(steps):  # the slope is bounded where a ray grazes the ground or meets it twice
        z, zx, zy = reliefs.at(cx + distance * dx, cy + distance * dy).unbind(1)
        slope = torch.maximum(dz - zx * dx - zy * dy, 0.25 * dz)
        distance = distance - (cz + distance * dz - z) / slope
    return cx + distance * dx, cy + distance * dy
