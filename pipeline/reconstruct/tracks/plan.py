"""The tasks of a round: every point is measured against one view, one task for each such view."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.extras import import_pycolmap
from pipeline.reconstruct.tracks.options import RefineOptions
from pipeline.reconstruct.tracks.scene import ModelViews, SparseModel, rows_of_groups
from pipeline.reconstruct.tracks.surface import normals, references, tied_views
from pipeline.tables import TRACKS


@dataclass(frozen=True)
class ReferenceTask:
    """One reference view with its n points.

    name: of the task and its file. view: row of the reference. others: (v,) rows of the views to
    measure in. points: (n,) rows of the points. xy: (n, 2) observations in the reference. xyz,
    normal: (n, 3). member_point, member_view: the observations that these points have elsewhere,
    as indices into `points` and rows of views. wanted: (v, n) bool, which points are measured in
    which of the others; None: all.
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
    wanted: np.ndarray | None = None


class SettledTracks(NamedTuple):
    """Observations of a scene that stay as they are.

    kept: (O,) bool. points: (P,) bool, those that have two or more. views: (V,) bool, those with
    any.
    """

    kept: np.ndarray
    points: np.ndarray
    views: np.ndarray

    @classmethod
    def of(cls, scene: SparseModel, before: SparseModel | None) -> SettledTracks:
        """Those that the scene has in common with a scene before, at the same pixel of an image."""
        kept = np.zeros(len(scene.point), bool)
        if before is not None:
            known = {*_places(before)}
            kept = np.array([place in known for place in _places(scene)], bool)
        points = np.bincount(scene.point[kept], minlength=len(scene.xyz)) >= 2
        kept &= points[scene.point]
        return cls(kept, points, np.bincount(scene.view[kept], minlength=len(scene.views)) > 0)


def _places(scene: SparseModel) -> Iterator[tuple[str, float, float]]:
    """The image and the pixel of every observation, as exact as TRACKS holds them."""
    names = (scene.views.names[view] for view in scene.view.tolist())
    return zip(names, *scene.xy.astype(np.float32).T.tolist(), strict=True)


def read_scene(folder: Path) -> SparseModel:
    """The scene of a COLMAP model on disk."""
    return SparseModel.of(import_pycolmap().Reconstruction(str(folder)))


def plan_round(folder: Path, options: RefineOptions) -> tuple[ModelViews, list[ReferenceTask]]:
    """The views of the model in `folder`, and the tasks that measure its points.

    The name of a task is the COLMAP number of its reference image.
    """
    views, tasks, _ = plan_rest(folder, options, None)
    return views, tasks


def plan_rest(
    folder: Path, options: RefineOptions, before: Path | None
) -> tuple[ModelViews, list[ReferenceTask], pa.Table]:
    """As `plan_round`, of a model that goes on from another one; last comes what stays.

    before: the folder of that model. Its observations stay, and its points are measured in the
        views that it does not have. None: every point is measured in all views.

    What stays are TRACKS, without the observations that the tasks repeat, those of the references.
    """
    scene = read_scene(folder)
    settled = SettledTracks.of(scene, None if before is None else read_scene(before))
    # The reference of a point that was measured before is one of the views it was measured in.
    first = settled.kept | ~settled.points[scene.point]
    reference = references(
        replace(scene, point=scene.point[first], view=scene.view[first], xy=scene.xy[first])
    )
    normal = normals(scene, reference)
    tied = tied_views(scene, options.views)
    points_of = rows_of_groups(reference, len(scene.views))
    observations_of = rows_of_groups(reference[scene.point], len(scene.views))
    place = np.empty(len(scene.xyz), np.int64)  # of every point in its task
    stays = settled.kept.copy()
    tasks = []
    for view, (points, mine) in enumerate(zip(points_of, observations_of, strict=True)):
        if not len(points):
            continue
        place[points] = np.arange(len(points))
        is_own = scene.view[mine] == view
        own, others = mine[is_own], mine[~is_own]
        measured, wanted = tied[view], None
        if settled.points[points].any():
            if settled.points[points].all():
                measured = measured[~settled.views[measured]]
            if not len(measured):  # nothing is new to these points
                continue
            wanted = ~(settled.views[measured][:, None] & settled.points[points])
        stays[own] = False
        xy = np.empty((len(points), 2))
        xy[place[scene.point[own]]] = scene.xy[own]
        tasks.append(
            ReferenceTask(
                f"image-{int(scene.views.numbers[view]):07}",
                view,
                measured,
                points,
                xy,
                scene.xyz[points],
                normal[points],
                place[scene.point[others]],
                scene.view[others],
                wanted,
            )
        )
    xy = scene.xy[stays]
    return scene.views, tasks, track_rows(scene.point[stays], scene.view[stays], xy)


def track_rows(
    points: np.ndarray,
    views: np.ndarray | int,
    xy: np.ndarray,
    correlation: np.ndarray | float = 1.0,
    added: np.ndarray | bool = False,
) -> pa.Table:
    """TRACKS of n observations: rows (n,) of points and views, and pixels (n, 2)."""
    count = len(points)
    columns = [
        pa.array(points, pa.int64()),
        pa.array(np.broadcast_to(views, count), pa.int32()),
        pa.FixedSizeListArray.from_arrays(
            pa.array(np.ascontiguousarray(xy, np.float32).ravel()), 2
        ),
        pa.array(np.broadcast_to(np.float32(correlation), count)),
        pa.array(np.broadcast_to(added, count)),
    ]
    return pa.Table.from_arrays(
        [column.cast(kind.type) for column, kind in zip(columns, TRACKS, strict=True)],
        schema=TRACKS,
    )
