"""The work that an executor does for a few queries: their poses, from the tables of the run.

    QueryBatch → PlaceQueries → a row of POSES for each

A row depends on the model, the run and the photographs alone, so it is the same wherever it is
made.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import ImageError
from pipeline.match.match import limit_threads
from pipeline.match.turns.tries import Settled
from pipeline.photos.source import Folders
from pipeline.reconstruct.localize.measure import MEASURED_SIDE, QueryMeasurer
from pipeline.reconstruct.localize.options import LocalizeOptions
from pipeline.reconstruct.localize.points import KnownSurface
from pipeline.reconstruct.localize.pose import (
    FileFacts,
    QueryCamera,
    QueryPose,
    SeenPoints,
    accepted_pose,
    cameras_of_query,
    estimated_pose,
    some_rows,
)
from pipeline.reconstruct.tracks.photographs import PhotographCache
from pipeline.store.folder import Folder
from pipeline.tables import POSES, unragged
from pipeline.vocabulary import QUERY_MEANINGS, PoseStatus, Reason

MOST_ATTEMPTS = 3  # processes that may die at a batch before its queries are given up
MOST_POINTS = 1000  # of a query that RANSAC sees; more take longer and tell no more
MATCH_ERROR = 3.0  # pixels of what the network sees that a match may be off
MEASURED_ERROR = 0.5  # pixels of photographs as they are measured, of an inlier
LEAST_MEASURED = 50  # fewer measured points tell less than the matches do
# A pose is confirmed where so many of its windows are found, or so many of its points agree on it:
# see docs/decisions.md.
LEAST_FOUND, CERTAIN = 0.2, 0.9
# Where fewer of the measured points agree, the model is not as exact as measuring is.
LEAST_AGREEING = 0.75
TABLES = 2  # of matches that a process keeps


@dataclass(frozen=True)
class MatchedImage:
    """An image of the model that a query is matched with.

    view: its row in the model. facts: of its file. to_model: (3, 3) from pixels of the tables to
    those of its camera. table, row: where the match is. first: whether the query is image 0 of it.
    """

    view: int
    facts: FileFacts
    to_model: np.ndarray
    table: str
    row: int
    first: bool


@dataclass(frozen=True)
class MatchedQuery:
    """A query with its verified pairs.

    shown: its name in the folder of the queries. name: that in the run. to_stored: (3, 3) from
    pixels of the tables to COLMAP's.
    """

    shown: str
    name: str
    facts: FileFacts
    to_stored: np.ndarray
    images: list[MatchedImage]


@dataclass(frozen=True)
class QueryBatch:
    """Queries that are placed at once. name: of their file."""

    name: str
    queries: list[MatchedQuery]


class PlaceQueries:
    """Place queries in a model, by the matches of a run.

    source: of the photographs. label: what begins the names of the model's images there.
    """

    def __init__(
        self,
        surface: KnownSurface,
        run: Folder,
        source: Folder | Folders,
        label: str,
        options: LocalizeOptions,
    ) -> None:
        limit_threads()
        self.surface, self.options = surface, options
        self.measure = QueryMeasurer(surface, PhotographCache(source, MEASURED_SIDE), label)
        self.settled = Settled.of(run)
        self.tables: OrderedDict[str, pa.Table] = OrderedDict()

    def __call__(self, batch: QueryBatch, attempt: int = 1) -> tuple[str, pa.Table]:
        """The name of the batch and its rows of POSES."""
        if attempt > MOST_ATTEMPTS:
            rows = [without_pose(query.shown, Reason.WORKER_DIED) for query in batch.queries]
        else:
            rows = [self._row(query) for query in batch.queries]
        return batch.name, pa.Table.from_pylist(rows, schema=POSES)

    def _row(self, query: MatchedQuery) -> dict[str, Any]:
        seen = self._seen(query)
        seen = seen.take(some_rows(len(seen), MOST_POINTS))
        pose = self._placed(query, seen)
        if pose is None:
            return without_pose(query.shown, Reason.NO_POSE)
        names = self.surface.views.names
        support = np.bincount(seen.view[pose.inlier], minlength=len(names))
        views = [int(view) for view in np.argsort(-support, kind="stable") if support[view]]
        points = len(seen)
        measured, tried = self._measured(query, pose, views)
        doubted = tried >= LEAST_MEASURED and len(measured) < LEAST_FOUND * tried
        if doubted and pose.inliers < CERTAIN * points:
            return without_pose(query.shown, Reason.NOT_CONFIRMED)
        exact = self._exact(query, pose, measured)
        if exact is not None:
            pose, points = exact, len(measured)
        return {
            **row_of_pose(query.shown, pose, points),
            "database": [names[view] for view in views],
            "support": support[views].tolist(),
        }

    def _seen(self, query: MatchedQuery) -> SeenPoints:
        """What the verified matches of a query see of the model."""
        parts = []
        for image in query.images:
            table = self._table(image.table).slice(image.row, 1)
            inlier = unragged(table["inliers"])[0]
            sides = [unragged(table[f"keypoints{side}"])[0][inlier] for side in (0, 1)]
            mine, theirs = sides if image.first else sides[::-1]
            xyz = self.surface.at(image.view, moved(image.to_model, theirs))
            good = np.isfinite(xyz).all(axis=1)
            xy = moved(query.to_stored, mine)
            parts.append(SeenPoints(xy[good], xyz[good], np.full(int(good.sum()), image.view)))
        return SeenPoints.joined(parts)

    def _table(self, name: str) -> pa.Table:
        if name not in self.tables:
            columns = ("keypoints0", "keypoints1", "inliers")
            self.tables[name] = self.settled.read(name, columns)
            if len(self.tables) > TABLES:
                self.tables.popitem(last=False)
        self.tables.move_to_end(name)
        return self.tables[name]

    def _placed(self, query: MatchedQuery, seen: SeenPoints) -> QueryPose | None:
        options = self.options
        unit = max(query.facts.size) / options.run.matching.long_side
        images = [(image.facts, self.surface.views.camera_of(image.view)) for image in query.images]
        cameras = cameras_of_query(query.shown, query.facts, options.intrinsics, images)
        least = max(options.min_inliers, options.min_inlier_ratio * len(seen))
        return accepted_pose(seen, cameras, MATCH_ERROR * max(unit, 1.0), least)

    def _measured(
        self, query: MatchedQuery, pose: QueryPose, views: list[int]
    ) -> tuple[SeenPoints, int]:
        """The points that are measured near a pose, and how many windows were looked for."""
        if self.options.measure:
            try:
                return self.measure(query.name, pose, views)
            except ImageError:  # the pose of the matches stays
                pass
        return SeenPoints.joined([]), 0

    def _exact(self, query: MatchedQuery, pose: QueryPose, points: SeenPoints) -> QueryPose | None:
        """The pose by measured points; None where they are too few or do not agree."""
        if len(points) < LEAST_MEASURED:
            return None
        found = QueryCamera(pose.camera, pose.source, pose.free)
        unit = max(1.0, max(query.facts.size) / MEASURED_SIDE)
        exact = estimated_pose(points, found, MEASURED_ERROR * unit)
        if exact is None or exact.inliers < max(LEAST_MEASURED, LEAST_AGREEING * len(points)):
            return None
        return exact


def moved(matrix: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Places (n, 2) moved by an affine map (3, 3)."""
    places: np.ndarray = xy.astype(np.float64) @ matrix[:2, :2].T + matrix[:2, 2]
    return places


def row_of_pose(query: str, pose: QueryPose, points: int) -> dict[str, Any]:
    """A localized query as a row of POSES."""
    from scipy.spatial.transform import Rotation

    turn = Rotation.from_matrix(pose.rotation).as_quat()
    turn = turn if turn[3] >= 0 else -turn
    camera = pose.camera
    names = ("qx", "qy", "qz", "qw", "tx", "ty", "tz")
    numbers = map(float, [*turn, *pose.shift])
    return {
        "query": query,
        "status": PoseStatus.LOCALIZED.value,
        **dict(zip(names, numbers, strict=True)),
        "centre": -pose.rotation.T @ pose.shift,
        "covariance": pose.covariance.ravel(),
        "inliers": pose.inliers,
        "points": points,
        "error": pose.error,
        "camera_source": pose.source.value,
        "camera_model": camera.model,
        "width": camera.width,
        "height": camera.height,
        "focal": camera.made().mean_focal_length(),
        "params": list(camera.params),
    }


def without_pose(query: str, reason: str) -> dict[str, Any]:
    """A query that was not localized as a row of POSES. reason: a word of `Reason`."""
    status = PoseStatus.REFUSED if reason in QUERY_MEANINGS else PoseStatus.FAILED
    return {"query": query, "status": status.value, "reason": str(reason)}
