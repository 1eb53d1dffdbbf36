"""Import the verified matches of runs into a COLMAP database.

    images/*.parquet   → one row per image, sorted by name: image ids and cameras
    matches/*.parquet  → DealShards: the inliers of the verified pairs, by ranges of images
    ranges of images   → MergeImages → keypoints of the database, keypoints.parquet
    ranges of pairs    → MergePairs → matches and two-view geometries of the database

Each stage is a task of the executor for every few shards, or for every range. They hand their
results on in files, so memory does not grow with the number of matches: it is less than 500 bytes a
pair here, and a few times what a range holds in a process. Only COLMAP's process writes to the
database. A run of a few shards is merged by this process alone.

The database is built in a temporary folder and renamed when it is whole. Files that were made from
an older database are removed first, so the files beside a database always belong to it. The
contents depend on the set of rows only, and not on shards, their order, or how many processes work.
Adding pairs later and importing again gives what one run would have given.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import tables
from pipeline.errors import ReconstructionError, StorageError
from pipeline.events import Progress, nobody
from pipeline.execute.executor import Stage, Task
from pipeline.masks.folder import Masks
from pipeline.match.turns.tries import Settled
from pipeline.photos.panoramas.source import faces_of_runs
from pipeline.photos.panoramas.sphere import Face
from pipeline.photos.sizes import resize_factor
from pipeline.reconstruct.cameras.images import StoredImages, without_mirrored
from pipeline.reconstruct.cameras.options import CameraOptions
from pipeline.reconstruct.carrying import Carrying
from pipeline.reconstruct.database import ImportSummary, replace_database
from pipeline.reconstruct.merging.deal import DealShards, Dealt, Shards
from pipeline.reconstruct.merging.masked import ImageMasks
from pipeline.reconstruct.merging.merge import (
    ImageRange,
    MergedImages,
    MergedPairs,
    MergeImages,
    MergePairs,
    PairRange,
    read_arrays,
)
from pipeline.reconstruct.merging.pieces import GEOMETRY, MERGED, OBSERVATION, PAIR, Parts, Ranges
from pipeline.reconstruct.merging.write import (
    WrittenCameras,
    write_images,
    write_keypoints,
    write_pairs,
)
from pipeline.store.belonging import remove_all
from pipeline.store.folder import Folder

FEW = 16  # shards that one process merges in less time than others need to start
SHARDS_A_TASK = 8  # that one task deals out
# So many shards hold about as many matches as a range: 4,096 pairs. More ranges than MOST_RANGES
# would read the files of the shards in pieces too small for an object store.
SHARDS_A_RANGE = 4
MOST_RANGES = 1024


def import_matches(
    runs: Folder | Sequence[Folder],
    database: Path,
    cameras: CameraOptions | None = None,
    *,
    long_side: int,
    radius: float = 2.0,
    masks: Masks | None = None,
    carrying: Carrying | None = None,
) -> ImportSummary:
    """Build the COLMAP database of runs, and `keypoints.parquet` (KEYPOINTS) beside it.

    runs: one, or several of the same photographs. Of a pair that several matched, the one with the
        most inliers counts.
    long_side: longer side of the images as the network saw them, pixels.
    radius: distance within which observations become one keypoint, in pixels of the network's
        images.
    masks: of the images. Matches that begin or end in a masked place are left out. An image whose
        mask cannot be used has none.
    carrying: what carries out the stages, and COLMAP's process. None: this process does it all.

    An existing database stays as it is until the new one is whole. Then its keypoints, models and
    report are removed before it is replaced. Only verified pairs and their inliers are written,
    with the geometry found in verification. Where the camera given here differs from the one that
    verification assumed, E and the pose are left out and the pair counts as uncalibrated.

    Raises ReconstructionError for tables that are missing, unverified or contradict each other.
    """
    if not (np.isfinite(radius) and radius > 0 and long_side > 0):
        raise ReconstructionError(
            "the merge radius and long_side must be positive numbers of pixels."
        )
    runs = [runs] if isinstance(runs, Folder) else [*runs]
    images = StoredImages.read(*runs)
    radii = radius * resize_factor(images.width, images.height, long_side)
    database.parent.mkdir(parents=True, exist_ok=True)
    scratch = database.parent / f".{database.name}.importing"
    shutil.rmtree(scratch, ignore_errors=True)  # A killed import may have left it.
    scratch.mkdir()
    try:
        masked = None if masks is None else ImageMasks(masks, images)
        merging = _Merging.of(runs, images, masked, scratch, carrying)
        made = merging.run(cameras or CameraOptions(), radii, float(np.median(radii) / radius))
        replace_database(scratch / "database.db", database)
        os.replace(scratch / "keypoints.parquet", database.parent / "keypoints.parquet")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return made


@dataclass
class _Merging:
    """One import on its way.

    masks: of the images, or None. faces: of panoramas, by name. maps: (N, 3, 3) of
    `StoredImages.to_stored`.
    scratch: the database lies here until it is whole. pieces: what the stages hand on.
    carrying: what carries out the stages; None: this process. colmap: makes calls of COLMAP.
    """

    runs: list[Settled]
    images: StoredImages
    masks: ImageMasks | None
    faces: dict[str, Face]
    maps: np.ndarray
    ranges: Ranges
    scratch: Path
    pieces: Folder
    carrying: Carrying | None
    colmap: Callable[..., Any]
    progress: Progress

    @classmethod
    def of(
        cls,
        runs: Sequence[Folder],
        images: StoredImages,
        masks: ImageMasks | None,
        scratch: Path,
        carrying: Carrying | None,
    ) -> _Merging:
        """Choose who merges, and how finely."""
        settled = [Settled.of(run) for run in runs]
        shards = sum(len(run.names) for run in settled)
        colmap = _here if carrying is None else carrying.colmap.ask
        mine = Folder(str(scratch / "pieces"))
        pieces = None
        if carrying is not None and shards > FEW:
            pieces = mine if carrying.executor.name == "local" else _shared(runs[0], scratch)
        if pieces is None:
            carrying = None
        count = min(max(1, int(shards / SHARDS_A_RANGE)), MOST_RANGES)
        ranges = Ranges(len(images.names), -(-len(images.names) // count))
        steps = -(-shards // SHARDS_A_TASK) + 2 * len(ranges)
        listen = nobody if carrying is None else carrying.listen
        progress = Progress(steps, "steps of the import", listen)
        maps, faces = images.to_stored(), faces_of_runs(runs)
        what = settled, images, masks, faces, maps, ranges, scratch, pieces or mine
        return cls(*what, carrying, colmap, progress)

    def run(self, options: CameraOptions, radii: np.ndarray, factor: float) -> ImportSummary:
        """Make the database and the table of keypoints in the scratch folder.

        radii: (N,) pixels. factor: of the summary's `resize_factor`.
        """
        database = self.scratch / "database.db"
        try:
            cameras: WrittenCameras = self.colmap(
                write_images, database, self.images, options, self.faces
            )
            dealt = self._dealt()
            pairs, duplicates = _without_repeated(_all_pairs(dealt, self.ranges))
            pairs, mirrored = without_mirrored(pairs, self.images)
            keypoints, merged, notes = self._merge_images(database, pairs, radii, dealt)
            written = self._merge_pairs(database, pairs, merged, dealt, cameras.same)
        finally:
            remove_all(self.pieces)
        return ImportSummary(
            images=len(self.images.names),
            cameras=cameras.count,
            pairs=sum(one.seen for one in dealt),
            verified=sum(one.verified for one in written),
            matches=int(pairs["length"].sum()),
            merged_matches=sum(one.matches for one in written),
            keypoints=keypoints,
            duplicate_pairs=duplicates,
            mirrored_pairs=mirrored,
            outside=sum(one.outside for one in dealt),
            resize_factor=factor,
            shared_cameras=cameras.shared,
            camera_notes=cameras.notes,
            masked=sum(one.masked for one in written),
            mask_notes=notes,
            panoramas=cameras.panoramas,
            guessed_cameras=cameras.guessed,
        )

    def _carry_out(self, name: str, work: Callable[..., Any], values: list[Any]) -> Iterator[Any]:
        """The results of a stage in the order of its values, as soon as they are there.

        values: the number of each is its place among them.
        """
        carrying = self.carrying
        if carrying is None:
            stage = work()
            yield from (stage(value, 1) for value in values)
            return
        tasks = [Task(f"{name}-{value.number:05}", value) for value in values]
        carrying.executor.start()
        running = carrying.executor.run(
            [Stage(name, work)], tasks, carrying.actors, carrying.listen
        )
        early, wanted = dict[int, Any](), 0
        with closing(running):
            for result in running:
                self.progress.advance(1)
                early[result.number] = result
                while wanted in early:
                    yield early.pop(wanted)
                    wanted += 1

    def _dealt(self) -> list[Dealt]:
        """Deal out all tables."""
        names = [(row, name) for row, run in enumerate(self.runs) for name in run.names]
        starts = range(0, len(names), SHARDS_A_TASK)
        values = [
            Shards(number, names[start : start + SHARDS_A_TASK])
            for number, start in enumerate(starts)
        ]
        size = np.stack([self.images.width, self.images.height], axis=1)
        work = partial(DealShards, self.runs, self.images.names, size, self.ranges, self.pieces)
        return list(self._carry_out("deal", work, values))

    def _merge_images(
        self, database: Path, pairs: np.ndarray, radii: np.ndarray, dealt: list[Dealt]
    ) -> tuple[int, Parts, list[str]]:
        """Merge by image, write the keypoints, and return their number and what to merge by pair.

        Last come sentences about masks that cannot be used. `start` of the pairs then tells where
        their merged pieces are.
        """
        n = len(self.ranges)
        observations = Parts.of(OBSERVATION, [one.observations for one in dealt], n)
        image = np.concatenate([pairs["image0"], pairs["image1"]])
        order = np.argsort(image, kind="stable")  # Entry e is side e // P of pair e % P.
        side, pair = np.divmod(order, max(len(pairs), 1))
        image, target = image[order], self.ranges.low(pairs)[pair]
        lengths, starts = pairs["length"][pair], pairs["start"][pair, side]
        bounds = np.searchsorted(self.ranges.of(image), np.arange(n + 1))
        values = []
        for number in range(n):
            first, last = self.ranges.bounds(number)
            rows = slice(bounds[number], bounds[number + 1])
            values.append(
                ImageRange(
                    *(number, first, image[rows] - first, lengths[rows], starts[rows]),
                    *(target[rows], radii[first:last], n, observations.part(number)),
                )
            )
        keypoints, files = 0, []
        notes: list[str] = []
        place = self.scratch / "keypoints.parquet"
        with pq.ParquetWriter(place, tables.KEYPOINTS, compression="zstd") as table:
            work = partial(MergeImages, self.pieces, self.masks)
            for result in self._carry_out("merge_images", work, values):
                first, last = self.ranges.bounds(result.number)
                what = result.name, first, self.maps[first:last]
                keypoints += self.colmap(write_keypoints, database, self.pieces, *what)
                table.write_table(self._keypoints_table(result, first, last))
                self.pieces.remove(result.name)
                files.append(result.merged)
                notes += result.failures
        for file in observations.names:
            self.pieces.remove(file)
        merged = Parts.of(MERGED, files, n)
        starts = np.concatenate([np.empty(0, np.int64), *(file.starts for file in files)])
        pairs["start"][pair, side] = starts + merged.before()[self.ranges.of(image), target]
        return keypoints, merged, notes

    def _keypoints_table(self, result: MergedImages, first: int, last: int) -> pa.Table:
        """The keypoints of the images of a range as KEYPOINTS."""
        found = read_arrays(self.pieces, result.name)
        ends = np.cumsum(found["count"])[:-1]
        columns = [pa.array(self.images.names[first:last], pa.string())]
        for name, values in (("keypoints", found["xy"]), ("spread", found["spread"])):
            kind = tables.KEYPOINTS.field(name).type
            columns.append(tables.ragged(np.split(values, ends), kind))
        return pa.table(columns, schema=tables.KEYPOINTS)

    def _merge_pairs(
        self,
        database: Path,
        pairs: np.ndarray,
        merged: Parts,
        dealt: list[Dealt],
        same: np.ndarray,
    ) -> list[MergedPairs]:
        """Merge by pair, write the matches, and return what each range came to.

        same: (N,) bool, of WrittenCameras.
        """
        n = len(self.ranges)
        geometries = Parts.of(GEOMETRY, [one.geometries for one in dealt], n)
        bounds = np.searchsorted(self.ranges.low(pairs), np.arange(n + 1))
        values = [
            PairRange(
                *(number, pairs[bounds[number] : bounds[number + 1]]),
                *(merged.part(number), geometries.part(number)),
            )
            for number in range(n)
        ]
        written = []
        for result in self._carry_out("merge_pairs", partial(MergePairs, self.pieces), values):
            mine = values[result.number].pairs
            known = same[mine["image0"]] & same[mine["image1"]]
            moves = self.maps[mine["image0"]], self.maps[mine["image1"]], known
            self.colmap(write_pairs, database, self.pieces, result.name, *moves)
            self.pieces.remove(result.name)
            written.append(result)
        return written


def _here(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def _shared(run: Folder, scratch: Path) -> Folder | None:
    """A folder that the workers of a cluster can reach: in the run's, which they have written to.

    None where it cannot be written to any more.
    """
    mine = hashlib.sha256(str(scratch).encode()).hexdigest()[:8]
    pieces = Folder(f"{run.url.rstrip('/')}/importing-{mine}", run.options)
    try:
        remove_all(pieces)  # A killed import may have left some.
        pieces.publish("begun", b"")
    except StorageError:
        return None
    return pieces


def _all_pairs(dealt: Sequence[Dealt], ranges: Ranges) -> np.ndarray:
    """The pairs of all tasks, (P,) PAIR. `start` and `row` count within the whole range."""
    n = len(ranges)
    observations = Parts.of(OBSERVATION, [one.observations for one in dealt], n).before()
    geometries = Parts.of(GEOMETRY, [one.geometries for one in dealt], n).before()
    found = [np.zeros(0, PAIR)]
    for row, one in enumerate(dealt):
        pairs = one.pairs.copy()
        for side in (0, 1):
            pairs["start"][:, side] += observations[row, ranges.of(pairs[f"image{side}"])]
        pairs["row"] += geometries[row, ranges.low(pairs)]
        found.append(pairs)
    return np.concatenate(found)


def _without_repeated(pairs: np.ndarray) -> tuple[np.ndarray, int]:
    """The pairs by the lower and then the higher row of their images, and how many were left out.

    Of a repeated pair, the one with the most inliers stays.
    """
    low = np.minimum(pairs["image0"], pairs["image1"])
    high = np.maximum(pairs["image0"], pairs["image1"])
    order = np.lexsort((-pairs["length"], high, low))
    repeated = np.zeros(len(pairs), bool)
    repeated[1:] = (np.diff(low[order]) == 0) & (np.diff(high[order]) == 0)
    return pairs[order[~repeated]], int(repeated.sum())
