"""Photographs of two textured planes, with true cameras: fast to draw, and exact at every pixel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.extras import import_pycolmap
from pipeline.reconstruct.tracks.scene import ModelCamera, ModelViews, SparseModel

SIZE = (320, 240)
FOCAL = 300.0
STEP = -0.7  # depth of the right half of the scene, nearer than the left one


@dataclass(frozen=True)
class Rendered:
    """PhotographCache in a folder, and the scene with its true cameras and tracks."""

    images: Path
    scene: SparseModel


def texture(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Grey values 0…1 of places on the planes: waves of many directions, none of them too short."""
    waves = np.random.default_rng(5)
    value = np.zeros_like(x)
    for _ in range(60):
        kx, ky = waves.normal(0, 9, 2)
        value += np.sin(kx * x + ky * y + waves.uniform(0, 2 * np.pi))
    return 0.5 + value / 30


def views_of(count: int) -> ModelViews:
    """Cameras on an arc around the scene, which they look at."""
    rotations, shifts = [], []
    for angle in np.linspace(-0.35, 0.35, count):
        centre = np.array([5 * np.sin(angle), 0.6 * np.cos(7 * angle), -5 * np.cos(angle)])
        forward = -centre / np.linalg.norm(centre)
        right = np.cross([0, 1, 0], forward)
        right /= np.linalg.norm(right)
        rotation = np.stack([right, np.cross(forward, right), forward])
        rotations.append(rotation)
        shifts.append(-rotation @ centre)
    camera = ModelCamera("SIMPLE_RADIAL", *SIZE, (FOCAL, SIZE[0] / 2, SIZE[1] / 2, 0.0))
    return ModelViews(
        [f"{row}.png" for row in range(count)],
        np.arange(1, count + 1),
        np.ones(count, np.int64),
        np.array(rotations),
        np.array(shifts),
        {1: camera},
    )


def surface(views: ModelViews, view: int, xy: np.ndarray) -> np.ndarray:
    """The points (n, 3) that pixels (n, 2) of a view show."""
    rays = (xy - np.array(SIZE) / 2) / FOCAL
    ways = np.column_stack([rays, np.ones(len(rays))]) @ views.rotation[view]
    centre = views.centres()[view]
    far = -centre[2] / ways[:, 2]
    near = (STEP - centre[2]) / ways[:, 2]
    right = (centre + near[:, None] * ways)[:, 0] >= 0
    return centre + np.where(right, near, far)[:, None] * ways


def render(folder: Path, count: int = 5, points: int = 150, seed: int = 0) -> Rendered:
    """Draw the photographs, and make tracks of two or three views with keypoints 1 px off."""
    views = views_of(count)
    folder.mkdir()
    columns, rows = np.meshgrid(np.arange(SIZE[0]) + 0.5, np.arange(SIZE[1]) + 0.5)
    pixels = np.column_stack([columns.ravel(), rows.ravel()])
    for view in range(count):
        shown = surface(views, view, pixels)
        gray = texture(shown[:, 0], shown[:, 1]).reshape(SIZE[::-1])
        Image.fromarray((gray.clip(0, 1) * 255).round().astype(np.uint8)).save(
            folder / views.names[view]
        )
    return Rendered(folder, tracks_of(views, points, seed))


def tracks_of(views: ModelViews, points: int, seed: int) -> SparseModel:
    """True cameras and points, seen by a few views each, with observations that are 1 px off."""
    random = np.random.default_rng(seed)
    xyz, point, view, xy = [], [], [], []
    for number in range(points):
        first = int(random.integers(len(views)))
        place = surface(views, first, random.uniform(40, np.array(SIZE) - 40, (1, 2)))[0]
        seen = [first, *random.permutation([v for v in range(len(views)) if v != first])[:2]]
        for row in sorted(seen):
            local = views.rotation[row] @ place + views.shift[row]
            point.append(number)
            view.append(row)
            xy.append(FOCAL * local[:2] / local[2] + np.array(SIZE) / 2 + random.normal(0, 0.7, 2))
        xyz.append(place)
    colour = np.full((points, 3), 128, np.uint8)
    return SparseModel(views, np.array(xyz), colour, np.array(point), np.array(view), np.array(xy))


def adjusted_model(scene: SparseModel) -> Any:
    """A COLMAP model as a mapper would make it of the tracks: adjusted to what is 1 px off."""
    pycolmap = import_pycolmap()
    model = scene.made()
    options = pycolmap.BundleAdjustmentOptions(print_summary=False)
    options.refine_focal_length = options.refine_extra_params = False
    everything = pycolmap.BundleAdjustmentConfig()
    for image in model.reg_image_ids():
        everything.add_image(image)
    everything.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    pycolmap.create_default_bundle_adjuster(options, everything, model).solve()
    model.update_point_3d_errors()
    return model


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """Photographs of five views."""
    return render(tmp_path_factory.mktemp("rendered") / "images")


@pytest.fixture(scope="module")
def model(rendered: Rendered) -> Path:
    """The folder of a COLMAP model of the photographs, as a mapper would make it."""
    folder = rendered.images.parent / "model"
    folder.mkdir()
    adjusted_model(rendered.scene).write_binary(folder)
    return folder


def rotation_errors(found: ModelViews, true: ModelViews) -> np.ndarray:
    """Angles in degrees between the found and the true relative rotations of all pairs."""
    rows = [true.names.index(name) for name in found.names]
    angles = []
    for i in range(len(found)):
        for j in range(i):
            between = found.rotation[i] @ found.rotation[j].T
            truth = true.rotation[rows[i]] @ true.rotation[rows[j]].T
            angles.append(np.degrees(np.linalg.norm(between - truth) / np.sqrt(2)))
    return np.array(angles)
