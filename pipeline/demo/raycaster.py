"""A small ray-caster of textured flat surfaces, which gives photographs with exact depth.

A scene is a list of parallelograms and discs. Each shows a region of a texture under its own map of
light. A pinhole camera maps pixels to a flat surface by a homography, and the inverse depth of the
surface is linear in the pixel.

Conventions: pixel centres are at integers, and the top-left one is (0, 0). R (3, 3) and t (3,) map
world to camera, `x_camera = R @ x_world + t`, with camera x right, y down and z forward. K (3, 3)
is the pinhole matrix. Depth is z in the camera, and 0 means that nothing was hit. World z is up,
which matters for the sky only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eloftr.errors import ArgumentError

# Left, top, width and height of a part of a texture; all of it is (0, 0, 1, 1).
Region = tuple[float, float, float, float]
_NEAR = 0.01  # world units; nothing nearer to the camera is drawn
_CHUNK = 1 << 17  # samples shaded at a time, about as many as the cache holds


@dataclass(frozen=True)
class Surface:
    """A parallelogram `origin + a·right + b·down`, a and b in 0…1, or the ellipse inscribed in it.

    Seen from its outside, `right` and `down` point right and down, and the texture stands upright.
    Both sides are drawn.
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
    """Surfaces with their textures and light, packed for `render`. A scene has no cameras.

    textures: each (h, w) or (h, w, 3) uint8, all grey or all colour. Light of 1 shows them as they
        are.
    light: one map for each surface, from `lighting.bake_light`, or None for full light everywhere.
    sky: RGB 0…1 at the horizon and overhead.
    Raises ArgumentError for no surface, for textures of different kinds, and for a surface whose
    texture does not exist.
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
        # (3, surfaces): the first texel, the columns and the rows of each map of light
        self.light_maps = np.concatenate([starts[None], sides.T])
        self.sky = self._in_channels(np.asarray(sky, np.float32)) * 255
        self.texels, self.levels, self.depth, self.deepest = self._pyramids(textures)

        sizes = np.array([textures[s.texture].shape[1::-1] for s in self.surfaces], np.float32)
        regions = np.array([s.region for s in self.surfaces], np.float32)
        # (4, surfaces): left, top, width, height of each region in texels of the finest level
        self.texel_region = (regions * np.tile(sizes, 2)).T
        self.texture = np.array([s.texture for s in self.surfaces], np.int32)

    def _in_channels(self, colour: np.ndarray) -> np.ndarray:
        return colour @ np.array([[0.299], [0.587], [0.114]], np.float32) if self.grey else colour

    def _pyramids(
        self, textures: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, int, np.ndarray]:
        """Mip pyramids of all textures one after the other, so that one gather serves all surfaces.

        Returns the texels (channels, …) uint8; the first texel, width and height of each level (3,
        textures × depth); the depth, which is the number of levels of every texture; and the last
        level of each texture of its own. Smaller pyramids repeat their last level up to the depth.
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
        table = np.ascontiguousarray(table.reshape(-1, 3).T)
        return np.concatenate(texels, axis=1), table, depth, deepest


def _packed(image: np.ndarray) -> np.ndarray:
    """Pack an image for `_bilinear`: (h, w, channels) → (channels, (h + 1)·(w + 1)).

    The last row and column are repeated, so that the lower right tap always exists.
    """
    padded = np.pad(image, ((0, 1), (0, 1), (0, 0)), mode="edge")
    return padded.transpose(2, 0, 1).reshape(image.shape[2], -1)


def render(
    scene: Scene,
    K: np.ndarray,
    R: np.ndarray,
    t: np.ndarray,
    shape: tuple[int, int],
    samples: int = 2,
) -> tuple[np.ndarray, np.ndarray]:
    """Photograph a scene.

    shape: (h, w) of the picture in pixels.
    samples: rays per pixel and side. 1 is fastest and leaves jagged edges; 3 is sharp on slanted
        surfaces.
    Returns the image, (h, w) or (h, w, 3) uint8 as the textures are, and the depth, (h, w) float32,
    at the pixel centres. Raises ArgumentError for fewer than 1 sample.
    """
    if samples < 1:
        raise ArgumentError(f"samples is {samples}, must be 1 or more.")
    height, width = shape
    to_plane, bounds = _homographies(scene, K, R, t, shape)
    columns, rows = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    depth = np.empty(shape, np.float32)
    image = np.empty((scene.channels, height, width), np.float32)
    offsets = (np.arange(samples, dtype=np.float32) + 0.5) / samples - 0.5
    fine_columns = (columns[:, None] + offsets).ravel()
    step = max(1, _CHUNK // (width * samples**2))
    for top in range(0, height, step):
        some = rows[top : top + step]
        fine_rows = (some[:, None] + offsets).ravel()
        nearest, inverse = _nearest(scene, to_plane, bounds, fine_columns, fine_rows)
        colour = _shade(scene, to_plane, nearest, fine_columns, fine_rows, samples)
        _sky(scene, colour, nearest, np.asarray(K), np.asarray(R), fine_columns, fine_rows)
        image[:, top : top + step] = _averaged(colour, samples)
        if samples > 1:
            _, inverse = _nearest(scene, to_plane, bounds, columns, some)
        depth[top : top + step] = np.where(inverse > 0, 1 / np.maximum(inverse, 1e-12), 0)
    image = np.clip(image + 0.5, 0, 255).astype(np.uint8)
    return (image[0] if scene.grey else np.ascontiguousarray(image.transpose(1, 2, 0))), depth


def correspond(
    depth0: np.ndarray,
    K0: np.ndarray,
    R0: np.ndarray,
    t0: np.ndarray,
    K1: np.ndarray,
    R1: np.ndarray,
    t1: np.ndarray,
    depth1: np.ndarray,
    tolerance: float = 0.01,
) -> tuple[np.ndarray, np.ndarray]:
    """Find where every pixel of image 0 is in image 1.

    depth0, depth1: (h, w) of `render`. The two images may differ in size.
    tolerance: the largest distance of a visible point from the surface seen in image 1, relative to
        its depth.
    Returns flow and visible. Flow, (h, w, 2) float32, is the position (x, y) in image 1 minus that
    in image 0. It is exact also for hidden points and points outside image 1, and 0 where image 0
    shows no surface or the point is behind camera 1. Visible, (h, w) bool, is true for points
    inside image 1 that no other surface hides there.
    """
    height, width = depth0.shape
    y, x = np.mgrid[:height, :width].astype(np.float64)
    K0, R0, t0, K1, R1, t1 = (np.asarray(a, np.float64) for a in (K0, R0, t0, K1, R1, t1))
    rotation = K1 @ R1 @ R0.T @ np.linalg.inv(K0)
    shift = K1 @ (t1 - R1 @ R0.T @ t0)
    z0 = depth0.astype(np.float64)
    projected = np.stack([x, y, np.ones_like(x)], -1) @ rotation.T * z0[..., None] + shift
    z1 = projected[..., 2]
    seen = (z0 > 0) & (z1 > _NEAR)
    divisor = np.where(seen, z1, 1)
    x1 = np.where(seen, projected[..., 0] / divisor, x)
    y1 = np.where(seen, projected[..., 1] / divisor, y)
    flow = np.stack([x1 - x, y1 - y], -1).astype(np.float32)

    # Inverse depth is linear on a flat surface, so its bilinear sample is exact where all four taps
    # lie on one surface.
    height1, width1 = depth1.shape
    visible = seen & (x1 >= 0) & (y1 >= 0) & (x1 <= width1 - 1) & (y1 <= height1 - 1)
    u, v = x1[visible], y1[visible]
    left = np.minimum(u.astype(int), max(width1 - 2, 0))
    top = np.minimum(v.astype(int), max(height1 - 2, 0))
    right, bottom = np.minimum(left + 1, width1 - 1), np.minimum(top + 1, height1 - 1)
    inverse = np.where(depth1 > 0, 1 / np.where(depth1 > 0, depth1, 1), 0).astype(np.float64)
    a, b = u - left, v - top
    upper = inverse[top, left] * (1 - a) + inverse[top, right] * a
    lower = inverse[bottom, left] * (1 - a) + inverse[bottom, right] * a
    visible[visible] = np.abs((upper * (1 - b) + lower * b) * z1[visible] - 1) <= tolerance
    return flow, visible


def _homographies(
    scene: Scene, K: np.ndarray, R: np.ndarray, t: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The homography of each surface, and its bounds in the image.

    Homographies (n, 3, 3) map a pixel (x, y, 1) to (a, b, 1)/depth on the surface. Bounds (n, 4)
    are the first and last x, then the first and last y. They are empty for a surface seen edge-on
    and for one wholly behind the camera.
    """
    height, width = shape
    K, R, t = (np.asarray(a, np.float64) for a in (K, R, t))
    to_plane = np.zeros((len(scene.surfaces), 3, 3))
    bounds = np.tile([1.0, -1.0, 1.0, -1.0], (len(scene.surfaces), 1))
    corners = np.array([[0, 1, 0, 1], [0, 0, 1, 1], [1, 1, 1, 1]])
    for k, s in enumerate(scene.surfaces):
        in_camera = np.stack([R @ s.right, R @ s.down, R @ s.origin + t], -1)
        sides = np.linalg.norm(in_camera, axis=0)
        if abs(np.linalg.det(in_camera)) < 1e-9 * sides.prod():
            continue
        z = in_camera[2] @ corners
        if z.max() < _NEAR:
            continue
        to_plane[k] = np.linalg.inv(K @ in_camera)
        if z.min() < _NEAR:
            bounds[k] = -1, width, -1, height
        else:
            x, y = (K @ in_camera @ corners / z)[:2]
            bounds[k] = x.min() - 0.1, x.max() + 0.1, y.min() - 0.1, y.max() + 0.1
    return to_plane, bounds


def _nearest(
    scene: Scene, to_plane: np.ndarray, bounds: np.ndarray, columns: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The surface seen along each ray, −1 for none, and its inverse depth; both (rows, columns)."""
    nearest = np.full((len(rows), len(columns)), -1, np.int16)
    inverse = np.zeros(nearest.shape, np.float32)
    for k, s in enumerate(scene.surfaces):
        x0, x1 = np.searchsorted(columns, bounds[k, :2])
        y0, y1 = np.searchsorted(rows, bounds[k, 2:])
        if x0 >= x1 or y0 >= y1:
            continue
        a, b, c = (
            (h[0] * columns[x0:x1]).astype(np.float32)
            + (h[1] * rows[y0:y1] + h[2]).astype(np.float32)[:, None]
            for h in to_plane[k]
        )
        so_far = inverse[y0:y1, x0:x1]
        hit = (c > so_far) & (c < 1 / _NEAR) & (a >= 0) & (a <= c) & (b >= 0) & (b <= c)
        if s.disc:
            hit &= (a - 0.5 * c) ** 2 + (b - 0.5 * c) ** 2 <= 0.25 * c * c
        np.copyto(so_far, c, where=hit)
        np.copyto(nearest[y0:y1, x0:x1], k, where=hit)
    return nearest, inverse


def _shade(
    scene: Scene,
    to_plane: np.ndarray,
    nearest: np.ndarray,
    columns: np.ndarray,
    rows: np.ndarray,
    samples: int,
) -> np.ndarray:
    """Texture times light along each ray: (channels, rows, columns) float32 0…255.

    It is 0 where the ray hits nothing.
    """
    colour = np.zeros((scene.channels, nearest.size), np.float32)
    hit = np.flatnonzero(nearest >= 0)
    j, i = np.divmod(hit, len(columns))
    x, y, which = columns[i], rows[j], nearest.ravel()[hit]
    h = np.take(to_plane.reshape(-1, 9).T.astype(np.float32), which, axis=1)
    depth = 1 / (h[6] * x + h[7] * y + h[8])
    a = (h[0] * x + h[1] * y + h[2]) * depth
    b = (h[3] * x + h[4] * y + h[5]) * depth
    origin_x, origin_y, size_x, size_y = np.take(scene.texel_region, which, axis=1)

    # A step of one sample to the right or down crosses some texels, and the larger number of the
    # two gives the mip level. Each sample of a pixel rounds at another threshold, so the mean of
    # the samples blends two levels without a second lookup.
    right = ((h[0] - a * h[6]) * size_x) ** 2 + ((h[3] - b * h[6]) * size_y) ** 2
    down = ((h[1] - a * h[7]) * size_x) ** 2 + ((h[4] - b * h[7]) * size_y) ** 2
    crossed = np.maximum(right, down) * (depth / samples) ** 2
    threshold = (((j % samples) * samples + i % samples + 0.5) / samples**2).astype(np.float32)
    level = np.floor(0.5 * np.log2(np.maximum(crossed, 1e-12)) + threshold).astype(np.int32)
    texture = scene.texture[which]
    level = np.clip(level, 0, scene.deepest[texture])
    start, width, height = np.take(scene.levels, texture * scene.depth + level, axis=1)
    shrink = np.ldexp(np.float32(1), -level)
    x, y = (origin_x + a * size_x) * shrink, (origin_y + b * size_y) * shrink
    start_light, columns, rows = np.take(scene.light_maps, which, axis=1)
    light = _bilinear(scene.light, start_light, columns, rows, a * columns, b * rows)
    colour[:, hit] = _bilinear(scene.texels, start, width, height, x, y) * light
    return colour.reshape(-1, *nearest.shape)


def _bilinear(
    texels: np.ndarray,
    start: np.ndarray,
    width: np.ndarray,
    height: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
) -> np.ndarray:
    """Interpolate images that `_packed` stored in texels (channels, …): (channels, n) float32.

    start, width, height: (n,) the image of each sample: first texel and size. x, y: (n,) in texels
    of that image, with (0, 0) at the outer corner of its first texel.
    """
    x = np.clip(x - 0.5, 0, (width - 1).astype(np.float32))
    y = np.clip(y - 0.5, 0, (height - 1).astype(np.float32))
    left, top = x.astype(np.int64), y.astype(np.int64)
    a, b = x - left.astype(np.float32), y - top.astype(np.float32)
    stride = width + 1
    at = start + top * stride + left
    below = at + stride
    mixed = np.empty((len(texels), len(x)), np.float32)
    for plane, out in zip(texels, mixed, strict=True):
        upper = _mix(plane.take(at), plane.take(at + 1), a)
        lower = _mix(plane.take(below), plane.take(below + 1), a)
        out[:] = _mix(upper, lower, b)
    return mixed


def _mix(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    """`first` where share is 0, `second` where it is 1; float32."""
    first = first.astype(np.float32)
    mixed: np.ndarray = first + (second - first) * share
    return mixed


def _averaged(colour: np.ndarray, samples: int) -> np.ndarray:
    """Mean over the samples of each pixel: (channels, h·samples, w·samples) → (channels, h, w)."""
    # The sums are strided because NumPy reduces short inner axes slowly.
    channels, height, width = colour.shape
    total = np.zeros((channels, height // samples, width // samples), np.float32)
    for row in range(samples):
        for column in range(samples):
            total += colour[:, row::samples, column::samples]
    mean: np.ndarray = total / samples**2
    return mean


def _sky(
    scene: Scene,
    colour: np.ndarray,
    nearest: np.ndarray,
    K: np.ndarray,
    R: np.ndarray,
    columns: np.ndarray,
    rows: np.ndarray,
) -> None:
    """Fill the rays that hit nothing with a smooth gradient by their elevation, in place."""
    j, i = np.nonzero(nearest < 0)
    if len(j) == 0:
        return
    ray = np.stack([columns[i], rows[j], np.ones(len(i))], -1) @ (R.T @ np.linalg.inv(K)).T
    up = np.clip(1.6 * ray[:, 2] / np.linalg.norm(ray, axis=1), 0, 1)[:, None]
    colour[:, j, i] = (scene.sky[0] + (scene.sky[1] - scene.sky[0]) * up).T
