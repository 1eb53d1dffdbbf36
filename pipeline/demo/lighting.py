"""Light on the surfaces of a scene.

The surfaces are Lambertian, so their light is the same in all views and is computed once.
"""

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
    """Compute the light on every surface: sun with soft shadows, sky with occlusion, and bounce.

    sun: direction (3,) towards the sun. Colours are linear RGB.
    spacing: distance in world units of the points where light is computed; at most `most` of them
        lie along a side.
    bounce: constant light from all other surfaces.
    sun_rays, sky_rays: rays from each point towards the sun and the sky.

    Returns one map (rows, columns, 3) float32 for each surface. `Scene` multiplies the texture by
    it. Textures hold display values, so the maps hold light to the power 1/2.2.
    """
    towards = np.asarray(sun, float) / np.linalg.norm(sun)
    # The sun is wider than the real one, as on a hazy day.
    suns = towards + 0.03 * rng.standard_normal((sun_rays, 3))
    # The directions to the sky are spread evenly over the upper half sphere.
    k = np.arange(sky_rays) + 0.5
    height, turn = 1 - k / sky_rays, np.pi * (1 + 5**0.5) * k
    level = np.sqrt(1 - height**2)
    skies = np.stack([level * np.cos(turn), level * np.sin(turn), height], -1)

    sides = [(np.linalg.norm(s.down), np.linalg.norm(s.right)) for s in surfaces]
    fine = [
        tuple(int(np.clip(length / spacing, 2, most)) for length in lengths) for lengths in sides
    ]
    coarse = [tuple(max(2, side // 4) for side in shape) for shape in fine]
    sunlight = _arriving(surfaces, suns, fine)
    # The cosines to an open sky have a mean of one half, and a surface under an open sky shall have
    # all of its light.
    skylight = [part / 0.5 for part in _arriving(surfaces, skies, coarse)]
    maps = []
    for direct, diffuse in zip(sunlight, skylight, strict=True):
        diffuse = _enlarge(diffuse, direct.shape)
        sunny, cloudy = direct[..., None] * sun_colour, diffuse[..., None] * sky_colour
        linear = sunny + cloudy + bounce
        maps.append((linear ** (1 / _GAMMA)).astype(np.float32))
    return maps


def _arriving(
    surfaces: Sequence[Surface], rays: np.ndarray, shapes: Sequence[tuple[int, ...]]
) -> list[np.ndarray]:
    """Light on a grid of points of each surface, one array of its shape for each.

    It is the mean over the rays of the cosine to the normal, or 0 where a surface blocks the ray.
    """
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
    """Centres of rows × columns equal parts of a surface: (rows·columns, 3)."""
    b, a = ((np.arange(count) + 0.5) / count for count in shape)
    points: np.ndarray = (
        surface.origin + b[:, None, None] * surface.down + a[:, None] * surface.right
    )
    return points.reshape(-1, 3)


def _unblocked(surfaces: Sequence[Surface], points: np.ndarray, ray: np.ndarray) -> np.ndarray:
    """The row numbers of the points (n, 3) that meet no surface along `ray`."""
    # The points are sorted along one direction across the ray, so that those which a surface can
    # shade are one slice.
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
    """Interpolate bilinearly between the centres of the texels. Sides are 2 or more."""
    weights = []
    for small, side in zip(image.shape, shape, strict=True):
        at = np.clip((np.arange(side) + 0.5) * small / side - 0.5, 0, small - 1)
        weights.append(np.maximum(1 - np.abs(at[:, None] - np.arange(small)), 0))
    enlarged: np.ndarray = weights[0] @ image @ weights[1].T
    return enlarged
