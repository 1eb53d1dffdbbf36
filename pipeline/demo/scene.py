"""The demo scene: photographs of a courtyard that does not exist, with known cameras.

A folder made by `make_demo_scene` holds `images/view_00.jpg` … and `truth.json` with K, R, t of
each view: world to camera, in metres, pixel centres at integers. Nothing else belongs there.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.demo import textures
from pipeline.demo.lighting import bake_light
from pipeline.demo.raycaster import Region, Scene, Surface, box, column, look_at, render
from pipeline.demo.truth import DemoTruth, Pose

VERSION = 1  # of the pictures: a cached folder of another version is made again
FOCAL_35MM = 30  # mm, of the lens that has the same diagonal angle of view on 36 × 24 mm film
FOCAL = 20  # mm, of the lens that the EXIF block describes
Point = tuple[float, float, float]

Paint = Callable[[tuple[int, int], float], np.ndarray]


def make_demo_scene(
    folder: str | Path, views: int = 12, size: tuple[int, int] = (640, 480), seed: int = 0
) -> DemoTruth:
    """Photograph the courtyard from `views` places on an arc, or reuse the pictures that are there
    already.

    size: width and height in pixels. The folder appears whole or not at all. Raises ValueError for
    fewer than 2 views, a size under 32 pixels, or a folder that holds anything else than a demo
    scene.
    """
    folder = Path(folder)
    if views < 2 or min(size) < 32:
        raise ValueError(
            f"{views} views of {size[0]}×{size[1]}: at least 2 views of 32×32 are needed."
        )
    options = {"version": VERSION, "views": views, "size": list(size), "seed": seed}
    if folder.exists():
        record, present = _existing(folder)
        if record.get("options") == options and present == set(record["views"]):
            return _truth(folder, record)

    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        record = {"options": options, "views": _photograph(partial / "images", views, size, seed)}
        (partial / "truth.json").write_text(json.dumps(record, indent=1))
        partial.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return _truth(folder, record)


def _existing(folder: Path) -> tuple[dict[str, Any], set[str]]:
    """The record of a demo scene and the names of its pictures; empty for an empty folder.

    Raises ValueError where anything in the folder is not ours: a folder made again is deleted
    first.
    """
    try:
        if not any(folder.iterdir()):
            return {}, set()
        record = json.loads((folder / "truth.json").read_text())
        present = {entry.name for entry in (folder / "images").iterdir()}
        ours = {entry.name for entry in folder.iterdir()} == {"images", "truth.json"}
        ours = ours and "version" in record["options"] and present <= set(record["views"])
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise ValueError(
            f"{folder} holds something else than a demo scene; give an empty or a new folder."
        )
    return record, present


def _truth(folder: Path, record: dict[str, Any]) -> DemoTruth:
    views = {
        name: {k: np.array(view[k]) for k in ("K", "R", "t")}
        for name, view in record["views"].items()
    }
    width, height = record["options"]["size"]
    return DemoTruth(
        folder / "images",
        (width, height),
        {name: view["K"] for name, view in views.items()},
        {name: (view["R"], view["t"]) for name, view in views.items()},
    )


def _photograph(
    folder: Path, views: int, size: tuple[int, int], seed: int
) -> dict[str, dict[str, Any]]:
    """Write all views; returns name → K, R, t as lists."""
    folder.mkdir()
    width, height = size
    focal = FOCAL_35MM * np.hypot(width, height) / np.hypot(36, 24)
    K = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    scene = courtyard(np.random.default_rng(seed), texels_per_metre=170 * width / 640)
    record = {}
    for k, (R, t) in enumerate(cameras(views)):
        rng = np.random.default_rng([seed, k])
        image, _ = render(scene, K, R, t, (height, width))
        exposure = np.exp(0.04 * rng.standard_normal() + 0.01 * rng.standard_normal(3))
        noisy = image * exposure + rng.normal(0, 1.5, image.shape)
        picture = Image.fromarray(np.clip(noisy + 0.5, 0, 255).astype(np.uint8))
        name = f"view_{k:02d}.jpg"
        picture.save(folder / name, quality=92, exif=_exif(size, focal))
        record[name] = {"K": K.tolist(), "R": R.tolist(), "t": t.tolist()}
    return record


def _exif(size: tuple[int, int], focal: float) -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Demo", "Ray-cast pinhole"  # Make, Model
    exif[0x0112] = 1  # Orientation
    lens = exif.get_ifd(0x8769)
    lens[0x920A] = float(FOCAL)  # FocalLength
    lens[0xA405] = FOCAL_35MM  # FocalLengthIn35mmFilm
    lens[0xA002], lens[0xA003] = size  # ExifImageWidth, ExifImageHeight
    lens[0xA20E] = lens[0xA20F] = 10 * focal / FOCAL  # FocalPlaneX/YResolution, pixels per…
    lens[0xA210] = 3  # …FocalPlaneResolutionUnit: centimetre
    return exif


def cameras(views: int) -> list[Pose]:
    """Cameras on an arc of 72° around the courtyard's middle, height and distance changing, level
    to ±2°.
    """
    poses = []
    for k, turn in enumerate(np.radians(np.linspace(-38, 34, views))):
        distance = 5.6 + 0.5 * np.sin(1.9 * k)
        centre = (
            distance * np.sin(turn),
            1.6 - distance * np.cos(turn),
            1.65 + 0.35 * np.sin(2.4 * k + 1),
        )
        R, t = look_at(centre, (0.25 * np.sin(1.3 * k), 1.6, 1.05 + 0.1 * np.cos(1.7 * k)))
        roll = np.radians(2.0 * np.sin(2.9 * k))
        tilt = np.array(
            [[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]]
        )
        poses.append((tilt @ R, tilt @ t))
    return poses


def courtyard(rng: np.random.Generator, texels_per_metre: float) -> Scene:
    """A paved yard before a crumbling wall with a door and a window, and things standing about in
    it.
    """
    yard = _Yard(texels_per_metre)
    brick, coat, wood, paint = (
        (0.55, 0.31, 0.23),
        (0.82, 0.74, 0.60),
        (0.50, 0.36, 0.24),
        (0.26, 0.40, 0.40),
    )
    grey, green, white, blue = (
        (0.58, 0.56, 0.52),
        (0.20, 0.31, 0.13),
        (0.85, 0.80, 0.66),
        (0.24, 0.34, 0.45),
    )
    # each paints a shape s at d texels a metre
    paving = yard.texture(
        10, 8.8, lambda s, d: textures.stones(s, rng, 0.36 * d, (0.60, 0.57, 0.52), 0.06), 0.85
    )
    grass = yard.texture(
        15, 12.5, lambda s, d: textures.leaves(s, rng, green, 0.12 * d, 0.7 * d), 0.25
    )
    wall = yard.texture(
        9, 3.4, lambda s, d: textures.crumbling(s, rng, 0.085 * d, brick, coat), 0.7
    )
    rubble = yard.texture(
        8, 6, lambda s, d: textures.stones(s, rng, 0.24 * d, (0.62, 0.56, 0.46), 0.09), 0.7
    )
    boards = yard.texture(4.5, 4.5, lambda s, d: textures.planks(s, rng, 0.15 * d, wood))
    staves = yard.texture(
        6, 2.4, lambda s, d: textures.planks(s, rng, 0.16 * d, paint, upright=True), 0.7
    )
    hedge = yard.texture(
        5,
        4.5,
        lambda s, d: textures.leaves(s, rng, (0.24, 0.36, 0.15), 0.03 * d, 0.12 * d, 0.3),
        0.7,
    )
    block = yard.texture(9.5, 3, lambda s, d: textures.plaster(s, rng, grey))
    notice = yard.texture(
        0.9, 1.3, lambda s, d: textures.painted(s, rng, white, (0.55, 0.14, 0.1), 0.13 * d)
    )
    poster = yard.texture(
        1.2, 0.85, lambda s, d: textures.painted(s, rng, blue, (0.85, 0.65, 0.25), 0.16 * d)
    )
    mural = yard.texture(
        0.9, 1.2, lambda s, d: textures.leaves(s, rng, grey, 0.02 * d, 0.25 * d, 0.4), 0.8
    )
    tower = yard.texture(
        15, 7.5, lambda s, d: textures.bricks(s, rng, 0.16 * d, (0.62, 0.50, 0.42)), 0.5
    )
    house = yard.texture(
        12.5, 5, lambda s, d: textures.crumbling(s, rng, 0.15 * d, brick, (0.7, 0.66, 0.6)), 0.5
    )
    trees = yard.texture(
        12.5,
        5,
        lambda s, d: textures.leaves(s, rng, (0.27, 0.40, 0.18), 0.1 * d, 0.6 * d, 0.35),
        0.35,
    )

    yard.panel((-5.6, 4.3, 0), (10, 0, 0), (0, -8.8, 0), paving)
    yard.panel((-8, 8.5, -0.04), (15, 0, 0), (0, -12.5, 0), grass)
    for left, right, foot, top in (  # the wall around its door and window
        (-5.0, -3.1, 0.0, 3.4),
        (-3.1, -1.9, 0.0, 1.1),
        (-3.1, -1.9, 2.3, 3.4),
        (-1.9, 0.3, 0.0, 3.4),
        (0.3, 1.4, 2.15, 3.4),
        (1.4, 4.0, 0.0, 3.4),
    ):
        region = ((left + 5) / 9, (3.4 - top) / 3.4, (right - left) / 9, (top - foot) / 3.4)
        yard.panel((left, 4.2, top), (right - left, 0, 0), (0, 0, foot - top), wall, region)
    # these, 30 cm deep
    for left, right, foot, top in ((0.3, 1.4, 0.0, 2.15), (-3.1, -1.9, 1.1, 2.3)):
        yard.panel((left, 4.5, top), (right - left, 0, 0), (0, 0, foot - top), staves)
        yard.panel((left, 4.2, top), (0, 0.3, 0), (0, 0, foot - top), rubble)
        yard.panel((right, 4.5, top), (0, -0.3, 0), (0, 0, foot - top), rubble)
        yard.panel((left, 4.2, top), (right - left, 0, 0), (0, 0.3, 0), boards)
        yard.panel((left, 4.5, foot), (right - left, 0, 0), (0, -0.3, 0), block)
    yard.box((-0.5, 4.5, 3.4), (9.2, 0.7, 0.14), block)  # coping
    for x in (-4.4, -3.3, -1.5, -0.4, 2.1, 3.2):
        yard.box((x, 3.95, 2.85 + 0.05 * np.sin(7 * x)), (0.13, 0.55, 0.15), boards)
    yard.box((0.85, 3.68, 2.42), (1.9, 1.05, 0.06), boards, lean=-16)  # canopy over the door
    yard.box((0.85, 3.9, 0), (1.8, 0.6, 0.16), block)
    yard.box((0.85, 3.45, 0), (2.1, 0.5, 0.08), block)
    yard.box((-0.85, 4.19, 1.15), (0.9, 0.02, 1.2), mural)
    yard.box((4.2, 1.85, 0), (0.4, 4.7, 2.2), rubble)
    yard.box((3.985, 1.5, 0.9), (0.03, 1.2, 0.85), poster)
    yard.box((-4.3, 1.7, 0), (0.4, 5.0, 0.85), rubble)
    yard.box((-5.1, 1.7, 0), (1.0, 5.0, 1.7), hedge)
    yard.box((-1.7, 2.45, 0), (0.85, 0.85, 0.85), boards, turn=24)
    yard.box((-2.65, 2.9, 0), (0.75, 0.75, 0.75), boards, turn=-14)
    yard.box((-1.75, 2.5, 0.85), (0.6, 0.6, 0.55), staves, turn=52)
    yard.box((2.35, 3.72, 0), (0.9, 0.05, 1.3), notice, turn=-4, lean=16)
    yard.box((-1.3, 0.3, 0), (0.62, 0.62, 0.3), block, turn=12)
    yard.column((-1.3, 0.3, 0.3), 0.19, 1.45, block, block)
    yard.box((-1.3, 0.3, 1.75), (0.5, 0.5, 0.14), block, turn=12)
    yard.column((1.55, 1.1, 0), 0.72, 0.62, rubble, boards)  # a covered well
    yard.column((1.75, 1.2, 0.62), 0.16, 0.32, staves, boards)
    yard.column((3.3, 2.9, 0), 0.36, 0.95, boards, boards)
    yard.box((0.25, 2.6, 0), (0.5, 0.35, 0.3), rubble, turn=-35)
    yard.panel((-8, 8.5, 7.5), (15, 0, 0), (0, 0, -7.5), tower)
    yard.panel((-8, -4, 5), (0, 12.5, 0), (0, 0, -5), trees)
    yard.panel((7, 8.5, 5), (0, -12.5, 0), (0, 0, -5), house)
    light = bake_light(yard.surfaces, (-0.62, -0.55, 0.80), rng, spacing=10 / texels_per_metre)
    return Scene(yard.surfaces, yard.textures, light)


class _Yard:
    """Surfaces and their textures, all sizes in metres."""

    def __init__(self, texels_per_metre: float) -> None:
        self.density = texels_per_metre
        self.textures: list[np.ndarray] = []
        self.extents: list[tuple[float, float]] = []
        # where the next crop begins, height of its row
        self.used: list[tuple[float, float, float]] = []
        self.surfaces: list[Surface] = []

    def texture(self, width: float, height: float, paint: Paint, sharpness: float = 1.0) -> int:
        """Paint width × height metres by `paint(shape, texels per metre)`; far walls need less
        sharpness.
        """
        density = self.density * sharpness
        shape = max(8, round(height * density)), max(8, round(width * density))
        self.textures.append(paint(shape, density))
        self.extents.append((width, height))
        self.used.append((0.0, 0.0, 0.0))
        return len(self.textures) - 1

    def crop(self, texture: int, width: float, height: float) -> Region:
        """The next part of a texture, as large as the face: no two faces look alike until all of it
        is used.

        Laid out in rows. A face larger than its texture gets all of it, stretched.
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
        u, v = np.array(right, float), np.array(down, float)
        region = region or self.crop(texture, float(np.linalg.norm(u)), float(np.linalg.norm(v)))
        self.surfaces.append(Surface(np.array(origin, float), u, v, texture, region))

    def box(
        self, foot: Point, size: Point, texture: int, turn: float = 0.0, lean: float = 0.0
    ) -> None:
        """A box with the middle of its foot at `foot`; degrees about the vertical, and leaning
        backwards.
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
        around = self.crop(side, 2 * np.pi * radius, height)
        across = self.crop(cap, 2 * radius, 2 * radius)
        self.surfaces += column(np.array(foot, float), radius, height, side, around, cap, across)
