"""Procedural colour textures with the statistics of photographs.

No two parts of a texture look alike. Every texture is structure (stones, bricks, planks, leaves,
paint) over 1/f noise, whose power falls with frequency as the power of photographs does (Field
1987). Occluding shapes of power-law sizes add the other statistics (the dead leaves of Lee, Mumford
and Huang 2001). All painters take a shape (h, w) in texels and a generator, and return (h, w, 3)
uint8. The same state of the generator gives the same texture.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

Shape = tuple[int, int]


def fractal(
    shape: Shape,
    rng: np.random.Generator,
    slope: float = 1.0,
    stretch: tuple[float, float] = (1.0, 1.0),
) -> np.ndarray:
    """Noise whose amplitude falls as 1/frequency^slope: (h, w) float32, mean 0, deviation 1.

    stretch: how much longer features are along y and along x.
    """
    height, width = shape
    fy = np.fft.fftfreq(height)[:, None] * stretch[0]
    fx = np.fft.rfftfreq(width)[None] * stretch[1]
    lowest = 1 / max(shape)
    amplitude = (fy**2 + fx**2 + lowest**2) ** (-0.5 * slope)
    amplitude[0, 0] = 0
    phases = rng.standard_normal((2, *amplitude.shape), np.float32)
    noise = np.fft.irfft2((phases[0] + 1j * phases[1]) * amplitude.astype(np.float32), shape)
    normalised: np.ndarray = (noise / noise.std()).astype(np.float32)
    return normalised


def plaster(shape: Shape, rng: np.random.Generator, base: Sequence[float]) -> np.ndarray:
    """Paint weathered plaster of colour `base` (RGB 0…1), with stains, cracks and scratches."""
    return _finish(_plaster(shape, rng, base), rng)


def bricks(
    shape: Shape, rng: np.random.Generator, course: float, base: Sequence[float]
) -> np.ndarray:
    """Paint uneven bricks with mortar, in courses about `course` texels high."""
    return _finish(_bricks(shape, rng, course, base), rng)


def crumbling(
    shape: Shape,
    rng: np.random.Generator,
    course: float,
    brick: Sequence[float],
    coat: Sequence[float],
) -> np.ndarray:
    """Paint a brick wall whose plaster has come off in patches.

    course: height of a brick in texels. brick, coat: colours of the bricks and of the plaster.
    """
    height = fractal(shape, rng, 1.6)
    below, above = _bricks(shape, rng, course, brick), _plaster(shape, rng, coat)
    bare = _step(height, 0.35, 0.40)
    # A thin shadow under the broken edge gives the coat its thickness.
    shade = 1 - 0.45 * _step(height, 0.28, 0.35) * (1 - _step(height, 0.43, 0.56)) * bare
    return _finish((above + (below - above) * bare[..., None]) * shade[..., None], rng)


def stones(
    shape: Shape, rng: np.random.Generator, size: float, base: Sequence[float], joint: float = 0.08
) -> np.ndarray:
    """Paint irregular stones, the Voronoi cells of jittered points.

    size: width of a stone in texels. joint: width of a joint as a share of it.
    """
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32) / size
    x += 0.12 * fractal(shape, rng, 1.7)
    y += 0.12 * fractal(shape, rng, 1.7)
    cell, gap, towards_x, towards_y = _cells(x, y, rng)
    width = joint * np.clip(1 + 0.4 * fractal(shape, rng, 1.4), 0.3, 2)
    stone = _step(gap, 0.6 * width, 1.4 * width)
    colours = _palette(rng, base, 4096, 0.17, 0.028)
    rounded = 0.75 + 0.25 * _step(gap, 0.0, 0.3)
    lit = 1 + 0.16 * (towards_x + towards_y) + 0.11 * fractal(shape, rng, 1.1)
    faces = colours[cell % 4096] * (rounded * lit)[..., None]
    faces += 0.02 * fractal(shape, rng, 1.3)[..., None] * rng.uniform(-1, 1, 3).astype(np.float32)
    mortar = np.asarray(base, np.float32) * 0.55 + 0.05 * fractal(shape, rng, 0.8)[..., None]
    return _finish(mortar + (faces - mortar) * stone[..., None], rng)


def planks(
    shape: Shape,
    rng: np.random.Generator,
    width: float,
    base: Sequence[float],
    upright: bool = False,
) -> np.ndarray:
    """Paint boards along x (or y, if upright), each with its own grain and colour.

    width: width of a board in texels.
    """
    size = shape[::-1] if upright else shape
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    y_bent = y + 0.02 * width * fractal(size, rng, 1.6)
    board, joint, along = _courses(x, y_bent, rng, width, 9 * width)
    hue = _palette(rng, base, 4096, 0.13, 0.05)[board % 4096]
    # The grain follows the distance to a wavering core that runs along the board. So the rings open
    # into the shape of flames.
    bend = fractal(size, rng, 1.9, (1.0, 5.0))
    offset = rng.uniform(0, 60, 4096).astype(np.float32)[board % 4096]
    phase = 2.2 * (offset + 9 * y / width + 2.4 * bend)
    rings = np.sin(phase + 0.6 * fractal(size, rng, 1.2, (1.0, 8.0)))
    fibres = fractal(size, rng, 0.7, (1.0, 14.0))
    shade = 1 + 0.10 * rings + 0.10 * fibres + 0.10 * fractal(size, rng, 1.4)
    gap = 0.25 + 0.75 * _step(joint, 0.012 * width, 0.06 * width)
    wood = hue * shade[..., None] * gap[..., None]
    for _ in range(int(size[0] * size[1] / (7 * width) ** 2) + 2):
        r = width * rng.uniform(0.05, 0.14)
        window, distance = _ellipse(size, rng.uniform(0, 1, 2) * size, r, 1.7 * r, 0.0)
        knot = (0.45 + 0.15 * np.sin(14 * distance)) * _step(-distance, -1.0, -0.75)
        wood[window] *= 1 - knot[..., None]
    wood += _step(along, 0.25 * width, 0.1 * width)[..., None] * np.float32(-0.03)  # weathered ends
    return _finish(np.ascontiguousarray(wood.transpose(1, 0, 2)) if upright else wood, rng)


def leaves(
    shape: Shape,
    rng: np.random.Generator,
    base: Sequence[float],
    smallest: float = 5.0,
    largest: float = 60.0,
    variety: float = 0.2,
) -> np.ndarray:
    """Paint dead leaves: overlapping ellipses, whose total area is the same at each scale.

    smallest, largest: radii in texels. Radii under 2 texels are not drawn: they are the most
    frequent and cannot be seen.
    variety: how much colours differ.
    """
    smallest = max(smallest, 2.0)
    largest = max(largest, 1.5 * smallest)
    image = np.zeros((*shape, 3), np.float32) + 0.25 * np.asarray(base, np.float32)
    # This is the mean of πr² where the density of radii falls as 1/r³.
    area = 2 * np.pi * np.log(largest / smallest) / (smallest**-2 - largest**-2)
    count = int(4.5 * shape[0] * shape[1] / area)
    share = rng.uniform(0, 1, count)
    radii = (smallest**-2 + share * (largest**-2 - smallest**-2)) ** -0.5
    colours = _palette(rng, base, count, variety, 0.5 * variety)
    at = rng.uniform(-0.02, 1.02, (count, 2)) * shape
    turns, slims = rng.uniform(0, np.pi, count), rng.uniform(0.4, 0.9, count)
    tilts = rng.normal(0, 0.28, count)
    grain = 1 + 0.10 * fractal(shape, rng, 0.9)
    for k in range(count):
        window, distance = _ellipse(shape, at[k], radii[k], slims[k] * radii[k], turns[k])
        if distance.size == 0:
            continue
        inside = _step(-distance, -1.0 - 0.6 / radii[k], -1.0 + 0.6 / radii[k])[..., None]
        shade = (1 + tilts[k] * distance) * (1 - 0.25 * (distance * distance) ** 3)
        image[window] += inside * (colours[k] * (grain[window] * shade)[..., None] - image[window])
    return _finish(image, rng)


def painted(
    shape: Shape,
    rng: np.random.Generator,
    base: Sequence[float],
    ink: Sequence[float],
    letters: float = 0.0,
) -> np.ndarray:
    """Paint a chipped board: blots, rings and brush strokes in `ink` and other colours over `base`.

    letters: height of made-up letters in texels; 0 for strokes only.
    """
    height, width = shape
    image = np.asarray(base, np.float32) * (1 + 0.06 * fractal(shape, rng, 1.3))[..., None]
    colours = np.concatenate([_palette(rng, ink, 4, 0.15, 0.1), _palette(rng, base, 3, 0.4, 0.3)])
    for k in range(10):
        r = rng.uniform(0.06, 0.28) * min(shape)
        at = rng.uniform(0, 1, 2) * shape
        window, distance = _ellipse(shape, at, r, r * rng.uniform(0.3, 1), rng.uniform(0, np.pi))
        wobble = distance + 0.10 * fractal(shape, rng, 1.6)[window]
        rim = _step(-wobble, -1.02, -0.98) * (1.0 if k % 2 else _step(wobble, 0.72, 0.76))
        image[window] += 0.85 * rim[..., None] * (colours[k % 7] - image[window])
    for k in range(14):
        path = rng.uniform(0, 1, 2) * shape + np.cumsum(rng.normal(0, 0.11, (6, 2)), 0) * min(shape)
        _stroke(image, path, rng.uniform(0.006, 0.022) * min(shape), colours[k % 7])
    if letters > 0:
        row = 0.5 * letters
        while row + letters < height:
            start = rng.uniform(0.4, 1.0) * letters
            tall = letters * rng.uniform(0.7, 1.0)
            colour = colours[rng.integers(0, 3)]
            while start + letters < width - 0.3 * letters:
                wide = tall * rng.uniform(0.4, 0.8)
                if rng.uniform() > 0.15:
                    _letter(image, rng, (row, start), (tall, wide), 0.07 * tall, colour)
                start += wide + 0.28 * tall
            row += letters * rng.uniform(1.25, 1.5)
    chips = _step(fractal(shape, rng, 1.1), 1.75, 1.95)
    image += chips[..., None] * (np.float32(0.62) * np.asarray(base, np.float32) + 0.08 - image)
    return _finish(image, rng)


def _plaster(shape: Shape, rng: np.random.Generator, base: Sequence[float]) -> np.ndarray:
    """Plaster before `_finish`, (h, w, 3) float32 0…1."""
    large, medium, fine = (fractal(shape, rng, slope) for slope in (1.8, 1.2, 0.6))
    shade = 1 + 0.09 * large + 0.06 * medium + 0.03 * fine
    image = np.asarray(base, np.float32) * shade[..., None]
    tint = rng.uniform(-1, 1, 3).astype(np.float32)
    image += 0.022 * (tint - tint.mean()) * fractal(shape, rng, 1.5)[..., None]
    runs = fractal(shape, rng, 1.2, (9.0, 1.0))
    image *= (1 - 0.16 * _step(runs, 0.8, 2.2))[..., None]
    cracks = np.abs(fractal(shape, rng, 1.5)) < 0.012
    image *= (1 - 0.4 * (cracks & (fractal(shape, rng, 1.6) > 0.1)))[..., None].astype(np.float32)
    mean = image.mean((0, 1))
    for _ in range(int(shape[0] * shape[1] / 25000) + 3):
        start = rng.uniform(0, 1, 2) * shape
        path = start + np.cumsum(rng.normal(0, 9, 2) + rng.normal(0, 3, (5, 2)), 0)
        _stroke(image, path, rng.uniform(0.5, 1.4), mean * rng.uniform(0.55, 1.25))
    return image


def _bricks(
    shape: Shape, rng: np.random.Generator, course: float, base: Sequence[float]
) -> np.ndarray:
    """Bricks before `_finish`, (h, w, 3) float32 0…1."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    x += 0.05 * course * fractal(shape, rng, 1.5)
    y += 0.07 * course * fractal(shape, rng, 1.5)
    brick, to_course, to_end = _courses(x, y, rng, course, 2.4 * course)
    gap = np.minimum(to_course, to_end)
    solid = _step(gap, 0.04 * course, 0.11 * course)
    hue = _palette(rng, base, 4096, 0.2, 0.06)[brick % 4096]
    shade = 1 + 0.13 * fractal(shape, rng, 1.0) + 0.08 * (to_course / course - 0.25)
    mortar_shade = 1 + 0.13 * fractal(shape, rng, 0.9)
    mortar = np.array([0.60, 0.57, 0.52], np.float32) * mortar_shade[..., None]
    bricked: np.ndarray = mortar + (hue * shade[..., None] - mortar) * solid[..., None]
    return bricked


def _courses(
    x: np.ndarray, y: np.ndarray, rng: np.random.Generator, height: float, length: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of uneven bricks about `height` and `length` texels large.

    Returns for each texel the number of its brick, the distance to the nearest edge of its row, and
    the distance to the nearer end of its brick.
    """
    heights = height * rng.uniform(0.8, 1.2, int(np.ptp(y) / height / 0.8) + 3)
    edges = np.cumsum(np.append(y.min() - 1, heights))
    row = np.searchsorted(edges, y.ravel()).reshape(y.shape) - 1
    to_row = np.minimum(y - edges[row], edges[row + 1] - y)
    number, to_end = np.empty(x.shape, np.int64), np.empty(x.shape, np.float32)
    for k in np.unique(row):
        here = row == k
        lengths = length * rng.uniform(0.6, 1.3, int(np.ptp(x) / length / 0.6) + 4)
        ends = np.cumsum(np.append(x.min() - length * rng.uniform(0.1, 1.0), lengths))
        which = np.searchsorted(ends, x[here]) - 1
        number[here] = which + 97 * k
        to_end[here] = np.minimum(x[here] - ends[which], ends[which + 1] - x[here])
    return number, to_row.astype(np.float32), to_end


def _cells(
    x: np.ndarray, y: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Voronoi cells of jittered points, one in each unit square.

    Returns for each place the number of its cell, the gap to the next cell, and the offset from its
    point in x and in y.
    """
    jitter = rng.uniform(0.08, 0.92, (2, 64, 64)).astype(np.float32)
    column, row = np.floor(x).astype(np.int32), np.floor(y).astype(np.int32)

    def away(
        dx: np.ndarray | int, dy: np.ndarray | int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        number = ((row + dy) & 63) * 64 + ((column + dx) & 63)
        from_x, from_y = np.take(jitter.reshape(2, -1), number, axis=1)
        return number, x - (column + dx) - from_x, y - (row + dy) - from_y

    first, second = np.full(x.shape, 9, np.float32), np.full(x.shape, 9, np.float32)
    neighbour = np.zeros(x.shape, np.int8)
    for k in range(9):
        _, to_x, to_y = away(k % 3 - 1, k // 3 - 1)
        distance = np.hypot(to_x, to_y)
        neighbour[distance < first] = k
        second = np.minimum(second, np.maximum(first, distance))
        first = np.minimum(first, distance)
    number, to_x, to_y = away(neighbour % 3 - 1, neighbour // 3 - 1)
    return number, second - first, to_x, to_y


def _palette(
    rng: np.random.Generator, base: Sequence[float], count: int, value: float, hue: float
) -> np.ndarray:
    """Colours (count, 3) float32 around `base`: brightness varies by `value`, channels by `hue`."""
    brightness = np.exp(value * rng.standard_normal((count, 1)))
    colours = np.asarray(base) * brightness * np.exp(hue * rng.standard_normal((count, 3)))
    return colours.astype(np.float32)


def _ellipse(
    shape: Shape, at: np.ndarray, ry: float, rx: float, turn: float
) -> tuple[tuple[slice, slice], np.ndarray]:
    """The window around an ellipse, and in it the distance from the centre in radii.

    at: the centre (y, x). ry, rx: radii in texels. turn: radians.
    """
    reach = 1.05 * max(ry, rx) + 1
    top, left = (max(0, int(c - reach)) for c in at)
    bottom = max(top, min(shape[0], int(at[0] + reach) + 1))
    right = max(left, min(shape[1], int(at[1] + reach) + 1))
    y = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(at[0])
    x = np.arange(left, right, dtype=np.float32)[None] - np.float32(at[1])
    c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    distance = np.hypot((c * y + s * x) / np.float32(ry), (c * x - s * y) / np.float32(rx))
    return (slice(top, bottom), slice(left, right)), distance


def _stroke(image: np.ndarray, path: np.ndarray, radius: float, colour: np.ndarray) -> None:
    """Paint straight strokes along the points (n, 2) of (y, x), in place."""
    for start, stop in itertools.pairwise(path):
        low = np.maximum(np.floor(np.minimum(start, stop) - radius - 1), 0).astype(int)
        high = np.ceil(np.maximum(start, stop) + radius + 2)
        high = np.minimum(high, image.shape[:2]).astype(int)
        if (low >= high).any():
            continue
        y, x = np.mgrid[low[0] : high[0], low[1] : high[1]].astype(np.float32)
        ahead = stop - start
        along = (y - start[0]) * ahead[0] + (x - start[1]) * ahead[1]
        along = np.clip(along / max(ahead @ ahead, 1e-6), 0, 1)
        distance = np.hypot(y - start[0] - along * ahead[0], x - start[1] - along * ahead[1])
        cover = np.clip(radius + 0.5 - distance, 0, 1)[..., None].astype(np.float32)
        window = image[low[0] : high[0], low[1] : high[1]]
        window += cover * (np.asarray(colour, np.float32) - window)


def _letter(
    image: np.ndarray,
    rng: np.random.Generator,
    corner: tuple[float, float],
    size: tuple[float, float],
    radius: float,
    colour: np.ndarray,
) -> None:
    """Paint a made-up letter: an upright, and a few strokes between the nodes of a 3 × 2 grid."""
    grid = np.stack(np.meshgrid([0, 0.5, 1], [0, 1], indexing="ij"), -1)
    nodes = np.array(corner) + grid.reshape(-1, 2) * size
    _stroke(image, nodes[[0, 4]], radius, colour)
    for _ in range(rng.integers(2, 4)):
        _stroke(image, nodes[rng.choice(6, 2, replace=False)], radius, colour)


def _step(value: np.ndarray, low: float | np.ndarray, high: float | np.ndarray) -> np.ndarray:
    """A smooth step from 0 at `low` to 1 at `high` (which may be the lower of the two)."""
    share: np.ndarray = np.clip((value - low) / (high - low), 0, 1)
    smooth: np.ndarray = share * share * (3 - 2 * share)
    return smooth


def _finish(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add dirt to the whole image and round it to uint8."""
    shape = image.shape[:2]
    dirt = 1 + 0.06 * fractal(shape, rng, 1.5) + 0.025 * fractal(shape, rng, 0.5)
    return np.clip(255 * image * dirt[..., None] + 0.5, 0, 255).astype(np.uint8)
