"""The tasks of a round: every point is measured against one view, one task for each such view."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.extras import import_pycolmap
from pipeline.reconstruct.tracks.options import RefineOptions
from pipeline.reconstruct.tracks.scene import ModelViews, SparseModel, rows_of_groups
from pipeline.reconstruct.tracks.surface import normals, references, tied_views


@dataclass(frozen=True)
class ReferenceTask:
    """One reference view with its n points.

    name: of the task and its file. view: row of the reference. others: (v,) rows of the views to
    measure in. points: (n,) rows of the points. xy: (n, 2) observations in the reference. xyz,
    normal: (n, 3). member_point, member_view: the observations that these points have elsewhere,
    as indices into `points` and rows of views.
    """

    name: str
    view: int
    others: np.ndarray
    points: np.ndarray
    xy: np.ndarray
    xyz: np.ndarray
    normal: np.ndarray
    member_point: np.ndarray
    member_view: np.ndarray


def read_scene(folder: Path) -> SparseModel:
    """The scene of a COLMAP model on disk."""
    return SparseModel.of(import_pycolmap().Reconstruction(str(folder)))


def plan_round(folder: Path, options: RefineOptions) -> tuple[ModelViews, list[ReferenceTask]]:
    """The views of the model in `folder`, and the tasks that measure its points.

    The name of a task is the COLMAP number of its reference image.
    """
    scene = read_scene(folder)
    reference = references(scene)
    normal = normals(scene, reference)
    tied = tied_views(scene, options.views)
    points_of = rows_of_groups(reference, len(scene.views))
    observations_of = rows_of_groups(reference[scene.point], len(scene.views))
    place = np.empty(len(scene.xyz), np.int64)  # of every point in its task
    tasks = []
    for view, (points, mine) in enumerate(zip(points_of, observations_of, strict=True)):
        if not len(points):
            continue
        place[points] = np.arange(len(points))
        is_own = scene.view[mine] == view
        own, others = mine[is_own], mine[~is_own]
        xy = np.empty((len(points), 2))
        xy[place[scene.point[own]]] = scene.xy[own]
        tasks.append(
            ReferenceTask(
                f"image-{int(scene.views.numbers[view]):07}",
                view,
                tied[view],
                points,
                xy,
                scene.xyz[points],
                normal[points],
                place[scene.point[others]],
                scene.view[others],
            )
        )
    return scene.views, tasks
