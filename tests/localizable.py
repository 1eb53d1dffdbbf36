"""Photographs of two textured planes for localizing: a true model of some, and queries."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pictures
import pytest
from PIL import Image
from rendered import FOCAL, SIZE, surface, tracks_of, views_of

from eloftr.formats.opening import ORIENTATION
from pipeline.photos.cameras.stored import STORED_FROM_UPRIGHT
from pipeline.photos.exif import TRANSPOSE
from pipeline.reconstruct.tracks.scene import ModelCamera, SparseModel

COUNT = 6
DATABASE, QUERIES = (0, 2, 4), (1, 3, 5)
TURNED = {2: 8, 3: 6}  # EXIF orientations of views whose files are stored turned
PIXELS_OF_A_UNIT = 80  # of the texture
ELSEWHERE, CUT = "elsewhere.jpg", "cut.jpg"  # queries without a pose


@dataclass(frozen=True)
class Localizable:
    """Folders of the model, its images and the queries; and the true poses as stored, by name."""

    model: Path
    images: Path
    queries: Path
    poses: dict[str, tuple[np.ndarray, np.ndarray]]


def turn_of(view: int) -> np.ndarray:
    """The rotation (3, 3) from the upright camera to that of the file."""
    turn = np.eye(3)
    turn[:2, :2] = STORED_FROM_UPRIGHT[TURNED.get(view, 1) - 1]
    return turn


def drawn(view: int, texture: np.ndarray, count: int = COUNT) -> Image.Image:
    """What a view shows, upright."""
    columns, rows = np.meshgrid(np.arange(SIZE[0]) + 0.5, np.arange(SIZE[1]) + 0.5)
    pixels = np.column_stack([columns.ravel(), rows.ravel()])
    shown = surface(views_of(count), view, pixels)[:, :2] * PIXELS_OF_A_UNIT
    place = shown + np.array(texture.shape[::-1]) / 2
    low = np.floor(place).astype(np.int64).clip(0, np.array(texture.shape[::-1]) - 2)
    x, y = (place - low).T
    column, row = low.T
    gray = texture.astype(np.float64)
    above = gray[row, column] * (1 - x) + gray[row, column + 1] * x
    below = gray[row + 1, column] * (1 - x) + gray[row + 1, column + 1] * x
    mixed = (above * (1 - y) + below * y).reshape(SIZE[::-1])
    return Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))


def saved(image: Image.Image, path: Path, orientation: int = 1) -> None:
    """Write an upright image as a file that is stored turned."""
    turn = TRANSPOSE.get(orientation)
    if turn is not None:
        back = {Image.Transpose.ROTATE_90: Image.Transpose.ROTATE_270}
        back |= {value: key for key, value in back.items()}
        image = image.transpose(back.get(turn, turn))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image.save(path, quality=95, exif=exif)


def true_model(points: int = 3000) -> SparseModel:
    """The views of DATABASE with true cameras and points; observations are off as `tracks_of`."""
    scene = tracks_of(views_of(COUNT), points, seed=1)
    scene = scene.keep(np.isin(scene.view, DATABASE))
    views = scene.views
    width, height = SIZE
    upright = ModelCamera("SIMPLE_PINHOLE", width, height, (FOCAL, width / 2, height / 2))
    lying = ModelCamera("SIMPLE_PINHOLE", height, width, (FOCAL, height / 2, width / 2))
    xy = scene.xy.copy()
    for view in TURNED:
        mine = scene.view == view
        turned = (xy[mine] - np.array(SIZE) / 2) @ turn_of(view)[:2, :2].T
        xy[mine] = turned + np.array(SIZE[::-1]) / 2
    rows = np.array(DATABASE)
    kept = replace(
        views,
        names=[f"{view}.jpg" for view in DATABASE],
        numbers=rows + 1,
        camera=np.array([2 if view in TURNED else 1 for view in DATABASE]),
        rotation=np.array([turn_of(view) @ views.rotation[view] for view in DATABASE]),
        shift=np.array([turn_of(view) @ views.shift[view] for view in DATABASE]),
        cameras={1: upright, 2: lying},
    )
    return replace(scene, views=kept, view=np.searchsorted(rows, scene.view), xy=xy)


def make_localizable(folder: Path) -> Localizable:
    """Draw all photographs and write the model."""
    made = Localizable(folder / "model", folder / "images", folder / "queries", {})
    for place in (made.model, made.images, made.queries):
        place.mkdir(parents=True)
    true_model().made().write_binary(made.model)
    texture, other = (np.asarray(pictures.texture(900, 700, seed)) for seed in (3, 4))
    views = views_of(COUNT)
    for view in range(COUNT):
        target = made.images if view in DATABASE else made.queries
        saved(drawn(view, texture), target / f"{view}.jpg", TURNED.get(view, 1))
        turn = turn_of(view)
        made.poses[f"{view}.jpg"] = turn @ views.rotation[view], turn @ views.shift[view]
    saved(drawn(1, other), made.queries / ELSEWHERE)
    whole = (made.queries / "1.jpg").read_bytes()
    (made.queries / CUT).write_bytes(whole[: len(whole) // 2])
    return made


@pytest.fixture(scope="module")
def localizable(tmp_path_factory: pytest.TempPathFactory) -> Localizable:
    """The photographs and their model."""
    return make_localizable(tmp_path_factory.mktemp("localizable"))
