"""The courtyard: what stands in it, in metres, with z up.

A paved yard lies before a crumbling wall with a door and a window.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pipeline.demo import textures
from pipeline.demo.lighting import bake_light
from pipeline.demo.raycaster import Region, Scene, Surface
from pipeline.demo.solids import box, column

Point = tuple[float, float, float]
Paint = Callable[[tuple[int, int], float], np.ndarray]  # shape, texels per metre → texture


def courtyard(rng: np.random.Generator, texels_per_metre: float) -> Scene:
    """Build the courtyard: the yard, the wall, the things in the yard, and what lies behind it."""
    yard = _Yard(texels_per_metre)
    materials = _paint_materials(yard, rng)
    _build_wall(yard, materials)
    _place_things(yard, materials)
    _build_backdrop(yard, materials)
    light = bake_light(yard.surfaces, (-0.62, -0.55, 0.80), rng, spacing=10 / texels_per_metre)
    return Scene(yard.surfaces, yard.textures, light)


class _Materials(NamedTuple):
    """The number of each texture of the courtyard."""

    paving: int
    grass: int
    wall: int
    rubble: int
    boards: int
    staves: int
    hedge: int
    block: int
    notice: int
    poster: int
    mural: int
    tower: int
    house: int
    trees: int


def _paint_materials(yard: _Yard, rng: np.random.Generator) -> _Materials:
    """Paint all textures, in this order. Each lambda paints a shape s with d texels per metre."""
    brick, coat = (0.55, 0.31, 0.23), (0.82, 0.74, 0.60)
    wood, paint = (0.50, 0.36, 0.24), (0.26, 0.40, 0.40)
    grey, green = (0.58, 0.56, 0.52), (0.20, 0.31, 0.13)
    white, blue = (0.85, 0.80, 0.66), (0.24, 0.34, 0.45)
    return _Materials(
        paving=yard.texture(
            10, 8.8, lambda s, d: textures.stones(s, rng, 0.36 * d, (0.60, 0.57, 0.52), 0.06), 0.85
        ),
        grass=yard.texture(
            15, 12.5, lambda s, d: textures.leaves(s, rng, green, 0.12 * d, 0.7 * d), 0.25
        ),
        wall=yard.texture(
            9, 3.4, lambda s, d: textures.crumbling(s, rng, 0.085 * d, brick, coat), 0.7
        ),
        rubble=yard.texture(
            8, 6, lambda s, d: textures.stones(s, rng, 0.24 * d, (0.62, 0.56, 0.46), 0.09), 0.7
        ),
        boards=yard.texture(4.5, 4.5, lambda s, d: textures.planks(s, rng, 0.15 * d, wood)),
        staves=yard.texture(
            6, 2.4, lambda s, d: textures.planks(s, rng, 0.16 * d, paint, upright=True), 0.7
        ),
        hedge=yard.texture(
            5,
            4.5,
            lambda s, d: textures.leaves(s, rng, (0.24, 0.36, 0.15), 0.03 * d, 0.12 * d, 0.3),
            0.7,
        ),
        block=yard.texture(9.5, 3, lambda s, d: textures.plaster(s, rng, grey)),
        notice=yard.texture(
            0.9, 1.3, lambda s, d: textures.painted(s, rng, white, (0.55, 0.14, 0.1), 0.13 * d)
        ),
        poster=yard.texture(
            1.2, 0.85, lambda s, d: textures.painted(s, rng, blue, (0.85, 0.65, 0.25), 0.16 * d)
        ),
        mural=yard.texture(
            0.9, 1.2, lambda s, d: textures.leaves(s, rng, grey, 0.02 * d, 0.25 * d, 0.4), 0.8
        ),
        tower=yard.texture(
            15, 7.5, lambda s, d: textures.bricks(s, rng, 0.16 * d, (0.62, 0.50, 0.42)), 0.5
        ),
        house=yard.texture(
            12.5, 5, lambda s, d: textures.crumbling(s, rng, 0.15 * d, brick, (0.7, 0.66, 0.6)), 0.5
        ),
        trees=yard.texture(
            12.5,
            5,
            lambda s, d: textures.leaves(s, rng, (0.27, 0.40, 0.18), 0.1 * d, 0.6 * d, 0.35),
            0.35,
        ),
    )


def _build_wall(yard: _Yard, m: _Materials) -> None:
    """The ground, and the wall with its door and its window."""
    yard.panel((-5.6, 4.3, 0), (10, 0, 0), (0, -8.8, 0), m.paving)
    yard.panel((-8, 8.5, -0.04), (15, 0, 0), (0, -12.5, 0), m.grass)
    around_door_and_window = (
        (-5.0, -3.1, 0.0, 3.4),
        (-3.1, -1.9, 0.0, 1.1),
        (-3.1, -1.9, 2.3, 3.4),
        (-1.9, 0.3, 0.0, 3.4),
        (0.3, 1.4, 2.15, 3.4),
        (1.4, 4.0, 0.0, 3.4),
    )
    for left, right, foot, top in around_door_and_window:
        region = ((left + 5) / 9, (3.4 - top) / 3.4, (right - left) / 9, (top - foot) / 3.4)
        yard.panel((left, 4.2, top), (right - left, 0, 0), (0, 0, foot - top), m.wall, region)
    door, window = (0.3, 1.4, 0.0, 2.15), (-3.1, -1.9, 1.1, 2.3)
    for left, right, foot, top in (door, window):  # They lie 30 cm deep in the wall.
        yard.panel((left, 4.5, top), (right - left, 0, 0), (0, 0, foot - top), m.staves)
        yard.panel((left, 4.2, top), (0, 0.3, 0), (0, 0, foot - top), m.rubble)
        yard.panel((right, 4.5, top), (0, -0.3, 0), (0, 0, foot - top), m.rubble)
        yard.panel((left, 4.2, top), (right - left, 0, 0), (0, 0.3, 0), m.boards)
        yard.panel((left, 4.5, foot), (right - left, 0, 0), (0, -0.3, 0), m.block)


def _place_things(yard: _Yard, m: _Materials) -> None:
    """Everything on and before the wall: coping, beams, boxes, hedge, well, barrel."""
    yard.box((-0.5, 4.5, 3.4), (9.2, 0.7, 0.14), m.block)  # coping
    for x in (-4.4, -3.3, -1.5, -0.4, 2.1, 3.2):
        yard.box((x, 3.95, 2.85 + 0.05 * np.sin(7 * x)), (0.13, 0.55, 0.15), m.boards)
    yard.box((0.85, 3.68, 2.42), (1.9, 1.05, 0.06), m.boards, lean=-16)  # canopy over the door
    yard.box((0.85, 3.9, 0), (1.8, 0.6, 0.16), m.block)
    yard.box((0.85, 3.45, 0), (2.1, 0.5, 0.08), m.block)
    yard.box((-0.85, 4.19, 1.15), (0.9, 0.02, 1.2), m.mural)
    yard.box((4.2, 1.85, 0), (0.4, 4.7, 2.2), m.rubble)
    yard.box((3.985, 1.5, 0.9), (0.03, 1.2, 0.85), m.poster)
    yard.box((-4.3, 1.7, 0), (0.4, 5.0, 0.85), m.rubble)
    yard.box((-5.1, 1.7, 0), (1.0, 5.0, 1.7), m.hedge)
    yard.box((-1.7, 2.45, 0), (0.85, 0.85, 0.85), m.boards, turn=24)
    yard.box((-2.65, 2.9, 0), (0.75, 0.75, 0.75), m.boards, turn=-14)
    yard.box((-1.75, 2.5, 0.85), (0.6, 0.6, 0.55), m.staves, turn=52)
    yard.box((2.35, 3.72, 0), (0.9, 0.05, 1.3), m.notice, turn=-4, lean=16)
    yard.box((-1.3, 0.3, 0), (0.62, 0.62, 0.3), m.block, turn=12)
    yard.column((-1.3, 0.3, 0.3), 0.19, 1.45, m.block, m.block)
    yard.box((-1.3, 0.3, 1.75), (0.5, 0.5, 0.14), m.block, turn=12)
    yard.column((1.55, 1.1, 0), 0.72, 0.62, m.rubble, m.boards)  # a covered well
    yard.column((1.75, 1.2, 0.62), 0.16, 0.32, m.staves, m.boards)
    yard.column((3.3, 2.9, 0), 0.36, 0.95, m.boards, m.boards)
    yard.box((0.25, 2.6, 0), (0.5, 0.35, 0.3), m.rubble, turn=-35)


def _build_backdrop(yard: _Yard, m: _Materials) -> None:
    """The buildings and trees behind and beside the yard."""
    yard.panel((-8, 8.5, 7.5), (15, 0, 0), (0, 0, -7.5), m.tower)
    yard.panel((-8, -4, 5), (0, 12.5, 0), (0, 0, -5), m.trees)
    yard.panel((7, 8.5, 5), (0, -12.5, 0), (0, 0, -5), m.house)


class _Yard:
    """A growing list of surfaces with their textures. All sizes are in metres."""

    def __init__(self, texels_per_metre: float) -> None:
        self.density = texels_per_metre
        self.textures: list[np.ndarray] = []
        self.extents: list[tuple[float, float]] = []
        # The x and y at which the next crop of each texture begins, and the height of its row.
        self.used: list[tuple[float, float, float]] = []
        self.surfaces: list[Surface] = []

    def texture(self, width: float, height: float, paint: Paint, sharpness: float = 1.0) -> int:
        """Paint a texture of width × height metres; returns its number.

        sharpness: share of the full density of texels. Far walls need less.
        """
        density = self.density * sharpness
        shape = max(8, round(height * density)), max(8, round(width * density))
        self.textures.append(paint(shape, density))
        self.extents.append((width, height))
        self.used.append((0.0, 0.0, 0.0))
        return len(self.textures) - 1

    def crop(self, texture: int, width: float, height: float) -> Region:
        """The next part of a texture, as large as a face of width × height.

        Parts are taken row by row, so no two faces look alike until all of the texture is used. A
        face larger than its texture gets all of it, stretched.
        """
        whole_x, whole_y = self.extents[texture]
        width, height = min(width, whole_x), min(height, whole_y)
        x, y, tallest = self.used[texture]
        if x + width > whole_x:
            x, y, tallest = 0.0, y + tallest, 0.0
        if y + height > whole_y:
            x, y, tallest = 0.0, 0.0, 0.0
        self.used[texture] = x + width, y, max(tallest, height)
        return x / whole_x, y / whole_y, width / whole_x, height / whole_y

    def panel(
        self, origin: Point, right: Point, down: Point, texture: int, region: Region | None = None
    ) -> None:
        """Add one surface; region: of the texture, or None for its next part."""
        u, v = np.array(right, float), np.array(down, float)
        region = region or self.crop(texture, float(np.linalg.norm(u)), float(np.linalg.norm(v)))
        self.surfaces.append(Surface(np.array(origin, float), u, v, texture, region))

    def box(
        self, foot: Point, size: Point, texture: int, turn: float = 0.0, lean: float = 0.0
    ) -> None:
        """Add a box with the middle of its bottom at `foot`.

        turn: degrees about the vertical. lean: degrees backwards.
        """
        a, b = np.radians(turn), np.radians(lean)
        leaning = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
        turned = np.array([[np.cos(a), np.sin(a), 0], [-np.sin(a), np.cos(a), 0], [0, 0, 1]])
        edges = np.array(size)[:, None] * (leaning @ turned)
        width, depth, height = size
        faces = [(width, height), (depth, height), (width, height), (depth, height), (width, depth)]
        corner = np.array(foot, float) - 0.5 * edges[0] - 0.5 * edges[1]
        self.surfaces += box(corner, edges, texture, [self.crop(texture, *face) for face in faces])

    def column(self, foot: Point, radius: float, height: float, side: int, cap: int) -> None:
        """Add an upright column. side, cap: textures around it and on top of it."""
        around = self.crop(side, 2 * np.pi * radius, height)
        across = self.crop(cap, 2 * radius, 2 * radius)
        self.surfaces += column(np.array(foot, float), radius, height, side, around, cap, across)
