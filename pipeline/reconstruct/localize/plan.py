"""What is to be placed: every query with its verified pairs, or the reason why it has none."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.events import counted
from pipeline.match.plan import PLAN_FAILURES
from pipeline.match.turns.tries import settled_matches
from pipeline.reconstruct.cameras.images import StoredImages
from pipeline.reconstruct.localize.candidates import QueryFolders
from pipeline.reconstruct.localize.place import MatchedImage, MatchedQuery, without_pose
from pipeline.reconstruct.localize.pose import FileFacts
from pipeline.reconstruct.tracks.scene import ModelViews
from pipeline.store.folder import Folder
from pipeline.vocabulary import LINE_MEANINGS, VERIFIED, Reason, StageName


@dataclass(frozen=True)
class PlacingPlan:
    """queries: those to be placed, sorted. rows: of POSES, of the others. notes: sentences."""

    queries: list[MatchedQuery]
    rows: list[dict[str, Any]]
    notes: list[str]


class RunFiles:
    """What the files of a run are: sizes, cameras, and maps to the pixels of COLMAP."""

    def __init__(self, run: Folder) -> None:
        self.images = StoredImages.read(run)
        self.rows = {name: row for row, name in enumerate(self.images.names)}
        self.maps = self.images.to_stored()

    def facts(self, name: str) -> FileFacts:
        """What a file tells of its camera."""
        row, images = self.rows[name], self.images
        size = int(images.stored_width[row]), int(images.stored_height[row])
        told = float(images.focal[row]), str(images.camera[row]), int(images.orientation[row])
        return FileFacts(size, *told)

    def to_stored(self, name: str) -> np.ndarray:
        """The map (3, 3) from pixels of the tables to COLMAP's."""
        stored: np.ndarray = self.maps[self.rows[name]]
        return stored


def plan_queries(
    folders: QueryFolders,
    views: ModelViews,
    run: Folder,
    candidates: pa.Table,
    failures: pa.Table,
) -> PlacingPlan:
    """The queries of a run that is done, and rows of those that have no verified pair.

    candidates, failures: tables of CANDIDATES and of FAILURES, with names in the folders.
    """
    asked = set(candidates["query"].to_pylist())
    reasons, lines = {}, []
    for row in failures.to_pylist():
        if row["reason"] in LINE_MEANINGS:
            lines.append(row["detail"])
        else:
            reasons[row["image0"]] = row["reason"]
    notes = []
    if lines:
        notes.append(f"{counted(len(lines), 'line')} of the list cannot be used ({lines[0]}).")
    if folders.absent:
        notes.append(f"{folders.absent:,} images of the model have no file in the folder.")
    matched: dict[str, list[MatchedImage]] = {}
    if asked:
        files = RunFiles(run)
        matched, others = _matched(folders, views, run, files)
        reasons |= _unread(run)
        if others:
            notes.append(
                f"{len(others):,} images have another size than their camera in the model, "
                f"{min(others)} for one; they are not used."
            )
    queries, rows = [], []
    for shown in folders.queries:
        name = folders.name("query", shown)
        if name in matched:
            facts, stored = files.facts(name), files.to_stored(name)
            queries.append(MatchedQuery(shown, name, facts, stored, matched[name]))
            continue
        reason = Reason.NO_OVERLAP if shown in asked else Reason.NO_CANDIDATES
        rows.append(without_pose(shown, reasons.get(name, reasons.get(shown, reason))))
    return PlacingPlan(queries, rows, notes)


def _matched(
    folders: QueryFolders, views: ModelViews, run: Folder, files: RunFiles
) -> tuple[dict[str, list[MatchedImage]], set[str]]:
    """The images that each query has verified pairs with, most inliers first.

    Returns also the names of those whose size is not that of their camera in the model.
    """
    rows_of = {name: row for row, name in enumerate(views.names)}
    known = {folders.name("database", name): rows_of[name] for name in folders.database}
    found: dict[str, list[tuple[int, MatchedImage]]] = defaultdict(list)
    others = set()
    for table, pairs in settled_matches(run, ("image0", "image1", "geometry", "num_inliers")):
        verified = pc.is_in(pairs["geometry"], value_set=pa.array(VERIFIED, pa.string()))
        kept = np.flatnonzero(verified.to_numpy())
        for row, pair in zip(kept.tolist(), pairs.take(kept).to_pylist(), strict=True):
            first = pair["image1"] in known
            query, name = (pair["image0"], pair["image1"])[:: 1 if first else -1]
            view, facts = known[name], files.facts(name)
            camera = views.camera_of(view)
            if facts.size != (camera.width, camera.height):
                others.add(views.names[view])
                continue
            image = MatchedImage(view, facts, files.to_stored(name), table, row, first)
            found[query].append((-pair["num_inliers"], image))
    ordered = {
        query: [image for _, image in sorted(images, key=lambda one: (one[0], one[1].view))]
        for query, images in found.items()
    }
    return ordered, others


def _unread(run: Folder) -> dict[str, str]:
    """The reasons of images that could not be read."""
    reasons = {}
    for name in run.names("failures"):
        if name != PLAN_FAILURES:
            for row in run.read_table(name, ["image0", "stage", "reason"]).to_pylist():
                if row["stage"] == StageName.READ:
                    reasons[row["image0"]] = row["reason"]
    return reasons
