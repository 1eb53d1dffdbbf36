"""The demo scene: photographs of a courtyard that does not exist, with known cameras.

A folder made by `make_demo_scene` holds `images/view_00.jpg` … and `truth.json`, with K, R and t of
each view: from world to camera, in metres, with pixel centres at integers. It holds nothing else.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.demo.courtyard import courtyard
from pipeline.demo.raycaster import render
from pipeline.demo.truth import DemoTruth, Pose
from pipeline.errors import ArgumentError

SCENE_VERSION = 1  # of the pictures; a folder of another version is made again
FOCAL_35MM = 30  # mm, of the lens that has the same diagonal angle of view on 36 × 24 mm film
FOCAL = 20  # mm, of the lens that the EXIF block describes


def make_demo_scene(
    folder: str | Path, views: int = 12, size: tuple[int, int] = (640, 480), seed: int = 0
) -> DemoTruth:
    """Photograph the courtyard from `views` places on an arc, or reuse the pictures in the folder.

    size: width and height in pixels. The folder appears whole or not at all.
    Raises ArgumentError for fewer than 2 views, a size under 32 pixels, and a folder that holds
    anything else than a demo scene.
    """
    folder = Path(folder)
    if views < 2 or min(size) < 32:
        raise ArgumentError(
            f"{views} views of {size[0]}×{size[1]}: at least 2 views of 32×32 are needed."
        )
    options = {"version": SCENE_VERSION, "views": views, "size": list(size), "seed": seed}
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
    """The record of a demo scene and the names of its pictures; both empty for an empty folder.

    Raises ArgumentError where something in the folder is not of a demo scene, because the folder
    is deleted before the scene is made again.
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
        raise ArgumentError(
            f"{folder} holds something else than a demo scene; give an empty or a new folder."
        )
    return record, present


def _truth(folder: Path, record: dict[str, Any]) -> DemoTruth:
    """The truth from the record in truth.json."""
    views = {
        name: {k: np.array(view[k]) for k in ("K", "R", "t")}
        for name, view in record["views"].items()
    }
    width, height = record["options"]["size"]
    return DemoTruth(
        images=folder / "images",
        size=(width, height),
        K={name: view["K"] for name, view in views.items()},
        poses={name: (view["R"], view["t"]) for name, view in views.items()},
    )


def _photograph(
    folder: Path, views: int, size: tuple[int, int], seed: int
) -> dict[str, dict[str, Any]]:
    """Render and write all views; returns name → K, R, t as lists."""
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
    """EXIF data of a view. size: width, height. focal: focal length in pixels."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Demo", "Ray-cast pinhole"  # Make, Model
    exif[0x0112] = 1  # Orientation
    lens = exif.get_ifd(0x8769)
    lens[0x920A] = float(FOCAL)  # FocalLength
    lens[0xA405] = FOCAL_35MM  # FocalLengthIn35mmFilm
    lens[0xA002], lens[0xA003] = size  # ExifImageWidth, ExifImageHeight
    lens[0xA20E] = lens[0xA20F] = 10 * focal / FOCAL  # FocalPlaneX/YResolution, pixels per unit
    lens[0xA210] = 3  # FocalPlaneResolutionUnit: centimetre
    return exif


def look_at(centre: Sequence[float], target: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """R (3, 3) and t (3,) of an upright camera at `centre` that looks at `target`; z is up."""
    where = np.asarray(centre, float)
    forward = np.asarray(target, float) - where
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    R = np.stack([right, np.cross(forward, right), forward])
    return R, -R @ where


def cameras(views: int) -> list[Pose]:
    """Cameras on an arc of 72° around the middle of the courtyard.

    Their height and distance vary, and they are level to ±2°.
    """
    poses = []
    for k, turn in enumerate(np.radians(np.linspace(-38, 34, views))):
        distance = 5.6 + 0.5 * np.sin(1.9 * k)
        x, y = distance * np.sin(turn), 1.6 - distance * np.cos(turn)
        target = (0.25 * np.sin(1.3 * k), 1.6, 1.05 + 0.1 * np.cos(1.7 * k))
        R, t = look_at((x, y, 1.65 + 0.35 * np.sin(2.4 * k + 1)), target)
        roll = np.radians(2.0 * np.sin(2.9 * k))
        cosine, sine = np.cos(roll), np.sin(roll)
        tilt = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
        poses.append((tilt @ R, tilt @ t))
    return poses
