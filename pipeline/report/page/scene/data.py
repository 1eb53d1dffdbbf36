"""The data of a page's view of models: points, cameras and photographs, as JSON.

Lengths are those of the model. Arrays are packed, see `packed`; `assets/scene.js` reads them.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.events import counted
from pipeline.extras import import_pycolmap
from pipeline.photos.cameras.stored import maps_to_stored
from pipeline.reconstruct.models.files import ModelFiles
from pipeline.reconstruct.models.job import ask_of_models
from pipeline.reconstruct.tracks.scene import (
    ModelViews,
    SparseModel,
    mean_of_points,
    project,
    rows_of_groups,
)
from pipeline.report.block_map import colours_of_blocks
from pipeline.report.page.scene.axes import Axes, Upright
from pipeline.report.page.scene.photographs import PhotographFolder, Thumbnail, thumbnails
from pipeline.store.folder import Folder

VERSION = 1  # counts up when scene.js must read other data
MOST_POINTS = 60_000  # of a model that are shown
MOST_SEEN = 300  # points drawn on a photograph
MOST_SEEN_OF_ALL = 160_000  # and on all photographs of a model
BYTES_OF_PHOTOGRAPHS = 3_000_000  # of all thumbnails
STEPS_A_PIXEL = 100  # residuals are rounded to a hundredth of a pixel
LONGEST_TRACK = 40  # longer ones are one bar

AnyModel = Any  # a pycolmap.Reconstruction, a SparseModel, or the folder of a model


def scene_data(
    models: Mapping[str, AnyModel] | Sequence[AnyModel],
    photographs: PhotographFolder | None = None,
    blocks: Mapping[int, int] | None = None,
    orientation: Mapping[str, int] | None = None,
    *,
    most_points: int = MOST_POINTS,
    photograph_bytes: int = BYTES_OF_PHOTOGRAPHS,
) -> dict[str, Any]:
    """What `eloftrScene` of `assets/scene.js` shows of COLMAP models.

    models: by their titles, or in an order. A model is a `pycolmap.Reconstruction`, a
        `SparseModel`, or its folder, which is read in a process of its own.
    photographs: the folder that the names of images lie in; None shows points without them.
    blocks: the block of every image, by COLMAP's number, as `block_map.blocks_of_images` reads.
    orientation: EXIF orientation, 1…8, by the names of images, as a run's IMAGES tables have it.
        Those that are absent are taken from the photographs that are shown, and else are 1.
    most_points: of a model; more are sampled, the same at every call.
    photograph_bytes: of all thumbnails together, see `thumbnails`.

    Raises ReconstructionError for a folder without a model or one that COLMAP cannot read.
    """
    if not isinstance(models, Mapping):
        models = {f"model {number}": model for number, model in enumerate(models)}
    scenes = {title: _sparse(model) for title, model in models.items()}
    names = sorted({name for scene in scenes.values() for name in scene.views.names})
    found = {} if photographs is None else thumbnails(photographs, names, photograph_bytes)
    seen = {name: one for name, one in found.items() if isinstance(one, Thumbnail)}
    turns = {name: one.orientation for name, one in seen.items()} | dict(orientation or {})
    return {
        "version": VERSION,
        "models": [
            _model(title, scene, blocks or {}, turns, most_points)
            for title, scene in scenes.items()
        ],
        "photographs": {name: one.uri() for name, one in seen.items()},
        "notes": [] if photographs is None else _photograph_notes(names, found),
    }


def packed(values: np.ndarray, kind: str) -> dict[str, Any]:
    """An array as JSON: its type (f4, u1, u2, i2, i4), its shape, and its bytes in base64."""
    array = np.ascontiguousarray(values, f"<{kind}")
    text = base64.b64encode(array.tobytes()).decode()
    return {"type": kind, "shape": list(array.shape), "base64": text}


def rounded(value: float | np.ndarray, digits: int = 5) -> Any:
    """Numbers with so many significant digits, as JSON; None for what is not finite."""
    if np.ndim(value):
        return [rounded(one, digits) for one in np.asarray(value)]
    return float(f"{float(value):.{digits}g}") if np.isfinite(value) else None


def _sparse(model: AnyModel) -> SparseModel:
    if isinstance(model, SparseModel):
        return model
    if isinstance(model, str | Path | Folder):
        return ask_of_models(_read, [Path(model) if isinstance(model, str) else model])
    return SparseModel.of(model)


def _read(files: ModelFiles) -> SparseModel:
    return SparseModel.of(files.read())


def _model(
    title: str,
    scene: SparseModel,
    blocks: Mapping[int, int],
    orientation: Mapping[str, int],
    most_points: int,
) -> dict[str, Any]:
    views = scene.views
    upright = Upright.of(views, orientation)
    axes = Axes.of(scene.xyz, views, upright)
    off = residuals(scene)
    error = np.linalg.norm(off, axis=1)
    front = np.isfinite(error)
    length = np.bincount(scene.point, minlength=len(scene.xyz))
    block = np.array([blocks.get(number, -1) for number in views.numbers.tolist()], np.int64)
    shown = np.arange(len(scene.xyz))
    if len(shown) > most_points:
        shown = np.sort(np.random.default_rng(0).choice(shown, most_points, replace=False))
    return {
        "title": title,
        "images": len(views),
        "points": len(scene.xyz),
        "observations": len(scene.point),
        "track_length": rounded(len(scene.point) / max(len(scene.xyz), 1), 3),
        "error": rounded(mean_of_points(scene.point, error), 3) if front.any() else None,
        "behind": int((~front).sum()),
        "axes": {"rotation": rounded(axes.rotation, 7), "centre": rounded(axes.centre, 9)},
        "radius": rounded(axes.radius),
        "frustum": rounded(axes.frustum),
        "shown": _points(scene, axes, shown, error, length, block),
        "views": _views(scene, axes, upright, error, block),
        "seen": _observations(scene, off, upright),
        "cameras": _cameras(views),
        "tracks": np.bincount(length.clip(0, LONGEST_TRACK), minlength=3).tolist(),
        "longest": int(length.max(initial=0)),
        "blocks": _block_colours(views.centres(), block),
    }


def residuals(scene: SparseModel) -> np.ndarray:
    """From where points are seen to where they should be, stored pixels: (O, 2).

    NaN behind the camera.
    """
    off = np.full((len(scene.view), 2), np.nan)
    for row, mine in enumerate(rows_of_groups(scene.view, len(scene.views))):
        off[mine] = project(scene.views, row, scene.xyz[scene.point[mine]]) - scene.xy[mine]
    return off


def _points(
    scene: SparseModel,
    axes: Axes,
    shown: np.ndarray,
    error: np.ndarray,
    length: np.ndarray,
    block: np.ndarray,
) -> dict[str, Any]:
    """The points of these rows. A point is of the block of the first view that sees it."""
    rows = np.full(len(scene.xyz), -1)
    # Observations are sorted by view within a point, and the last assignment stays.
    of_a_block = np.flatnonzero(block[scene.view] >= 0)[::-1]
    rows[scene.point[of_a_block]] = block[scene.view[of_a_block]]
    front = np.isfinite(error)
    count = np.bincount(scene.point[front], minlength=len(scene.xyz))
    total = np.bincount(scene.point[front], error[front], minlength=len(scene.xyz))
    mean = total / np.maximum(count, 1)
    return {
        "xyz": packed(axes(scene.xyz[shown]), "f4"),
        "colour": packed(scene.colour[shown], "u1"),
        "error": packed((STEPS_A_PIXEL * mean[shown]).round().clip(0, 65535), "u2"),
        "length": packed(length[shown].clip(0, 65535), "u2"),
        "block": packed(rows[shown], "i2"),
    }


def _views(
    scene: SparseModel, axes: Axes, upright: Upright, error: np.ndarray, block: np.ndarray
) -> dict[str, Any]:
    """The registered images: a row each of lists and packed arrays.

    corners: (V, 4, 3), where the corners of the upright photograph lie from the centre, at depth 1,
    clockwise from the top left. size: upright pixels. residual, most: median and 90th percentile of
    an image's residuals in pixels. place: (V, 3) of the centre in the model.
    """
    views = scene.views
    half = 0.5 * upright.size / views.focal()[:, None]
    half *= np.minimum(1, 1.5 / np.maximum(half.max(axis=1, initial=1e-9), 1e-9))[:, None]
    flat = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half[:, None]
    stored = np.einsum("vij,vcj->vci", upright.linear(), flat)
    rays = np.concatenate([stored, np.ones((len(views), 4, 1))], axis=2)
    corners = np.einsum("vci,vij->vcj", rays, views.rotation) @ axes.rotation.T
    spread = []
    for mine in rows_of_groups(scene.view, len(views)):
        good = error[mine][np.isfinite(error[mine])]
        spread.append(np.percentile(good, [50, 90]) if len(good) else np.full(2, np.nan))
    found = np.array(spread).reshape(-1, 2)
    return {
        "name": views.names,
        "number": views.numbers.tolist(),
        "camera": views.camera.tolist(),
        "centre": packed(axes(views.centres()), "f4"),
        "corners": packed(corners, "f4"),
        "place": rounded(views.centres(), 7),
        "size": upright.size.tolist(),
        "points": np.bincount(scene.view, minlength=len(views)).tolist(),
        "residual": rounded(found[:, 0], 3),
        "most": rounded(found[:, 1], 3),
        "block": block.tolist(),
    }


def _observations(scene: SparseModel, off: np.ndarray, upright: Upright) -> dict[str, Any]:
    """What photographs see of points, on their upright pixels.

    start: (V + 1,) where the rows of each view begin. xy: (n, 2) of 65535 of the width and the
    height. residual: (n, 2) in pixels / STEPS_A_PIXEL. Points behind the camera are left out.
    """
    width, height = upright.size.T
    maps = np.linalg.inv(maps_to_stored(width, height, upright.orientation))
    most = min(MOST_SEEN, MOST_SEEN_OF_ALL // max(len(scene.views), 1))
    random = np.random.default_rng(0)
    start, places, ways = [0], [np.empty((0, 2))], [np.empty((0, 2))]
    for row, mine in enumerate(rows_of_groups(scene.view, len(scene.views))):
        mine = mine[np.isfinite(off[mine]).all(axis=1)]
        if len(mine) > most:
            mine = np.sort(random.choice(mine, most, replace=False))
        linear = maps[row, :2, :2]
        places.append((scene.xy[mine] @ linear.T + maps[row, :2, 2] + 0.5) / upright.size[row])
        ways.append(off[mine] @ linear.T)
        start.append(start[-1] + len(mine))
    steps = (STEPS_A_PIXEL * np.concatenate(ways)).round().clip(-32767, 32767)
    return {
        "start": packed(np.array(start), "i4"),
        "xy": packed((65535 * np.concatenate(places)).round().clip(0, 65535), "u2"),
        "residual": packed(steps, "i2"),
        "steps": STEPS_A_PIXEL,
    }


def _cameras(views: ModelViews) -> list[dict[str, Any]]:
    """Cameras by their models: the parameters of each, and how they spread among all of a model."""
    pycolmap = import_pycolmap()
    groups = []
    for model in sorted({camera.model for camera in views.cameras.values()}):
        some = {k: one for k, one in sorted(views.cameras.items()) if one.model == model}
        params = np.array([camera.params for camera in some.values()])
        names = pycolmap.Camera.create_from_model_name(1, model, 1.0, 2, 2).params_info
        low, middle, high = np.percentile(params, [0, 50, 100], axis=0)
        groups.append(
            {
                "model": model,
                "names": [name.strip() for name in names.split(",")],
                "number": list(some),
                "images": [int((views.camera == number).sum()) for number in some],
                "size": [[camera.width, camera.height] for camera in some.values()],
                "params": rounded(params, 6),
                "least": rounded(low, 6),
                "median": rounded(middle, 6),
                "largest": rounded(high, 6),
                "deviation": rounded(params.std(axis=0, ddof=1), 3) if len(some) > 1 else None,
            }
        )
    return groups


def _block_colours(centres: np.ndarray, block: np.ndarray) -> dict[int, str]:
    """The colour of every block as #rrggbb, by its number; empty where there are no blocks."""
    if not (block >= 0).any():
        return {}
    colours = colours_of_blocks(centres, block)
    return {
        int(number): "#" + bytes(colours[np.argmax(block == number)].tolist()).hex()
        for number in np.unique(block)
    }


def _photograph_notes(names: Sequence[str], found: Mapping[str, Thumbnail | str]) -> list[str]:
    """Sentences on photographs that the page does not show."""
    notes = []
    absent = len(names) - len(found)
    if absent:
        notes.append(
            f"{absent:,} of {len(names):,} photographs are left out, because the page would be too "
            "large; their points are drawn without them."
        )
    unread = [one for one in found.values() if isinstance(one, str)]
    if unread:
        first = unread[0] if len(unread) == 1 else f"the first is {unread[0]}"
        notes.append(f"{counted(len(unread), 'photograph')} cannot be shown: {first}.")
    return notes
