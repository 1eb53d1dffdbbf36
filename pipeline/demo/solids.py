"""Boxes and columns, as lists of flat surfaces."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from pipeline.demo.raycaster import Region, Surface


def box(
    corner: np.ndarray, edges: np.ndarray, texture: int, regions: Sequence[Region]
) -> list[Surface]:
    """The faces of a box, without its bottom: front, right, back, left, top.

    corner: (3,) the front-left-bottom corner. edges: (3, 3), whose rows lead right, backwards and
    up from there. regions: a part of the texture for each face.
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
    """An upright round column: flat sides and a disc on top.

    foot: (3,) the centre of its bottom. region: the part of `texture` that goes around the sides.
    cap, cap_region: the texture of the disc and its part.
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
