"""Measure points of the model in a query by least squares, as refining measures its tracks.

The windows are of the images of the model that agree best with the query. Their points are chosen
at random, because points that lie apart from the others are worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import ImageError
from pipeline.reconstruct.localize.points import KnownSurface
from pipeline.reconstruct.localize.pose import QueryPose, SeenPoints, some_rows
from pipeline.reconstruct.tracks.options import RefineOptions
from pipeline.reconstruct.tracks.photographs import PhotographCache, scale
from pipeline.reconstruct.tracks.predict import BESIDE, Surfaces, predict
from pipeline.reconstruct.tracks.scene import ModelViews

if TYPE_CHECKING:  # at run time torch is imported only where something is measured
    from pipeline.reconstruct.tracks.windows import Reference

MEASURED_SIDE = 1600  # pixels of the longer side of photographs as they are measured, at most
MOST_VIEWS = 6  # whose windows are measured in a query
MOST_WINDOWS = 200  # of a view that are looked for in a query
TRIED = 3  # times as many windows are cut of a view, as a query may not show all of them
KEPT_VIEWS = 32  # whose windows a process keeps, about 4 MB each
OPTIONS = RefineOptions()


@dataclass(frozen=True)
class ViewWindows:
    """Points of one view of the model, with windows of its photograph.

    xyz: (n, 3). windows: around their observations.
    """

    surfaces: Surfaces
    xyz: np.ndarray
    windows: Reference


class QueryMeasurer:
    """Measures points of a model in queries. It keeps the windows of the last views.

    photographs: of the model and of the queries. label: what begins the names of the first.
    """

    def __init__(self, surface: KnownSurface, photographs: PhotographCache, label: str) -> None:
        self.surface, self.photographs, self.label = surface, photographs, label
        self.windows_of = lru_cache(KEPT_VIEWS)(self._windows)

    def __call__(self, query: str, pose: QueryPose, best: Sequence[int]) -> tuple[SeenPoints, int]:
        """Points of the model where windows are found in a query, near where a pose shows them.

        Returns also how many windows were looked for.

        query: name of its file. best: views whose windows are measured, the best first. Those whose
        photograph cannot be read are left out.

        Raises ImageError where the query cannot be read.
        """
        image = self.photographs.read(query, pose.camera)
        views = with_query(self.surface.views, pose)
        size = scale(pose.camera, MEASURED_SIDE)
        parts, tried = [], 0
        for view in best[:MOST_VIEWS]:
            found = self.windows_of(view)
            if found is None:
                continue
            margin = 2.0 * OPTIONS.radius
            rows, places, maps = predict(views, found.surfaces, len(views) - 1, size, margin)
            kept = some_rows(len(rows), MOST_WINDOWS)
            if not len(kept):
                continue
            tried += len(kept)
            seen = found.windows.find(image, rows[kept], places[kept], maps[kept], OPTIONS.steps)
            good = seen.correlation > OPTIONS.new_correlation
            good &= seen.moved < OPTIONS.member_shift
            xyz = found.xyz[rows[kept][good]]
            parts.append(SeenPoints(seen.xy[good] / size, xyz, np.full(len(xyz), view)))
        return SeenPoints.joined(parts), tried

    def _windows(self, view: int) -> ViewWindows | None:
        """The windows of a view; None where its photograph cannot be read."""
        from pipeline.reconstruct.tracks.windows import Reference  # loads torch

        scene, views = self.surface.scene, self.surface.views
        camera = views.camera_of(view)
        try:
            image = self.photographs.read(self.label + views.names[view], camera)
        except ImageError:
            return None
        own = scale(camera, MEASURED_SIDE)
        mine = self.surface.observations[view]
        mine = mine[some_rows(len(mine), TRIED * MOST_WINDOWS)]
        xy, xyz = scene.xy[mine], scene.xyz[scene.point[mine]]
        normal = self.surface.normal[scene.point[mine]]
        surfaces = Surfaces.of(views, view, xy, xyz, normal, float(BESIDE / own.mean()))
        return ViewWindows(surfaces, xyz, Reference(image, xy * own, OPTIONS.radius))


def with_query(views: ModelViews, pose: QueryPose) -> ModelViews:
    """The images of the model, and last the query."""
    number = max(views.cameras) + 1
    return replace(
        views,
        names=[*views.names, ""],
        numbers=np.append(views.numbers, views.numbers.max() + 1),
        camera=np.append(views.camera, number),
        rotation=np.concatenate([views.rotation, pose.rotation[None]]),
        shift=np.concatenate([views.shift, pose.shift[None]]),
        cameras={**views.cameras, number: pose.camera},
    )
