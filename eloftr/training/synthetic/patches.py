"""Planar patches of photographs with random outlines, which hide what lies behind them.

They may move between the views.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from eloftr.training.synthetic.cameras import (
    Camera,
    divided,
    rotation,
    stacked,
    unit,
)
from eloftr.training.synthetic.noise import smooth_noise

NODES = 64  # a side of an outline
OUTLINE = 1.1  # an outline is stored over [-1.1, 1.1]²: inside radius 1, with a negative border


@dataclass(frozen=True, eq=False)
class Patch:
    """A piece of a plane with coordinates (a, b), inside the unit circle."""

    outline: np.ndarray  # (NODES, NODES): about the signed distance to it, positive inside
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
    size: tuple[int, int],
    extents: np.ndarray,
    depth: float,
    motion: float,
) -> Patch:
    """A patch on a random ray of one camera.

    size: height and width of the views, pixels. depth: its place, as a share of the way from the
    ground to the lower camera. extents: (photographs, 2) widths and heights. motion: 0 for a patch
    that rests, 1 for one that moves freely.
    """
    camera = cameras[rng.integers(2)]
    height, width = size
    pixel = np.array([rng.uniform(0.05, 0.95) * width, rng.uniform(0.05, 0.95) * height, 1])
    ray = camera.rotation.T @ np.linalg.solve(camera.calibration, pixel)
    level = depth * max(c.centre[2] for c in cameras)  # both are negative
    distance = (level - camera.centre[2]) / ray[2]
    centre = camera.centre + distance * ray
    radius = rng.uniform(0.08, 0.4) * min(size)  # pixels in this camera
    reach = radius * distance / camera.focal
    axes = _axes(rng, [unit(centre - c.centre) for c in cameras])
    turned = rotation(unit(rng.normal(size=3)), motion * math.radians(rng.normal(0, 8))) @ axes
    moved = centre + motion * reach * rng.normal(0, 0.25, 3) * [1, 1, 0.3]
    frame0, frame1 = (
        np.column_stack([reach * a[:, :2], c]) for a, c in ((axes, centre), (turned, moved))
    )
    photograph = int(rng.integers(len(extents)))
    extent = extents[photograph]
    scale = radius * rng.uniform(0.9, 1.8)
    spin = scale * rotation(np.array([0, 0, 1.0]), rng.normal(0, 0.3))[:2, :2]
    room = np.maximum(extent / 2 - scale, 0)
    texture = np.column_stack([spin, rng.uniform(-room, room)]) * 2 / extent[:, None]
    return Patch(_outline(rng), (frame0, frame1), texture, photograph)


class Patches:
    """The patches of a batch of scenes on a device, N in all.

    `scene` (N,): whose they are. `layers`: slices of them, one for the first patch of every scene
    that has one, one for the second, and so on. `to_pixel` and `from_pixel`: for each view (N, 3,
    3), between (a, b, 1) and homogeneous pixels. `outline` (N, 1, n, n), `texture` (N, 2, 3),
    `photograph` (N,).
    """

    def __init__(
        self,
        scenes: Sequence[tuple[tuple[Camera, Camera], list[Patch]]],
        device: torch.device | None,
    ) -> None:
        most = max(len(patches) for _, patches in scenes)
        placed = [
            [(index, *scene) for index, scene in enumerate(scenes) if number < len(scene[1])]
            for number in range(most)
        ]
        ends = np.cumsum([0, *(len(layer) for layer in placed)]).tolist()
        self.layers = [slice(*span) for span in itertools.pairwise(ends)]
        chosen = [
            (index, cameras, patches[number])
            for number, layer in enumerate(placed)
            for index, cameras, patches in layer
        ]
        self.scene = torch.tensor([index for index, _, _ in chosen], dtype=torch.long).to(device)
        photographs = [patch.photograph for _, _, patch in chosen]
        self.photograph = torch.tensor(photographs, dtype=torch.long).to(device)
        size = (NODES, NODES)
        self.outline = stacked([p.outline for _, _, p in chosen], size, device)[:, None]
        self.texture = stacked([p.texture for _, _, p in chosen], (2, 3), device)
        maps = [[p.to_pixel(cameras, view) for _, cameras, p in chosen] for view in (0, 1)]
        self.to_pixel = [stacked(matrices, (3, 3), device) for matrices in maps]
        self.from_pixel = [
            stacked([np.linalg.inv(matrix) for matrix in matrices], (3, 3), device)
            for matrices in maps
        ]

    def meet(self, mapped: Tensor) -> Tensor:
        """Where rays meet the patches, whose pixels a `from_pixel` has `mapped` to (N, 3, H, W).

        Returns (N, 3, H, W): (a, b), and the distance to the outline there.
        """
        ab, in_front = divided(mapped)
        grid = (ab / OUTLINE).permute(0, 2, 3, 1)
        distance = F.grid_sample(self.outline, grid, padding_mode="border", align_corners=True)
        return torch.cat([ab, torch.where(in_front[:, None], distance, -1.0)], 1)


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


def _outline(rng: np.random.Generator) -> np.ndarray:
    """An ellipse, convex polygon, blob, or foliage of separate pieces.

    Returns (NODES, NODES), positive inside.
    """
    y, x = np.mgrid[-OUTLINE : OUTLINE : NODES * 1j, -OUTLINE : OUTLINE : NODES * 1j]
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
    outline: np.ndarray = distance.astype(np.float32)
    return outline
