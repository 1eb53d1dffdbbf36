"""Flat textured surfaces, the shapes made of them, and where a camera looks.

World units are metres; z is up. Conventions of cameras are those of `pipeline.demo.raycaster`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# left, top, width, height in a texture; all of it is (0, 0, 1, 1)
Region = tuple[float, float, float, float]


@dataclass(frozen=True)
class Surface:
    """A parallelogram `origin + a·right + b·down`, a and b in 0…1, or the ellipse inscribed in it.

    Seen from its outside, `right` and `down` point right and down; so does the texture. Both sides are drawn.
    """

    origin: np.ndarray  # (3,) world
    right: np.ndarray  # (3,) along the rows of the texture
    down: np.ndarray  # (3,) along its columns
    texture: int  # index into the textures of the scene
    region: Region = (0.0, 0.0, 1.0, 1.0)
    disc: bool = False

    def outward(self) -> np.ndarray:
        """Unit normal (3,) on the outside."""
        normal = np.cross(self.down, self.right)
        return normal / np.linalg.norm(normal)


def look_at(centre: Sequence[float], target: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """R (3, 3), t (3,) of a camera at `centre` that looks at `target`, upright in a world whose z is up."""
    where = np.asarray(centre, float)
    forward = np.asarray(target, float) - where
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    R = np.stack([right, np.cross(forward, right), forward])
    return R, -R @ where


def box(
    corner: np.ndarray, edges: np.ndarray, texture: int, regions: Sequence[Region]
) -> list[Surface]:
    """The faces of a box, without its bottom: front, right, back, left, top.

    corner (3,): the front-left-bottom one; edges (3, 3): its rows lead right, backwards and up from there.
    regions: of the texture, one a face.
    """
    right, back, up = edges
    faces = [
        (corner + up, right, -up),
        (corner + right + up, back, -up),
        (corner + right + back + up, -right, -up),
        (corner + back + up, -back, -up),
        (corner + back + up, right, -back),
    ]
    return [
        Surface(o, u, v, texture, region) for (o, u, v), region in zip(faces, regions, strict=True)
    ]


def column(
    foot: np.ndarray,
    radius: float,
    height: float,
    texture: int,
    region: Region,
    cap: int,
    cap_region: Region,
    sides: int = 16,
) -> list[Surface]:
    """An upright round column: flat sides with one region of a texture around them, and a disc on top.

    foot (3,): the centre of its bottom.
    """
    angle = 2 * np.pi * np.arange(sides + 1) / sides
    ring = foot + radius * np.stack([np.cos(angle), np.sin(angle), 0 * angle], -1)
    up = np.array([0.0, 0.0, height])
    left, top, width, tall = region
    surfaces = [
        Surface(a + up, b - a, -up, texture, (left + k * width / sides, top, width / sides, tall))
        for k, (a, b) in enumerate(itertools.pairwise(ring))
    ]
    across = 2 * radius * np.eye(3)
    corner = foot + up - 0.5 * across[0] + 0.5 * across[1]
    return [*surfaces, Surface(corner, across[0], -across[1], cap, cap_region, disc=True)]
