"""Scenes of textured flat surfaces.

A scene is a list of parallelograms and discs, each showing a region of a texture under its own map of light. A flat
surface seen through a pinhole is a homography from pixels to the surface, and its inverse depth is linear in the pixel.

Conventions: pixel centres at integers, the top-left one at (0, 0); R (3, 3) and t (3,) map world to camera,
`x_camera = R @ x_world + t`, with camera x right, y down, z forward; K (3, 3) is the pinhole matrix; depth is
z in the camera; 0 means nothing was hit. World z is up (it matters for the sky only).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eloftr.errors import ArgumentError

Region = tuple[
    float, float, float, float
]  # left, top, width, height in a texture; all of it is (0, 0, 1, 1)


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
        unit: np.ndarray = normal / np.linalg.norm(normal)
        return unit


class Scene:
    """Surfaces with their textures and light, packed for `rendering.render`. Knows nothing of cameras.

    textures: each (h, w) or (h, w, 3) uint8, all grey or all colour; shown as they are where the light is 1.
    light: one map a surface from `lighting.bake_light`, or None for full light everywhere.
    sky: RGB 0…1 at the horizon and overhead.
    Raises ArgumentError for no surface, textures of different kinds, or a surface whose texture does not exist.
    """

    def __init__(
        self,
        surfaces: Sequence[Surface],
        textures: Sequence[np.ndarray],
        light: Sequence[np.ndarray] | None = None,
        sky: tuple[Sequence[float], Sequence[float]] = ((0.80, 0.85, 0.88), (0.42, 0.58, 0.78)),
    ) -> None:
        kinds = {texture.shape[2:] for texture in textures}
        if kinds not in ({()}, {(3,)}) or any(texture.dtype != np.uint8 for texture in textures):
            raise ArgumentError(
                "Textures must be uint8, all of shape (h, w) or all of shape (h, w, 3)."
            )
        if not surfaces:
            raise ArgumentError("A scene needs at least one surface.")
        for surface in surfaces:
            if not 0 <= surface.texture < len(textures):
                raise ArgumentError(
                    f"A surface shows texture {surface.texture}, but there are {len(textures)}."
                )
        self.surfaces = list(surfaces)
        self.grey = kinds == {()}
        self.channels = 1 if self.grey else 3
        light = [np.ones((1, 1, 3))] * len(self.surfaces) if light is None else light
        packed = [_packed(self._in_channels(part).astype(np.float32)) for part in light]
        starts = np.cumsum([0] + [part.shape[1] for part in packed[:-1]])
        self.light = np.concatenate(packed, axis=1)
        sides = np.array([part.shape[1::-1] for part in light])
        self.light_maps = np.concatenate(
            [starts[None], sides.T]
        )  # first texel, columns, rows; a surface each
        self.sky = self._in_channels(np.asarray(sky, np.float32)) * 255
        self.texels, self.levels, self.depth, self.deepest = self._pyramids(textures)

        # per surface: left, top, width, height of its region in texels of the finest level, (4, surfaces)
        sizes = np.array(
            [textures[s.texture].shape[1::-1] for s in self.surfaces], np.float32
        ).reshape(-1, 2)
        regions = np.array([s.region for s in self.surfaces], np.float32).reshape(-1, 4)
        self.texel_region = (regions * np.tile(sizes, 2)).T
        self.texture = np.array([s.texture for s in self.surfaces], np.int32)

    def _in_channels(self, colour: np.ndarray) -> np.ndarray:
        return colour @ np.array([[0.299], [0.587], [0.114]], np.float32) if self.grey else colour

    def _pyramids(
        self, textures: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, int, np.ndarray]:
        """Mip pyramids of all textures behind one another, so that one gather serves all surfaces.

        Returns the texels (channels, …) uint8; first texel, width and height of each level (3, textures ×
        depth); levels a texture (depth, the same for all: short pyramids repeat their last); and its last own
        level.
        """
        texels: list[np.ndarray] = []
        levels: list[list[tuple[int, int, int]]] = []
        offset = 0
        for texture in textures:
            level = texture.reshape(*texture.shape[:2], self.channels).astype(np.float32)
            levels.append([])
            while True:
                height, width = level.shape[:2]
                texels.append(_packed((level + 0.5).astype(np.uint8)))
                levels[-1].append((offset, width, height))
                offset += texels[-1].shape[1]
                if max(height, width) <= 2:
                    break
                even = np.pad(level, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
                level = 0.25 * (
                    even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]
                )
        depth = max(len(rows) for rows in levels)
        table = np.array([rows + [rows[-1]] * (depth - len(rows)) for rows in levels], np.int64)
        deepest = np.array([len(rows) - 1 for rows in levels], np.int32)
        return (
            np.concatenate(texels, axis=1),
            np.ascontiguousarray(table.reshape(-1, 3).T),
            depth,
            deepest,
        )


def _packed(image: np.ndarray) -> np.ndarray:
    """(h, w, channels) → (channels, (h + 1)·(w + 1)): last row and column twice, so taps need no test."""
    padded = np.pad(image, ((0, 1), (0, 1), (0, 0)), mode="edge")
    return padded.transpose(2, 0, 1).reshape(image.shape[2], -1)


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
