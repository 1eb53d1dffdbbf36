"""Light that falls on the surfaces of a scene, computed once: they are Lambertian, so it serves all views."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.demo.raycaster import Surface

_GAMMA = 2.2


def bake_light(
    surfaces: Sequence[Surface],
    sun: Sequence[float],
    rng: np.random.Generator,
    spacing: float = 0.06,
    most: int = 128,
    sun_colour: Sequence[float] = (1.02, 0.92, 0.75),
    sky_colour: Sequence[float] = (0.28, 0.33, 0.40),
    bounce: Sequence[float] = (0.10, 0.09, 0.08),
    sun_rays: int = 8,
    sky_rays: int = 24,
) -> list[np.ndarray]:
    """Light on every surface: sun with soft shadows, open sky with occlusion, and a constant bounce.

    sun: direction (3,) towards it. Colours are linear RGB. spacing: of the points where light is computed, in
    world units, up to `most` of them along a side. Returns one map (rows, columns, 3) float32 a surface for
    `Scene`, which multiplies the texture by it (display values, so light to the power 1/2.2).
    """
    towards = np.asarray(sun, float) / np.linalg.norm(sun)
    suns = towards + 0.03 * rng.standard_normal(
        (sun_rays, 3)
    )  # a wider sun than ours: as on a hazy day
    k = np.arange(sky_rays) + 0.5
    height, turn = (
        1 - k / sky_rays,
        np.pi * (1 + 5**0.5) * k,
    )  # evenly spread over the upper half sphere
    level = np.sqrt(1 - height**2)
    skies = np.stack([level * np.cos(turn), level * np.sin(turn), height], -1)

    sides = [(np.linalg.norm(s.down), np.linalg.norm(s.right)) for s in surfaces]
    fine = [
        tuple(int(np.clip(length / spacing, 2, most)) for length in lengths) for lengths in sides
    ]
    coarse = [tuple(max(2, side // 4) for side in shape) for shape in fine]
    sunlight = _arriving(surfaces, suns, fine)
    # Half: the cosines to an open sky average to it, and such a surface is to have all of the sky's light.
    skylight = [part / 0.5 for part in _arriving(surfaces, skies, coarse)]
    maps = []
    for direct, diffuse in zip(sunlight, skylight, strict=True):
        diffuse = _enlarge(diffuse, direct.shape)
        linear = (
            direct[..., None] * np.array(sun_colour)
            + diffuse[..., None] * np.array(sky_colour)
            + bounce
        )
        maps.append((linear ** (1 / _GAMMA)).astype(np.float32))
    return maps


def _arriving(
    surfaces: Sequence[Surface], rays: np.ndarray, shapes: Sequence[tuple[int, ...]]
) -> list[np.ndarray]:
    """Mean over the rays of light (1 where it falls straight) on a grid of points of each surface."""
    points = np.concatenate([_grid(s, shape) for s, shape in zip(surfaces, shapes, strict=True)])
    counts = [rows * columns for rows, columns in shapes]
    normals = np.array([s.outward() for s in surfaces])
    points += 1e-4 * np.repeat(normals, counts, axis=0)
    total = np.zeros(len(points))
    for ray in rays / np.linalg.norm(rays, axis=1, keepdims=True):
        facing = np.repeat(normals @ ray, counts)
        lit = np.flatnonzero(facing > 0)
        lit = lit[_unblocked(surfaces, points[lit], ray)]
        total[lit] += facing[lit] / len(rays)
    parts = np.split(total, np.cumsum(counts)[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _grid(surface: Surface, shape: tuple[int, ...]) -> np.ndarray:
    """Centres of rows × columns equal parts of a surface, (rows·columns, 3)."""
    b, a = ((np.arange(count) + 0.5) / count for count in shape)
    return (surface.origin + b[:, None, None] * surface.down + a[:, None] * surface.right).reshape(
        -1, 3
    )


def _unblocked(surfaces: Sequence[Surface], points: np.ndarray, ray: np.ndarray) -> np.ndarray:
    """Which of the points (n, 3) meet no surface along `ray`: their numbers."""
    # Sorted along one direction across the ray, the points that a surface can shade are one slice.
    across = np.cross(ray, [0.6, 0.0, 0.8])
    order = np.argsort(points @ across)
    points = points[order].T
    place = across @ points
    frames = np.array([(s.right, s.down, -ray) for s in surfaces]).transpose(0, 2, 1)
    origins = np.array([s.origin for s in surfaces])
    a, b = frames[..., 0] @ across, frames[..., 1] @ across
    begin = np.searchsorted(place, origins @ across + np.minimum(a, 0) + np.minimum(b, 0))
    end = np.searchsorted(place, origins @ across + np.maximum(a, 0) + np.maximum(b, 0))
    edge_on = np.abs(np.linalg.det(frames)) < 1e-9
    frames[edge_on] = np.eye(3)
    clear = np.ones(len(order), bool)
    for k, inverse in enumerate(np.linalg.inv(frames)):
        if edge_on[k] or begin[k] == end[k]:
            continue
        part = slice(begin[k], end[k])
        a, b, distance = inverse @ (points[:, part] - origins[k, :, None])
        hit = (distance > 1e-3) & (a >= 0) & (a <= 1) & (b >= 0) & (b <= 1)
        if surfaces[k].disc:
            hit &= (a - 0.5) ** 2 + (b - 0.5) ** 2 <= 0.25
        clear[part] &= ~hit
    return order[clear]


def _enlarge(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Bilinear between the centres of the texels; sides of 2 or more."""
    weights = []
    for small, side in zip(image.shape, shape, strict=True):
        at = np.clip((np.arange(side) + 0.5) * small / side - 0.5, 0, small - 1)
        weights.append(np.maximum(1 - np.abs(at[:, None] - np.arange(small)), 0))
    return weights[0] @ image @ weights[1].T
