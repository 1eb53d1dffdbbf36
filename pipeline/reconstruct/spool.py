"""Spool the inlier matches of all verified pairs to disk, and read them by image and by pair.

    add(MATCHES) × shards → finish() → merge_images() → merge_pairs()

Merging needs the matches in two orders that the shards do not have, and the matches do not fit in
memory: a million pairs of 300 matches are 7 GB. So observations are dealt out to files by image,
and merged keypoints to files by pair. Each file is written by appending and read once, as a whole.
Random access would take a disk hours.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ReconstructionError
from pipeline.reconstruct.keypoints import MergedKeypoints, merge_keypoints, merge_matches
from pipeline.vocabulary import VERIFIED

BATCH = 1 << 20  # observations or matches worked on at a time; this bounds the memory
BUCKETS = 256  # files of each kind; one is in memory at a time

OBSERVATION = np.dtype([("xy", np.float32, 2), ("score", np.float32)])
MERGED = np.dtype([("keypoint", np.int32), ("score", np.float32)])
PAIR = np.dtype(
    [
        ("image0", np.int64),  # rows of the images
        ("image1", np.int64),
        ("start", np.int64, 2),  # where its observations start in the buckets of both images
        ("length", np.int64),  # number of matches
        ("row", np.int64),  # its row in the bucket of the geometries
    ]
)
GEOMETRY = np.dtype(
    [
        ("geometry", np.int64),  # index into VERIFIED
        ("E", np.float64, 9),  # NaN where there is none, as for those below
        ("F", np.float64, 9),
        ("H", np.float64, 9),
        ("pose", np.float64, 7),
    ]
)


class _Pieces:
    """Pieces of arrays in files, the buckets.

    A file is only appended to, then read as a whole and removed.
    """

    def __init__(self, folder: Path, name: str, kind: np.dtype) -> None:
        self.folder, self.name, self.kind = folder, name, kind
        self.sizes = np.zeros(BUCKETS, np.int64)

    def append(self, bucket: np.ndarray, lengths: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Append pieces to their buckets; returns where each piece starts in its bucket.

        bucket, lengths: (P,). values: the pieces one after the other, as many as the lengths add
        up to.
        """
        order = np.argsort(bucket, kind="stable")
        values = values[_ranges((np.cumsum(lengths) - lengths)[order], lengths[order])]
        totals = np.bincount(bucket, lengths, BUCKETS).astype(np.int64)
        ends = np.cumsum(totals)
        starts = np.empty(len(bucket), np.int64)
        starts[order] = (
            np.cumsum(lengths[order]) - lengths[order] + (self.sizes - ends + totals)[bucket[order]]
        )
        for number in np.flatnonzero(totals):
            with open(self._path(int(number)), "ab") as file:
                values[ends[number] - totals[number] : ends[number]].tofile(file)
        self.sizes += totals
        return starts

    def take(self, bucket: int) -> np.ndarray:
        """Read all values of a bucket and remove its file."""
        path = self._path(bucket)
        values = np.fromfile(path, self.kind) if self.sizes[bucket] else np.empty(0, self.kind)
        path.unlink(missing_ok=True)
        return values

    def _path(self, bucket: int) -> Path:
        return self.folder / f"{self.name}.{bucket:03}"


class MatchSpool:
    """Inlier matches on disk.

    folder: an empty local folder. names: (N,) str, sorted. width, height: (N,) pixels of the
    upright images.
    The memory needed is less than 500 bytes per pair, one batch, and a 256th part of the matches.
    """

    COLUMNS = (
        "image0",
        "image1",
        "keypoints0",
        "keypoints1",
        "scores",
        "geometry",
        "inliers",
        "E",
        "F",
        "H",
        "pose",
    )

    def __init__(
        self, folder: Path, names: np.ndarray, width: np.ndarray, height: np.ndarray
    ) -> None:
        self.names, self.size = names, np.stack([width, height], axis=1)
        self.rows: list[np.ndarray] = []
        self.pairs = self.outside = self.duplicates = 0
        self.observations = _Pieces(folder, "observations", OBSERVATION)
        self.merged = _Pieces(folder, "merged", MERGED)
        self.geometries = _Pieces(folder, "geometries", GEOMETRY)
        self.images_a_bucket = -(-len(names) // BUCKETS)

    def add(self, table: pa.Table, source: str) -> None:
        """Append the inliers of the verified pairs of a MATCHES table.

        source: the name of the table, for errors.
        Matches with an endpoint outside its image are left out and counted. Raises
        ReconstructionError for a table that is not verified, names unknown images or holds
        impossible numbers.
        """
        self.pairs += len(table)
        if table["geometry"].null_count:
            raise ReconstructionError(
                f"{source}: is not verified; run eloftr match to its end first."
            )
        verified = pa.array(VERIFIED, pa.string())
        table = table.filter(pc.is_in(table["geometry"], verified)).combine_chunks()
        if not len(table):
            return
        pairs = np.zeros(len(table), PAIR)
        for side in ("image0", "image1"):
            pairs[side] = self._rows_of(np.array(table[side].to_pylist(), dtype=object), source)
        geometries = np.zeros(len(table), GEOMETRY)
        geometries["geometry"] = pc.index_in(table["geometry"], verified).to_numpy()
        for name in ("E", "F", "H", "pose"):
            column = table[name].combine_chunks()
            values = column.values.to_numpy(zero_copy_only=False).reshape(len(table), -1)
            present = column.is_valid().to_numpy(zero_copy_only=False)
            geometries[name] = np.where(present[:, None], values, np.nan)

        lengths, columns = [], []
        for name in ("keypoints0", "keypoints1", "scores", "inliers"):
            column = table[name].combine_chunks()
            lengths.append(pc.fill_null(pc.list_value_length(column), 0).to_numpy())
            flat = column.flatten()
            numbers = flat.flatten() if name.startswith("key") else flat
            columns.append(numbers.to_numpy(zero_copy_only=False))
        if any((length != lengths[0]).any() for length in lengths):
            raise ReconstructionError(
                f"{source}: lists of one pair differ in length; match this shard again."
            )
        inliers = columns[3]
        xy0, xy1 = (columns[side].reshape(-1, 2)[inliers] for side in (0, 1))
        scores = columns[2][inliers]
        pair = np.repeat(np.arange(len(pairs)), lengths[0])[inliers]
        good = np.isfinite(scores) & (scores >= 0)
        good &= np.isfinite(xy0).all(axis=1) & np.isfinite(xy1).all(axis=1)
        if not good.all():
            raise ReconstructionError(
                f"{source}: holds coordinates or scores that are not finite; "
                "match this shard again."
            )
        if (pairs["image0"] == pairs["image1"]).any():
            raise ReconstructionError(
                f"{source}: holds an image matched with itself; plan the pairs again."
            )

        inside = np.ones(len(pair), bool)
        for xy, side in ((xy0, "image0"), (xy1, "image1")):
            inside &= ((xy >= -0.5) & (xy <= self.size[pairs[side][pair]] - 0.5)).all(axis=1)
        self.outside += int((~inside).sum())
        pairs["length"] = np.bincount(pair[inside], minlength=len(pairs))
        observed = np.empty((2, int(inside.sum())), OBSERVATION)
        observed["xy"], observed["score"] = (xy0[inside], xy1[inside]), scores[inside]
        images = np.concatenate([pairs["image0"], pairs["image1"]])
        starts = self.observations.append(
            self._bucket(images), np.tile(pairs["length"], 2), observed.ravel()
        )
        pairs["start"] = starts.reshape(2, -1).T
        first = self._bucket(np.minimum(pairs["image0"], pairs["image1"]))
        pairs["row"] = self.geometries.append(first, np.ones(len(pairs), np.int64), geometries)
        self.rows.append(pairs[pairs["length"] > 0])

    def _bucket(self, images: np.ndarray) -> np.ndarray:
        return images // self.images_a_bucket

    def _rows_of(self, names: np.ndarray, source: str) -> np.ndarray:
        rows = np.minimum(np.searchsorted(self.names, names), len(self.names) - 1)
        unknown = self.names[rows] != names
        if unknown.any():
            raise ReconstructionError(
                f"{source}: matches {names[unknown][0]!r}, which is not in images/*.parquet; "
                "match again."
            )
        return rows

    def finish(self) -> np.ndarray:
        """All pairs, (P,) PAIR, without repetitions.

        They are ordered by the lower and then the higher row of their two images. Of a repeated
        pair, the one with the most inliers stays.
        """
        pairs = np.concatenate(self.rows) if self.rows else np.zeros(0, PAIR)
        self.rows = []
        low = np.minimum(pairs["image0"], pairs["image1"])
        high = np.maximum(pairs["image0"], pairs["image1"])
        order = np.lexsort((-pairs["length"], high, low))
        repeated = np.zeros(len(pairs), bool)
        repeated[1:] = (np.diff(low[order]) == 0) & (np.diff(high[order]) == 0)
        self.duplicates = int(repeated.sum())
        return pairs[order[~repeated]]

    def merge_images(
        self, pairs: np.ndarray, radii: np.ndarray
    ) -> Iterator[tuple[int, MergedKeypoints]]:
        """Merge the observations of all images, a run of consecutive images at a time.

        pairs: PAIR rows of `finish`; their `start` is changed for `merge_pairs`.
        radii: (N,) merge radius of each image, pixels.
        Yields the first row of each run of images, and their keypoints.
        """
        image = np.concatenate([pairs["image0"], pairs["image1"]])
        order = np.argsort(image, kind="stable")  # Entry e is side e // P of pair e % P.
        side, pair = np.divmod(order, max(len(pairs), 1))
        lengths, starts = pairs["length"][pair], pairs["start"][pair, side]
        target = self._bucket(np.minimum(pairs["image0"], pairs["image1"]))[pair]
        bounds = np.searchsorted(image[order], np.arange(len(radii) + 1))  # of each image's entries
        observations = np.diff(np.concatenate([[0], np.cumsum(lengths)])[bounds])
        for bucket, (first, last) in enumerate(self._ranges_of_images()):
            spooled = self.observations.take(bucket)
            for begin, end in _batches(observations, first, last):
                entries = slice(bounds[begin], bounds[end])
                found = spooled[_ranges(starts[entries], lengths[entries])]
                which = np.repeat(image[order[entries]] - begin, lengths[entries])
                merged = merge_keypoints(which, found["xy"], found["score"], radii[begin:end])
                values = np.empty(len(found), MERGED)
                values["keypoint"], values["score"] = merged.index, found["score"]
                placed = self.merged.append(target[entries], lengths[entries], values)
                pairs["start"][pair[entries], side[entries]] = placed
                yield begin, merged

    def merge_pairs(
        self, pairs: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray, list[np.ndarray]]]:
        """Merge the matches of all pairs, after `merge_images`, a run of consecutive pairs a time.

        Yields PAIR rows, GEOMETRY rows, and one (m, 2) uint32 array of keypoints per pair.
        """
        low = np.minimum(pairs["image0"], pairs["image1"])
        for bucket, images in enumerate(self._ranges_of_images()):
            merged, geometries = self.merged.take(bucket), self.geometries.take(bucket)
            for begin, end in _batches(pairs["length"], *np.searchsorted(low, images)):
                lengths = pairs["length"][begin:end]
                of_pair = np.repeat(np.arange(end - begin), lengths)
                sides = [
                    merged[_ranges(pairs["start"][begin:end, side], lengths)] for side in (0, 1)
                ]
                indices = np.stack([side["keypoint"] for side in sides], axis=1)
                kept = merge_matches(of_pair, indices[:, 0], indices[:, 1], sides[0]["score"])
                bounds = np.searchsorted(of_pair[kept], np.arange(1, end - begin))
                found = geometries[pairs["row"][begin:end]]
                yield pairs[begin:end], found, np.split(indices[kept].astype(np.uint32), bounds)

    def _ranges_of_images(self) -> list[tuple[int, int]]:
        """The first row and the last row + 1 of the images of every bucket."""
        starts = range(0, len(self.names), self.images_a_bucket)
        return [(start, min(start + self.images_a_bucket, len(self.names))) for start in starts]


def _batches(sizes: np.ndarray, begin: int, stop: int) -> Iterator[tuple[int, int]]:
    """Cut begin … stop into batches (begin, end).

    The sizes of a batch add up to BATCH at most, unless it is a single item.
    """
    totals = np.concatenate([[0], np.cumsum(sizes[begin:stop])])
    first = begin
    while begin < stop:
        limit = totals[begin - first] + BATCH
        end = max(begin + 1, first + int(np.searchsorted(totals, limit, "right")) - 1)
        yield begin, end
        begin = end


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """For every start the numbers start, start + 1, …, as many as its length; all in one array."""
    return np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
