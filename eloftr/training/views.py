"""Synthetic training pairs: two grey views of real photographs with exact dense correspondence.

Every pair is a small 3D scene seen by two pinhole cameras. The ground is a photograph on the plane Z = 0,
flat or bent into a smooth relief; in front of it hang up to four planar patches of other photographs, cut to
random outlines, which hide what lies behind them and sometimes move on their own between the views. The
cameras differ in viewpoint (tilt up to 60°), distance, focal length and roll. Both views are rendered from
the photographs, so neither is the privileged, unresampled one; then each gets its own exposure, light, blur,
noise and compression.

Units: the world's unit is one pixel of the ground photograph, X right, Y down, Z away from the cameras. Pixel
centres are at integers, the top-left one at (0, 0).
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"}
HELD_OUT_EVERY = 20
MIN_VISIBLE = 0.1  # share of image 0 that image 1 must see
MIN_ON_PHOTOGRAPH = 0.75  # share of each view's ground inside the photograph, not in its mirror images
MIN_TEXTURE = 1.5  # grey levels: mean step between neighbours below which a view is mostly sky
MAX_TILT = math.radians(60)
OUTLINE = 1.1  # an outline is stored over [-1.1, 1.1]²: inside radius 1, with a negative border
SAME_POINT = 0.3  # pixels: a relief point that comes back farther from where it was sent is hidden
FAR = 1e5  # pixels: stands for points that a camera cannot project


@dataclass(frozen=True)
class Pair:
    """One training pair, or a batch of them with a leading axis B on every field.

    `image0`, `image1`: (H, W) uint8. `flow`: (H, W, 2) float32, the exact (x, y) position in image 1 of every
    pixel of image 0, also where it is hidden or outside (1e5 where it is behind camera 1). `visible`: (H, W)
    bool, the point is inside image 1 and not hidden there.
    """

    image0: np.ndarray
    image1: np.ndarray
    flow: np.ndarray
    visible: np.ndarray


@dataclass(frozen=True)
class _Camera:
    focal: float
    rotation: np.ndarray  # (3, 3) world to camera
    centre: np.ndarray  # (3,) world
    calibration: np.ndarray  # (3, 3)


@dataclass(frozen=True)
class _Relief:
    heights: Tensor  # (1, 3, n, n): Z and its derivatives along X and Y
    centre: np.ndarray  # (2,) world
    half: float  # world: the grid covers centre ± half, and continues as its border

    def at(self, x: Tensor, y: Tensor) -> Tensor:
        grid = torch.stack([(x - self.centre[0]) / self.half, (y - self.centre[1]) / self.half], -1)
        return F.grid_sample(self.heights, grid[None], padding_mode="border", align_corners=True)[0]


@dataclass(frozen=True, eq=False)
class _Patch:
    outline: Tensor  # (1, 1, n, n): about the signed distance to the outline, positive inside
    frames: tuple[
        np.ndarray, np.ndarray
    ]  # per view (3, 3): columns are the two radii and the centre, in world units
    texture: np.ndarray  # (2, 3): patch coordinates (a, b, 1) to the photograph's [-1, 1]²
    photograph: int


@dataclass(frozen=True)
class _Hit:
    patch: _Patch
    box: tuple[slice, slice]  # rows and columns of the view
    points: Tensor  # (3, rows, columns): patch coordinates a, b, and the distance to the outline


@dataclass(frozen=True)
class _Scene:
    cameras: tuple[_Camera, _Camera]
    photograph: int
    texture: np.ndarray  # (2, 3): ground (X, Y, 1) to the photograph's [-1, 1]²
    relief: _Relief | None
    patches: list[_Patch]  # a later one hides the earlier ones


def list_photographs(folder: Path) -> list[Path]:
    """All images under `folder`, recursively, in sorted order. Raises ValueError when there are none."""
    paths = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not paths:
        raise ValueError(
            f"{folder}: no photographs found; give a folder with {', '.join(sorted(SUFFIXES))} files."
        )
    return paths


def split(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """(training, held-out) photographs: every 20th is held out."""
    held_out = list(paths[::HELD_OUT_EVERY])
    return [p for i, p in enumerate(paths) if i % HELD_OUT_EVERY], held_out


class Views:
    """Pairs of views of `photographs`; pair `index` depends on `seed` and `index` only.

    `size` is the views' side or (height, width) in pixels. `photometric=False` leaves out exposure, light,
    blur, noise and compression: the two images then differ by geometry and resampling alone. Photographs are
    kept in memory as grey pyramids whose longer side is at most `longest` pixels. Raises ValueError for no
    photographs, one that is not readable, or too small a size.
    """

    def __init__(
        self,
        photographs: Sequence[Path],
        size: int | tuple[int, int],
        seed: int,
        *,
        photometric: bool = True,
        longest: int = 640,
    ) -> None:
        self.height, self.width = (size, size) if isinstance(size, int) else size
        if min(self.height, self.width) < 32:
            raise ValueError(f"size {self.height}x{self.width}: views need at least 32 pixels a side.")
        if not photographs:
            raise ValueError("photographs: the list is empty; give at least one image.")
        self.seed = seed
        self.photometric = photometric
        self._pyramids = [_pyramid(path, longest) for path in photographs]
        self._pixels = _pixel_grid(self.height, self.width, step=1)
        self._coarse = _pixel_grid(self.height, self.width, step=4)

    @torch.inference_mode()
    def pair(self, index: int) -> Pair:
        """The pair with this index; the same arrays in any order and any process."""
        rng = np.random.default_rng([self.seed, index])
        attempt = 0
        while True:  # every attempt is a little easier, so the loop ends
            ease = 0.85**attempt
            strict = attempt < 8  # some lists hold nothing but tiny or empty photographs
            attempt += 1
            scene = self._plane(rng, ease)
            if not self._well_placed(scene, MIN_ON_PHOTOGRAPH if strict else 0):
                continue
            scene = self._furnish(rng, scene, ease)
            (ground0, hits0), (ground1, hits1) = (self._meet(scene, view) for view in (0, 1))
            flow, visible = self._correspondence(scene, ground0, hits0, ground1)
            if visible.float().mean() < MIN_VISIBLE:
                continue
            image0, image1 = self._render(scene, ground0, hits0), self._render(scene, ground1, hits1)
            texture = min(float(image.diff().abs().mean()) for image in (image0, image1))
            if texture >= MIN_TEXTURE or not strict:
                break
        arrays = [image.numpy() for image in (image0, image1)]
        if self.photometric:
            arrays = [_photometric(rng, image) for image in arrays]
        first, second = (np.clip(image + 0.5, 0, 255).astype(np.uint8) for image in arrays)
        return Pair(first, second, flow.numpy(), visible.numpy())

    def batch(self, indices: Iterable[int]) -> Pair:
        """The pairs with these indices, stacked: image0, image1, visible (B, H, W), flow (B, H, W, 2)."""
        pairs = [self.pair(index) for index in indices]
        return Pair(*(np.stack([getattr(pair, field.name) for pair in pairs]) for field in fields(Pair)))

    # ---- the scene

    def _plane(self, rng: np.random.Generator, ease: float) -> _Scene:
        """Two cameras over flat ground; `ease` in (0, 1] shrinks the difference between them."""
        photograph = int(rng.integers(len(self._pyramids)))
        side = max(self.height, self.width)
        shape = _extent(self._pyramids[photograph])
        # Photograph pixels per view pixel: from about 1, or views blur, to what still lies on the photograph.
        zoom = ease * rng.uniform(-1, 1)
        widest = 1.1 * shape.min() / side / 2 ** (abs(zoom) / 2)
        finest = min(0.85 * 2 ** (abs(zoom) / 2), widest)
        density = rng.uniform(finest, max(finest, min(widest, 1.8)))
        densities = density * 2 ** (zoom / 2), density / 2 ** (zoom / 2)
        extent = side * min(densities)  # world: what the closer camera sees

        room = np.maximum(shape - 0.8 * extent, 0) / 2
        target = rng.uniform(-room, room)
        heading = rng.uniform(0, 2 * math.pi)
        step = ease * rng.uniform(0, 0.65) * extent * np.array([math.cos(heading), math.sin(heading)])
        targets = target - step / 2, target + step / 2

        roll0 = rng.normal(0, 10) if rng.random() < 0.9 else rng.uniform(-180, 180)
        limit = rng.choice([30, 90, 180], p=[0.86, 0.11, 0.03])
        turn = rng.triangular(-30, 0, 30) if limit == 30 else rng.uniform(-limit, limit)
        rolls = roll0, roll0 + ease * turn
        focals = side * np.exp(rng.uniform(math.log(0.8), math.log(1.8)) + rng.normal(0, 0.1, 2))
        while True:
            tilts = ease * MAX_TILT * rng.beta(1, 1.7, 2)
            azimuths = rng.uniform(0, 2 * math.pi) + np.array([0, rng.uniform(-math.pi, math.pi)])
            sights = [
                np.array([math.sin(t) * math.cos(a), math.sin(t) * math.sin(a), math.cos(t)])
                for t, a in zip(tilts, azimuths, strict=True)
            ]
            if sights[0] @ sights[1] > 0.4:  # at most 66° between the viewpoints
                break
        # No ray may come near the horizon of the ground.
        corner = np.arctan(math.hypot(self.height, self.width) / 2 / focals)
        tilts = np.minimum(tilts, math.radians(81) - corner)
        camera0, camera1 = (
            self._camera(targets[v], densities[v], focals[v], tilts[v], azimuths[v], rolls[v]) for v in (0, 1)
        )
        flip = rng.choice([-1.0, 1.0])
        texture = np.array([[flip * 2 / shape[0], 0, 0], [0, 2 / shape[1], 0]])
        return _Scene((camera0, camera1), photograph, texture, None, [])

    def _furnish(self, rng: np.random.Generator, scene: _Scene, ease: float) -> _Scene:
        """The scene with a relief, or patches, or both, or neither."""
        relief, patches = None, []
        if rng.random() < 0.5:
            seen = [_meet_ground(camera, None, self._coarse) for camera in scene.cameras]
            relief = _relief(rng, scene.cameras, seen)
        if rng.random() < 0.6:
            depths = np.sort(rng.uniform(0.04, 0.5, rng.integers(1, 5)))
            motion = ease if rng.random() < 0.4 else 0.0
            patches = [self._patch(rng, scene.cameras, depth, motion) for depth in depths]
        return replace(scene, relief=relief, patches=patches)

    def _camera(
        self, target: np.ndarray, density: float, focal: float, tilt: float, azimuth: float, roll: float
    ) -> _Camera:
        """A camera looking at `target` on the ground, `density` world units wide per pixel there."""
        rotation = _rotation(np.array([0, 0, 1.0]), math.radians(roll)) @ _rotation(
            np.array([math.cos(azimuth), math.sin(azimuth), 0]), tilt
        )
        centre = np.append(target, 0) - density * focal * rotation[2]
        calibration = np.array(
            [[focal, 0, (self.width - 1) / 2], [0, focal, (self.height - 1) / 2], [0, 0, 1]]
        )
        return _Camera(focal, rotation, centre, calibration)

    def _patch(
        self, rng: np.random.Generator, cameras: tuple[_Camera, _Camera], depth: float, motion: float
    ) -> _Patch:
        """A patch on a random ray of one camera, `depth` of the way from the ground to the lower camera."""
        camera = cameras[rng.integers(2)]
        pixel = np.array([rng.uniform(0.05, 0.95) * self.width, rng.uniform(0.05, 0.95) * self.height, 1])
        ray = camera.rotation.T @ np.linalg.solve(camera.calibration, pixel)
        height = depth * max(c.centre[2] for c in cameras)  # both are negative
        distance = (height - camera.centre[2]) / ray[2]
        centre = camera.centre + distance * ray
        radius = rng.uniform(0.08, 0.4) * min(self.height, self.width)  # pixels in this camera
        size = radius * distance / camera.focal
        # Near parallel to the ground, or standing up as far as both cameras still see its front.
        while True:
            axis = rng.normal(size=2)
            axes = _rotation(np.append(axis / np.linalg.norm(axis), 0), rng.beta(1, 1.5) * math.radians(60))
            sights = [(centre - c.centre) / np.linalg.norm(centre - c.centre) for c in cameras]
            if all(sight @ axes[:, 2] > 0.25 for sight in sights):
                break
            if min(sight[2] for sight in sights) < 0.3:
                axes = np.eye(3)
                break
        turned = _rotation(_unit(rng.normal(size=3)), motion * math.radians(rng.normal(0, 8))) @ axes
        moved = centre + motion * size * rng.normal(0, 0.25, 3) * [1, 1, 0.3]
        frames = tuple(np.column_stack([size * a[:, :2], c]) for a, c in ((axes, centre), (turned, moved)))
        photograph = int(rng.integers(len(self._pyramids)))
        shape = _extent(self._pyramids[photograph])
        scale = radius * rng.uniform(0.9, 1.8)
        spin = scale * _rotation(np.array([0, 0, 1.0]), rng.normal(0, 0.3))[:2, :2]
        room = np.maximum(shape / 2 - scale, 0)
        texture = np.column_stack([spin, rng.uniform(-room, room)]) * 2 / shape[:, None]
        return _Patch(_outline(rng), (frames[0], frames[1]), texture, photograph)

    # ---- rendering and ground truth

    def _meet(self, scene: _Scene, view: int) -> tuple[Tensor, list[_Hit]]:
        """What the rays of one view meet: the ground (3, H, W), and each patch."""
        camera = scene.cameras[view]
        start = _meet_ground(camera, scene.relief, self._coarse) if scene.relief else None
        ground = _meet_ground(camera, scene.relief, self._pixels, start)
        hits = []
        for patch in scene.patches:
            rows, columns = _patch_bounds(patch, camera, view, self.height, self.width)
            if rows.stop - rows.start > 1 and columns.stop - columns.start > 1:
                box = slice(0, 3), rows, columns
                hits.append(_Hit(patch, box[1:], _meet_patch(patch, camera, view, self._pixels[box][:2])))
        return ground, hits

    def _render(self, scene: _Scene, ground: Tensor, hits: list[_Hit]) -> Tensor:
        """The view, (H, W) float32 grey levels."""
        image = _sample(self._pyramids[scene.photograph], _affine(scene.texture, ground))
        for hit in hits:
            content = _sample(self._pyramids[hit.patch.photograph], _affine(hit.patch.texture, hit.points))
            distance = hit.points[2]
            dx, dy = _steps(distance)
            coverage = (0.5 + distance / torch.hypot(dx, dy).clamp(min=1e-4)).clamp(0, 1)
            image[hit.box] += coverage * (content - image[hit.box])
        return image

    def _correspondence(
        self, scene: _Scene, ground: Tensor, hits: list[_Hit], ground1: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Flow (H, W, 2) from view 0 to view 1, and visibility (H, W)."""
        camera = scene.cameras[1]
        flow, in_front = _project(camera, ground)
        layer = torch.full((self.height, self.width), -1)
        for hit in hits:
            number = scene.patches.index(hit.patch)
            on_top = hit.points[2] > 0
            moved, ahead = _homography(_patch_to_pixel(hit.patch, camera, 1), hit.points[:2])
            rows, columns = hit.box
            flow[:, rows, columns] = torch.where(on_top, moved, flow[:, rows, columns])
            in_front[hit.box] = torch.where(on_top, ahead, in_front[hit.box])
            layer[hit.box] = torch.where(on_top, number, layer[hit.box])
        visible = in_front & self._inside(flow)
        for number, patch in enumerate(scene.patches):
            visible &= (layer >= number) | (_meet_patch(patch, camera, 1, flow)[2] <= 0)
        if scene.relief is not None:
            # A relief can hide itself: the ground seen at that position of view 1 must be the same ground.
            grid = torch.stack([flow[0] / (self.width - 1), flow[1] / (self.height - 1)], -1) * 2 - 1
            seen = F.grid_sample(ground1[None], grid[None], padding_mode="border", align_corners=True)[0]
            back, _ = _project(camera, torch.cat([seen[:2], scene.relief.at(seen[0], seen[1])[:1]]))
            visible &= (layer >= 0) | ((back - flow).square().sum(0) < SAME_POINT**2)
        return flow.permute(1, 2, 0).contiguous(), visible

    def _well_placed(self, scene: _Scene, on_photograph: float) -> bool:
        """Whether, on flat ground, the views overlap enough and this share of both is on the photograph."""
        for view in (0, 1):
            ground = _meet_ground(scene.cameras[view], None, self._coarse)
            inside = (_affine(scene.texture, ground).abs() <= 1).all(0)
            if inside.float().mean() < on_photograph:
                return False
            if view == 0:
                points, _ = _project(scene.cameras[1], ground)
                if self._inside(points).float().mean() < 1.5 * MIN_VISIBLE:
                    return False
        return True

    def _inside(self, points: Tensor) -> Tensor:
        x, y = points
        return (x >= 0) & (x <= self.width - 1) & (y >= 0) & (y <= self.height - 1)


# ---- geometry


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def _rotation(axis: np.ndarray, angle: float) -> np.ndarray:
    """Rodrigues' formula; `axis` has length 1."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


def _linear(matrix: np.ndarray, values: Tensor) -> Tensor:
    """`matrix` (M, N) times `values` (N, H, W)."""
    return (torch.from_numpy(matrix.astype(np.float32)) @ values.reshape(len(values), -1)).reshape(
        -1, *values.shape[1:]
    )


def _affine(matrix: np.ndarray, points: Tensor) -> Tensor:
    """`matrix` (2, 3) applied to the first two rows of `points`."""
    return (
        _linear(matrix[:, :2], points[:2]) + torch.from_numpy(matrix[:, 2].astype(np.float32))[:, None, None]
    )


def _homography(matrix: np.ndarray, points: Tensor) -> tuple[Tensor, Tensor]:
    """Points (2, H, W) through `matrix` (3, 3), and whether they stay in front of the camera."""
    mapped = _linear(matrix[:, :2], points) + torch.from_numpy(matrix[:, 2].astype(np.float32))[:, None, None]
    return _divide(mapped)


def _divide(mapped: Tensor) -> tuple[Tensor, Tensor]:
    in_front = mapped[2] > 1e-6
    return torch.where(in_front, mapped[:2] / mapped[2], FAR).clamp(-FAR, FAR), in_front


def _project(camera: _Camera, points: Tensor) -> tuple[Tensor, Tensor]:
    """World points (3, H, W) to pixels (2, H, W), and whether they lie in front of the camera."""
    centre = torch.from_numpy(camera.centre.astype(np.float32))[:, None, None]
    return _divide(_linear(camera.calibration @ camera.rotation, points - centre))


def _pixel_grid(height: int, width: int, step: int) -> Tensor:
    """Homogeneous pixels (3, h, w), about `step` apart, from the first to the last centre."""
    y, x = np.linspace(0, height - 1, height // step), np.linspace(0, width - 1, width // step)
    grid = np.broadcast_arrays(x, y[:, None], np.ones(1))
    return torch.from_numpy(np.stack(grid).astype(np.float32))


def _meet_ground(
    camera: _Camera, relief: _Relief | None, pixels: Tensor, start: Tensor | None = None
) -> Tensor:
    """World points (3, H, W) where the rays of homogeneous `pixels` (3, H, W) meet the ground.

    `start` is the result for a coarser grid over the same view; without it the search starts at Z = 0.
    """
    dx, dy, dz = _linear(camera.rotation.T @ np.linalg.inv(camera.calibration), pixels)
    cx, cy, cz = camera.centre.tolist()
    if relief is None:
        distance = -cz / dz
        return torch.stack([cx + distance * dx, cy + distance * dy, torch.zeros_like(dx)])
    if start is None:
        height, steps = torch.zeros_like(dz), 6
    else:
        height = F.interpolate(start[None, 2:], dz.shape, mode="bilinear", align_corners=True)[0, 0]
        steps = 1
    distance = (height - cz) / dz
    for _ in range(steps):  # Newton; the slope is bounded where a ray grazes the ground or meets it twice
        z, zx, zy = relief.at(cx + distance * dx, cy + distance * dy)
        slope = torch.maximum(dz - zx * dx - zy * dy, 0.25 * dz)
        distance = distance - (cz + distance * dz - z) / slope
    x, y = cx + distance * dx, cy + distance * dy
    # Z from the relief, not from the ray: the point is on the ground however well the ray converged.
    return torch.stack([x, y, relief.at(x, y)[0]])


def _patch_to_pixel(patch: _Patch, camera: _Camera, view: int) -> np.ndarray:
    """(3, 3): patch coordinates (a, b, 1) to homogeneous pixels, scaled by depth."""
    frame = patch.frames[view] - np.outer(camera.centre, [0, 0, 1])
    return camera.calibration @ camera.rotation @ frame


def _patch_bounds(patch: _Patch, camera: _Camera, view: int, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of the view that may show the patch."""
    corners = torch.tensor([[-1, 1, 1, -1], [-1, -1, 1, 1]])[:, None] * OUTLINE
    (x, y), in_front = _homography(_patch_to_pixel(patch, camera, view), corners)
    if not in_front.all():
        return slice(0, height), slice(0, width)
    left, top = max(0, math.floor(x.min())), max(0, math.floor(y.min()))
    right, bottom = min(width, math.ceil(x.max()) + 1), min(height, math.ceil(y.max()) + 1)
    return slice(top, max(top, bottom)), slice(left, max(left, right))


def _meet_patch(patch: _Patch, camera: _Camera, view: int, points: Tensor) -> Tensor:
    """(3, H, W): patch coordinates a, b behind pixels (2, H, W), and the distance to the outline there."""
    inverse = np.linalg.inv(_patch_to_pixel(patch, camera, view))
    ab, in_front = _homography(inverse, points)
    grid = (ab / OUTLINE).permute(1, 2, 0)[None]
    distance = F.grid_sample(patch.outline, grid, padding_mode="border", align_corners=True)[0, 0]
    return torch.cat([ab, torch.where(in_front, distance, -1.0)[None]])


# ---- shapes


def _smooth_noise(rng: np.random.Generator, cells: int, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) float32 noise of unit variance at its `cells` × `cells` nodes, cubic in between."""
    nodes = torch.from_numpy(rng.standard_normal((1, 1, cells, cells), dtype=np.float32))
    return F.interpolate(nodes, shape, mode="bicubic", align_corners=True)[0, 0].numpy()


def _relief(rng: np.random.Generator, cameras: tuple[_Camera, _Camera], seen: list[Tensor]) -> _Relief:
    """Smooth hills, sometimes a fold, over the flat ground (3, h, w) that each camera sees.

    Slopes stay below what the most slanted rays climb, so that little of the relief hides itself.
    """
    x, y = (torch.cat([ground[axis].flatten() for ground in seen]) for axis in (0, 1))
    centre = np.array([float(x.min() + x.max()) / 2, float(y.min() + y.max()) / 2])
    half = float(max(x.max() - x.min(), y.max() - y.min())) / 2
    steepest = max(
        float(torch.hypot(ground[0] - c.centre[0], ground[1] - c.centre[1]).quantile(0.95) / -c.centre[2])
        for c, ground in zip(cameras, seen, strict=True)
    )
    n = 96
    height = _smooth_noise(rng, int(rng.integers(3, 8)), (n, n))
    height = height + rng.uniform(0, 0.3) * _smooth_noise(rng, int(rng.integers(8, 14)), (n, n))
    if rng.random() < 0.35:
        across, along = np.mgrid[-1 : 1 : n * 1j, -1 : 1 : n * 1j]
        angle = rng.uniform(0, 2 * math.pi)
        fold = np.abs(math.cos(angle) * along + math.sin(angle) * across - rng.uniform(-0.3, 0.3))
        height = rng.uniform(0.1, 0.5) * height + rng.choice([-4, 4]) * fold
    cell = 2 * half / (n - 1)
    slope = max(np.abs(axis).max() for axis in np.gradient(height, cell))
    height = height * (rng.uniform(0.2, 1) * min(1.0, 0.9 / steepest) / slope)
    down, right = np.gradient(height, cell)
    grid = np.stack([height, right, down]).astype(np.float32)
    return _Relief(torch.from_numpy(grid)[None], centre, half)


def _outline(rng: np.random.Generator) -> Tensor:
    """An ellipse, convex polygon, blob, or foliage of separate pieces: (1, 1, n, n), positive inside."""
    y, x = np.mgrid[-OUTLINE:OUTLINE:64j, -OUTLINE:OUTLINE:64j]
    radius = np.hypot(x, y)
    kind = rng.choice(["ellipse", "polygon", "blob", "foliage"], p=[0.15, 0.4, 0.25, 0.2])
    if kind == "ellipse":
        distance = 1 - np.hypot(x, y / rng.uniform(0.3, 1))
    elif kind == "polygon":
        angles = rng.uniform(0, 2 * math.pi) + np.sort(rng.uniform(0, 2 * math.pi, rng.integers(3, 8)))
        offsets = rng.uniform(0.3, 0.95, (len(angles), 1, 1))
        sides = offsets - np.cos(angles)[:, None, None] * x - np.sin(angles)[:, None, None] * y
        distance = np.minimum(sides.min(0), 1 - radius)
    elif kind == "blob":
        angle = np.arctan2(y, x)
        waves = [rng.normal(0, 0.3 / k) * np.cos(k * angle + rng.uniform(0, 6.3)) for k in range(1, 6)]
        distance = np.minimum(0.65 + sum(waves) - radius, 1 - radius)
    else:
        distance = np.minimum(0.15 * _smooth_noise(rng, int(rng.integers(6, 14)), x.shape), 1 - radius)
    return torch.from_numpy(distance.astype(np.float32))[None, None]


# ---- images


def _pyramid(path: Path, longest: int) -> list[Tensor]:
    """Four grey levels (1, h, w) uint8, each half the size of the one before."""
    try:
        with Image.open(path) as image:
            image.draft("L", (longest, longest))
            grey = ImageOps.exif_transpose(image).convert("L")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: not a readable photograph ({error}); remove it from the list.") from error
    grey.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    # Sides divisible by 8: halving then keeps the corners of all levels at the same place.
    levels = [
        grey.resize((max(8, grey.width // 8 * 8), max(8, grey.height // 8 * 8)), Image.Resampling.LANCZOS)
    ]
    for _ in range(3):
        levels.append(levels[-1].reduce(2))
    return [torch.from_numpy(np.array(level))[None] for level in levels]


def _extent(pyramid: list[Tensor]) -> np.ndarray:
    """Width and height in pixels."""
    return np.array(pyramid[0].shape[:0:-1], dtype=float)


def _steps(values: Tensor) -> tuple[Tensor, Tensor]:
    """Differences to the next column and row of (..., H, W), the last one repeated."""
    dx, dy = values.diff(dim=-1), values.diff(dim=-2)
    return torch.cat([dx, dx[..., -1:]], -1), torch.cat([dy, dy[..., -1:, :]], -2)


def _sample(pyramid: list[Tensor], points: Tensor) -> Tensor:
    """The photograph, mirrored at its borders, at `points` (2, H, W) of its [-1, 1]²: (H, W) float32.

    Without aliasing: a pixel is one tap, or in views with wide pixels the mean of 2×2, which follow the
    foreshortening, from the pyramid levels that suit its scale.
    """
    height, width = pyramid[0].shape[1:]
    dx, dy = _steps(points)
    pixels = torch.tensor([width, height])[:, None, None] / 2
    steps = torch.stack([dx[:, ::8, ::8], dy[:, ::8, ::8]]) * pixels
    single = bool(steps.square().sum(1).amax(0).median() < 1.5**2)
    taps = [points] if single else [points + (i * dx + j * dy) / 4 for i in (-1, 1) for j in (-1, 1)]
    area = (dx[0] * dy[1] - dx[1] * dy[0]).abs() * (height * width / 4)  # photograph pixels in a pixel
    sharp = 2**0.5 if single else 2**2.5  # areas the photograph itself serves; a level serves 4 times more
    if float(area.max()) <= sharp:
        return _taps(pyramid[0], taps)
    level = (0.5 * torch.log2(area.clamp(min=sharp) / sharp)).clamp(max=len(pyramid) - 1)
    image = torch.zeros_like(level)
    for number in range(int(level.min()), math.ceil(float(level.max())) + 1):
        image += (1 - (level - number).abs()).clamp(min=0) * _taps(pyramid[number], taps)
    return image


def _taps(texture: Tensor, taps: list[Tensor]) -> Tensor:
    """The mean of bilinear samples of `texture` (1, h, w) at each of `taps` (2, H, W)."""
    source = texture.float()[None]
    grids = (tap.clamp(-9, 9).permute(1, 2, 0)[None] for tap in taps)
    values = [F.grid_sample(source, g, padding_mode="reflection", align_corners=False)[0, 0] for g in grids]
    return values[0] if len(values) == 1 else (values[0] + values[1] + values[2] + values[3]) / 4


def _photometric(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """One camera's exposure, light, lens, sensor and file: (H, W) float32 grey levels in and out."""
    shape = image.shape
    image = np.clip(image / 255, 0, 1)
    if rng.random() < 0.5:  # uneven light
        image = image * np.exp(rng.uniform(0, 0.35) * _smooth_noise(rng, int(rng.integers(2, 5)), shape))
    if rng.random() < 0.2:  # a cast shadow, or a patch of sun
        edge = _smooth_noise(rng, int(rng.integers(3, 6)), shape) * rng.uniform(4, 40)
        image = image * (1 + rng.uniform(-0.6, 0.4) / (1 + np.exp(-edge.clip(-30, 30))))
    if rng.random() < 0.1:  # glare or a spot on the lens
        y, x = np.ogrid[: shape[0], : shape[1]]
        squared = (y - rng.uniform(0, shape[0])) ** 2 + (x - rng.uniform(0, shape[1])) ** 2
        spot = np.exp(-squared / (2 * (rng.uniform(0.04, 0.15) * min(shape)) ** 2)).astype(np.float32)
        image = image + spot * rng.uniform(0.3, 0.9) * (rng.choice([0.0, 1.0], p=[0.4, 0.6]) - image)
    strength = 2.0 if rng.random() < 0.15 else 1.0
    image = np.maximum(image, 0) ** np.float32(math.exp(strength * rng.normal(0, 0.25)))
    mean = float(image.mean())
    contrast, exposure = np.exp(strength * rng.normal(0, [0.17, 0.15])).tolist()
    exposure = min(exposure, 0.75 / max(mean, 0.01))  # a photographer does not burn most of the picture out
    image = (image - mean) * contrast + mean * exposure
    if rng.random() < 0.4:
        image = _blur(image, rng.uniform(0.3, 1.4))
    if rng.random() < 0.8:
        noise = rng.standard_normal(shape, dtype=np.float32)
        image = image + rng.exponential(0.012) * noise
    image = np.clip(image, 0, 1) * 255
    if rng.random() < 0.35:
        file = io.BytesIO()
        Image.fromarray(image.astype(np.uint8)).save(file, "JPEG", quality=int(rng.integers(25, 95)))
        with Image.open(file) as decoded:
            image = np.asarray(decoded, dtype=np.float32)
    return image


def _blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur with mirrored borders."""
    reach = math.ceil(3 * sigma)
    kernel = torch.exp(-torch.arange(-reach, reach + 1).float().square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum())[None, None, None]
    blurred = F.pad(torch.from_numpy(image.astype(np.float32))[None, None], [reach] * 4, mode="reflect")
    return F.conv2d(F.conv2d(blurred, kernel), kernel.mT)[0, 0].numpy()
