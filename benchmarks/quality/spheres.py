"""Photographs of the drawn courtyard by lenses that are no pinholes: panoramas and fisheyes.

The scene is drawn by `pipeline.demo.raycaster` on the six sides of a cube around the camera, and
every pixel takes its colour from there. Places and cameras are known exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.demo.courtyard import courtyard
from pipeline.demo.raycaster import Scene, Surface, render
from pipeline.demo.truth import DemoTruth, Pose
from pipeline.photos.panoramas.render import sampled
from pipeline.photos.panoramas.sphere import Panorama

WIDER = 1.02  # of a side of the cube than 90 degrees, so that no sample lies at its edge
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    b'xmlns:GPano="http://ns.google.com/photos/1.0/panorama/" '
    b'GPano:ProjectionType="equirectangular"%s/></rdf:RDF></x:xmpmeta>'
)
NUMBERS = (
    *("FullPanoWidthPixels", "FullPanoHeightPixels", "CroppedAreaLeftPixels"),
    *("CroppedAreaTopPixels", "CroppedAreaImageWidthPixels", "CroppedAreaImageHeightPixels"),
)


def gpano(**numbers: float) -> bytes:
    """The XMP of a panorama, with some numbers of its part, by NUMBERS."""
    assert numbers.keys() <= {*NUMBERS}
    return XMP % b"".join(b' GPano:%s="%d"' % (k.encode(), v) for k, v in numbers.items())


def cube_sides() -> list[np.ndarray]:
    """Rotations (3, 3) from the camera's frame to that of each side of a cube around it."""
    sides = []
    for angle in np.radians([0, 90, 180, 270]):
        cosine, sine = np.cos(angle), np.sin(angle)
        sides.append(np.array([[cosine, 0, -sine], [0, 1, 0], [sine, 0, cosine]]))
    for sign in (1.0, -1.0):
        sides.append(np.array([[1, 0, 0], [0, 0, -sign], [0, sign, 0]]))
    return sides


def photograph(scene: Scene, pose: Pose, directions: np.ndarray, fine: float) -> np.ndarray:
    """What a camera sees in given directions.

    pose: R, t from world to camera. directions: (h, w, 3) in its frame, NaN for pixels that see
    nothing and stay black. fine: pixels a radian in the middle of a side of the cube.
    """
    shape = directions.shape[:2]
    ways = directions.reshape(-1, 3)
    side = int(np.ceil(2 * fine * WIDER / 32)) * 32
    focal = side / 2 / WIDER
    K = np.array([[focal, 0, (side - 1) / 2], [0, focal, (side - 1) / 2], [0, 0, 1]])
    picture = np.zeros((len(ways), 3), np.uint8)
    turns = cube_sides()
    with np.errstate(invalid="ignore"):
        nearest = np.argmax([np.nan_to_num(ways @ turn[2], nan=-2) for turn in turns], axis=0)
    for number, turn in enumerate(turns):
        mine = (nearest == number) & np.isfinite(ways[:, 0])
        if not mine.any():
            continue
        image, _ = render(scene, K, turn @ pose[0], turn @ pose[1], (side, side))
        seen = ways[mine] @ turn.T
        picture[mine] = sampled(image, seen[:, :2] / seen[:, 2:] * focal + (side - 1) / 2)
    return picture.reshape(*shape, 3)


def pixel_grid(width: int, height: int) -> np.ndarray:
    """Centres of all pixels, (height · width, 2) as x, y."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).reshape(-1, 2)


def panorama(scene: Scene, pose: Pose, width: int) -> np.ndarray:
    """An equirectangular photograph, (width / 2, width, 3) uint8."""
    whole = Panorama("", width, width // 2, width, width // 2)
    directions = whole.directions(pixel_grid(width, width // 2)).reshape(width // 2, width, 3)
    return photograph(scene, pose, directions, width / (2 * np.pi))


def fisheye_directions(
    size: int, focal: float, distortion: tuple[float, float] = (0.0, 0.0), half: float = 90.0
) -> np.ndarray:
    """Directions (size, size, 3) of an equidistant fisheye, as COLMAP's RADIAL_FISHEYE.

    half: degrees from the axis that it sees. Beyond, directions are NaN.
    """
    xy = (pixel_grid(size, size) - (size - 1) / 2) / focal
    radius = np.linalg.norm(xy, axis=1)
    theta = radius.copy()
    for _ in range(20):  # radius = theta · (1 + k1 theta² + k2 theta⁴)
        square = theta**2
        theta = radius / (1 + distortion[0] * square + distortion[1] * square**2)
    theta[theta > np.radians(half)] = np.nan
    flat = np.where(radius > 0, np.sin(theta) / np.maximum(radius, 1e-12), 0)
    ways = np.column_stack([xy * flat[:, None], np.cos(theta)])
    return ways.reshape(size, size, 3)


def room(seed: int = 0, texels: int = 256) -> Scene:
    """A closed room of 8 by 8 by 4 metres with blots on its walls. It is drawn in moments."""
    rng = np.random.default_rng(seed)
    low, high = np.array([-4.0, -4.0, 0.0]), np.array([4.0, 4.0, 4.0])
    surfaces, textures = list[Surface](), list[np.ndarray]()
    for axis in range(3):
        for side in (low, high):
            right, down = (np.zeros(3) for _ in range(2))
            first, second = (k for k in range(3) if k != axis)
            right[first], down[second] = (high - low)[first], (high - low)[second]
            origin = low.copy()
            origin[axis] = side[axis]
            surfaces.append(Surface(origin, right, down, len(textures)))
            blots = [
                np.kron(rng.uniform(0, 1, (texels // size,) * 2), np.ones((size, size)))
                for size in (4, 16, 64)
            ]
            textures.append((255 * np.mean(blots, axis=0)).astype(np.uint8)[..., None].repeat(3, 2))
    return Scene(surfaces, textures)


def places(count: int) -> list[Pose]:
    """Upright cameras on a path through the courtyard, each turned another way about the vertical.

    They tilt by up to two degrees.
    """
    poses = []
    for k in range(count):
        x = -2.4 + 4.8 * k / max(count - 1, 1)
        centre = np.array([x, -2.2 + 0.9 * np.sin(1.7 * k), 1.6 + 0.12 * np.cos(2.3 * k)])
        yaw, tilt, roll = 1.3 * k, np.radians(2) * np.sin(2.9 * k), np.radians(2) * np.cos(1.3 * k)
        ahead = np.array([np.sin(yaw), np.cos(yaw), 0])
        right = np.array([np.cos(yaw), -np.sin(yaw), 0])
        upright = np.stack([right, [0, 0, -1], ahead])
        cosine, sine = np.cos(tilt), np.sin(tilt)
        nod = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
        cosine, sine = np.cos(roll), np.sin(roll)
        lean = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
        R = lean @ nod @ upright
        poses.append((R, -R @ centre))
    return poses


def write_photographs(
    folder: Path,
    poses: list[Pose],
    size: tuple[int, int],
    draw: Callable[[Scene, Pose], np.ndarray],
    xmp: bytes | None = None,
    prefix: str = "pano",
    scene: Scene | None = None,
) -> DemoTruth:
    """Draw a photograph at every pose and write it; returns the truth.

    size: of the photographs. xmp: of their files. scene: None for the courtyard.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scene = scene or courtyard(np.random.default_rng(0), texels_per_metre=170)
    names = [f"{prefix}_{k:02}.jpg" for k in range(len(poses))]
    for name, pose in zip(names, poses, strict=True):
        picture = Image.fromarray(draw(scene, pose))
        picture.save(folder / name, quality=95, subsampling=0, xmp=xmp or b"")
    return DemoTruth(folder, size, {}, dict(zip(names, poses, strict=True)))


def write_panoramas(
    folder: Path, count: int, width: int = 2048, scene: Scene | None = None
) -> DemoTruth:
    """Panoramas of the courtyard that say in their XMP what they are."""

    def draw(scene: Scene, pose: Pose) -> np.ndarray:
        return panorama(scene, pose, width)

    return write_photographs(folder, places(count), (width, width // 2), draw, gpano(), scene=scene)


def panorama_poses(model: Any) -> dict[str, Pose]:
    """The poses of the panoramas of a `pycolmap.Reconstruction`, by their files.

    The frame of a panorama is that of its face at 0 degrees.
    """
    poses = {}
    for number in model.reg_image_ids():
        image = model.images[number]
        file, _, face = image.name.rpartition("/")
        if face == "yaw000_pitch00.png":
            pose = image.cam_from_world()
            poses[file] = (pose.rotation.matrix(), pose.translation)
    return poses


def write_fisheyes(
    folder: Path,
    poses: list[Pose],
    size: int,
    distortion: tuple[float, float] = (0.0, 0.0),
    scene: Scene | None = None,
) -> tuple[DemoTruth, str]:
    """Fisheyes of 180 degrees, and their camera as `--intrinsics` takes it."""
    focal = size / np.pi
    directions = fisheye_directions(size, focal, distortion)

    def draw(scene: Scene, pose: Pose) -> np.ndarray:
        return photograph(scene, pose, directions, focal)

    truth = write_photographs(folder, poses, (size, size), draw, prefix="fisheye", scene=scene)
    numbers = [focal, size / 2, size / 2, *distortion]
    return truth, f"RADIAL_FISHEYE:{','.join(f'{number:.6f}' for number in numbers)}"
