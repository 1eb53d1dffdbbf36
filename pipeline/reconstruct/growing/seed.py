"""A given model in the numbers and with the keypoints of a new database.

The observations of a refined model are none of the database's keypoints: they were measured. The
keypoint next to an observation is moved onto it, so that the matches of the database reach the
points of the model. Observations without a keypoint come behind the others.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from pipeline.extras import import_pycolmap
from pipeline.reconstruct.blocks.graph import ViewGraph
from pipeline.reconstruct.refine.cameras import restricted
from pipeline.reconstruct.tracks.scene import (
    ModelCamera,
    ModelViews,
    SparseModel,
    made_model,
    rows_of_groups,
)

CENTRED = 0.01  # pixels from the middle of the image that a principal point has where it is fixed


@dataclass(frozen=True)
class Seed:
    """The given model, V views, and how the other images of the database fit in.

    scene: with the numbers of the database, without images that it does not have. cameras: of every
    image of the database, the number of its camera in the grown model. principal: cameras of the
    model whose principal point was found.
    """

    scene: SparseModel
    cameras: dict[int, int]
    principal: frozenset[int]


def seed_of(
    given: SparseModel,
    graph: ViewGraph,
    database: Path,
    left_out: Collection[str],
    told: Collection[int] = (),
) -> Seed:
    """Bring a model into the numbers of a database.

    left_out: images that are taken out of the model. told: cameras of the database whose focal
        length EXIF or the user tells.

    A new image has the camera of the model that took the other images of its camera in the
    database. Where EXIF tells nothing of it, it has the one camera that took all images of its
    folder and its size, if there is one.
    """
    number = dict(zip(graph.names, graph.images.tolist(), strict=True))
    stays = np.array([n in number and n not in left_out for n in given.views.names], bool)
    scene = restricted(given.keep(stays[given.view]), stays)
    numbers = np.array([number[name] for name in scene.views.names], np.int64)
    scene = _in_order(scene, numbers)
    with import_pycolmap().Database.open(database) as opened:
        in_database = {image.image_id: image.camera_id for image in opened.read_all_images()}
        known = {camera.camera_id: camera for camera in opened.read_all_cameras()}
    views = _with_cameras(scene.views, in_database, max(known, default=0))
    taken = dict(zip(views.numbers.tolist(), views.camera.tolist(), strict=True))
    of_database = {in_database[image]: camera for image, camera in reversed([*taken.items()])}
    alike: dict[tuple[str, int, int], set[int]] = {}
    for name, image in zip(views.names, views.numbers.tolist(), strict=True):
        camera = views.cameras[taken[image]]
        told_here = in_database[image] in told
        key = (name.rpartition("/")[0], camera.width, camera.height)
        alike.setdefault(key, set()).add(-1 if told_here else taken[image])
    cameras = {}
    for name, image in number.items():
        own = in_database[image]
        key = (name.rpartition("/")[0], known[own].width, known[own].height)
        group = alike.get(key, set()) if own not in told else set()
        shared = next(iter(group)) if len(group) == 1 and -1 not in group else own
        cameras[image] = taken.get(image, of_database.get(own, shared))
    middle = [number for number, camera in views.cameras.items() if not _is_centred(number, camera)]
    return Seed(replace(scene, views=views), cameras, frozenset(middle))


def seeded_model(scene: SparseModel, database: Path, tolerance: float) -> Any:
    """The scene as a `pycolmap.Reconstruction` whose images begin with the database's keypoints.

    tolerance: pixels between an observation and its keypoint, at most.
    """
    keypoints, rows = [], np.empty(len(scene.point), np.int64)
    with import_pycolmap().Database.open(database) as opened:
        for view, mine in enumerate(rows_of_groups(scene.view, len(scene.views))):
            number = int(scene.views.numbers[view])
            of_database = np.asarray(opened.read_keypoints(number)[:, :2], np.float64)
            xy, rows[mine] = _moved(of_database, scene.xy[mine], tolerance)
            keypoints.append(xy)
    what = scene.xyz, scene.colour, scene.point, scene.view
    return made_model(scene.views, keypoints, *what, rows)


def _moved(
    keypoints: np.ndarray, seen: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints (K, 2) moved onto the observations (n, 2) next to them, and what they do not reach.

    Returns all, and the row of each observation.
    """
    rows = np.full(len(seen), -1)
    if len(keypoints) and len(seen):
        distance, nearest = cKDTree(keypoints).query(seen, distance_upper_bound=tolerance)
        order = np.argsort(distance, kind="stable")
        order = order[np.isfinite(distance[order])]
        _, first = np.unique(nearest[order], return_index=True)
        rows[order[first]] = nearest[order[first]]
    apart = np.flatnonzero(rows < 0)
    rows[apart] = len(keypoints) + np.arange(len(apart))
    xy = np.concatenate([keypoints, seen[apart]])
    xy[rows] = seen
    return xy, rows


def _in_order(scene: SparseModel, numbers: np.ndarray) -> SparseModel:
    """The scene with other numbers of its views (V,), in their order."""
    order = np.argsort(numbers)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    views = scene.views
    ordered = replace(
        views,
        names=[views.names[row] for row in order],
        numbers=numbers[order],
        camera=views.camera[order],
        rotation=views.rotation[order],
        shift=views.shift[order],
    )
    return replace(scene, views=ordered, view=place[scene.view]).sorted()


def _with_cameras(views: ModelViews, in_database: dict[int, int], highest: int) -> ModelViews:
    """The views with a number of the database for each camera of the model.

    A camera has the lowest number of its images that no other camera has, else one above all.
    """
    numbers: dict[int, int] = {}
    for camera in sorted({*views.camera.tolist()}):
        own = sorted({in_database[n] for n in views.numbers[views.camera == camera].tolist()})
        free = [one for one in own if one not in numbers.values()]
        numbers[camera] = free[0] if free else max(highest, *numbers.values()) + 1
    return replace(
        views,
        camera=np.array([numbers[camera] for camera in views.camera.tolist()], np.int64),
        cameras={numbers[camera]: views.cameras[camera] for camera in sorted(numbers)},
    )


def _is_centred(number: int, camera: ModelCamera) -> bool:
    made = camera.made(number)
    x, y = made.principal_point_x, made.principal_point_y
    return bool(max(abs(x - camera.width / 2), abs(y - camera.height / 2)) < CENTRED)
