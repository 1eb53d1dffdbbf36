"""Planar patches of photographs with random outlines, which hide what lies behind them.

They may move between the views.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from eloftr.training.synthetic.cameras import Camera, Raster, homography, rotation, unit
from eloftr.training.synthetic.noise import smooth_noise

OUTLINE = 1.1  # an outline is stored over [-1.1, 1.1]²: inside radius 1, with a negative border


@dataclass(frozen=True, eq=False)
class Patch:
    """A piece of a plane with coordinates (a, b), inside the unit circle."""

    outline: Tensor  # (1, 1, n, n): about the signed distance to the outline, positive inside
    frames: tuple[
        np.ndarray, np.ndarray
    ]  # for each view (3, 3): columns are the two radii and the centre, in the world
    texture: np.ndarray  # (2, 3): (a, b, 1) to the photograph's [-1, 1]²
    photograph: int

    def to_pixel(self, cameras: tuple[Camera, Camera], view: int) -> np.ndarray:
        """(3, 3): (a, b, 1) to homogeneous pixels of the view, scaled by depth."""
        camera = cameras[view]
        mapped: np.ndarray = camera.projection @ (
            self.frames[view] - np.outer(camera.centre, [0, 0, 1])
        )
        return mapped


def random_patch(
    rng: np.random.Generator,
    cameras: tuple[Camera, Camera],
    raster: Raster,
    extents: np.ndarray,
    depth: float,
    motion: float,
) -> Patch:
    """A patch on a random ray of one camera.

    depth: its place, as a share of the way from the ground to the lower camera. extents:
    (photographs, 2) widths and heights. motion: 0 for a patch that rests, 1 for one that moves
    freely.
    """
    camera = cameras[rng.integers(2)]
    pixel = np.array(
        [rng.uniform(0.05, 0.95) * raster.width, rng.uniform(0.05, 0.95) * raster.height, 1]
    )
    ray = camera.rotation.T @ np.linalg.solve(camera.calibration, pixel)
    height = depth * max(c.centre[2] for c in cameras)  # both are negative
    distance = (height - camera.centre[2]) / ray[2]
    centre = camera.centre + distance * ray
    radius = rng.uniform(0.08, 0.4) * min(raster.height, raster.width)  # pixels in this camera
    size = radius * distance / camera.focal
    axes = _axes(rng, [unit(centre - c.centre) for c in cameras])
    turned = rotation(unit(rng.normal(size=3)), motion * math.radians(rng.normal(0, 8))) @ axes
    moved = centre + motion * size * rng.normal(0, 0.25, 3) * [1, 1, 0.3]
    frame0, frame1 = (
        np.column_stack([size * a[:, :2], c]) for a, c in ((axes, centre), (turned, moved))
    )
    photograph = int(rng.integers(len(extents)))
    extent = extents[photograph]
    scale = radius * rng.uniform(0.9, 1.8)
    spin = scale * rotation(np.array([0, 0, 1.0]), rng.normal(0, 0.3))[:2, :2]
    room = np.maximum(extent / 2 - scale, 0)
    texture = np.column_stack([spin, rng.uniform(-room, room)]) * 2 / extent[:, None]
    return Patch(_outline(rng), (frame0, frame1), texture, photograph)


def bounds(
    patch: Patch, cameras: tuple[Camera, Camera], view: int, raster: Raster
) -> tuple[slice, slice]:
    """Rows and columns of the view that may show the patch."""
    corners = torch.tensor([[-1, 1, 1, -1], [-1, -1, 1, 1]])[:, None] * OUTLINE
    (x, y), in_front = homography(patch.to_pixel(cameras, view), corners)
    if not in_front.all():
        return slice(0, raster.height), slice(0, raster.width)
    left, top = max(0, math.floor(x.min())), max(0, math.floor(y.min()))
    right, bottom = (
        min(raster.width, math.ceil(x.max()) + 1),
        min(raster.height, math.ceil(y.max()) + 1),
    )
    return slice(top, max(top, bottom)), slice(left, max(left, right))


def meet_patch(patch: Patch, cameras: tuple[Camera, Camera], view: int, pixels: Tensor) -> Tensor:
    """Where the rays of `pixels` (2 or more, H, W) of a view meet the patch: (3, H, W).

    The rows are (a, b), and the distance to the outline there.
    """
    inverse = np.linalg.inv(patch.to_pixel(cameras, view))
    ab, in_front = homography(inverse, pixels)
    grid = (ab / OUTLINE).permute(1, 2, 0)[None]
    distance = F.grid_sample(patch.outline, grid, padding_mode="border", align_corners=True)[0, 0]
    return torch.cat([ab, torch.where(in_front, distance, -1.0)[None]])


def _axes(rng: np.random.Generator, sights: list[np.ndarray]) -> np.ndarray:
    """A patch's axes and normal, the columns of (3, 3).

    They are nearly parallel to the ground, or stand up as far as both `sights`, unit vectors from
    the cameras, still meet the front.
    """
    while True:
        axis = unit(rng.normal(size=2))
        axes = rotation(np.append(axis, 0), rng.beta(1, 1.5) * math.radians(60))
        if all(sight @ axes[:, 2] > 0.25 for sight in sights):
            return axes
        if min(sight[2] for sight in sights) < 0.3:
            return np.eye(3)


def _outline(rng: np.random.Generator) -> Tensor:
    """An ellipse, convex polygon, blob, or foliage of separate pieces.

    Returns (1, 1, n, n), positive inside.
    """
    y, x = np.mgrid[-OUTLINE:OUTLINE:64j, -OUTLINE:OUTLINE:64j]
    radius = np.hypot(x, y)
    kind = rng.choice(["ellipse", "polygon", "blob", "foliage"], p=[0.15, 0.4, 0.25, 0.2])
    if kind == "ellipse":
        distance = 1 - np.hypot(x, y / rng.uniform(0.3, 1))
    elif kind == "polygon":
        angles = rng.uniform(0, 2 * math.pi) + np.sort(
            rng.uniform(0, 2 * math.pi, rng.integers(3, 8))
        )
        offsets = rng.uniform(0.3, 0.95, (len(angles), 1, 1))
        sides = offsets - np.cos(angles)[:, None, None] * x - np.sin(angles)[:, None, None] * y
        distance = np.minimum(sides.min(0), 1 - radius)
    elif kind == "blob":
        angle = np.arctan2(y, x)
        waves = [
            rng.normal(0, 0.3 / k) * np.cos(k * angle + rng.uniform(0, 6.3)) for k in range(1, 6)
        ]
        distance = np.minimum(0.65 + sum(waves) - radius, 1 - radius)
    else:
        distance = np.minimum(
            0.15 * smooth_noise(rng, int(rng.integers(6, 14)), x.shape), 1 - radius
        )
    return torch.from_numpy(distance.astype(np.float32))[None, None]
