"""The inlier matches of all verified pairs, in plain files on a local disk, read back by image and by pair.

    add(MATCHES) × shards → finish() → merge_images() → merge_pairs()

Merging needs the matches twice in another order than the shards have them, and they do not fit in memory: a
million pairs of 300 matches are 8 GB. One pair is one contiguous piece of every file, so both orders are a
list of pieces.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.keypoints import MergedKeypoints, merge_keypoints, merge_matches
from pipeline.verification import GEOMETRIES

BATCH = 1 << 20  # observations or matches worked on together: bounds the memory

MATCH = np.dtype([("xy", np.float32, (2, 2)), ("score", np.float32)])  # x, y in either image
INDEX = np.dtype((np.int32, 2))  # keypoint in either image
PAIR = np.dtype(
    [
        *(("image0", np.int64), ("image1", np.int64)),  # rows of the images
        *(("start", np.int64), ("length", np.int64)),  # its piece of the files
        ("row", np.int64),  # of `geometries`
    ]
)
GEOMETRY = np.dtype(
    [
        ("geometry", np.int64),  # index into GEOMETRIES
        *(("E", np.float64, 9), ("F", np.float64, 9), ("H", np.float64, 9), ("pose", np.float64, 7)),  # NaN: none
    ]
)


class SpoolError(Exception):
    """A match table cannot be used; the message is one sentence for a person."""


class MatchSpool:
    """Inlier matches on disk. Its memory is about 150 bytes per pair, and one batch.

    folder: an empty local folder. names: (N,) str, sorted; width, height: (N,) of the upright images.
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
    FILES: ClassVar[dict[str, np.dtype]] = {"matches": MATCH, "index": INDEX, "geometries": GEOMETRY}

    def __init__(self, folder: Path, names: np.ndarray, width: np.ndarray, height: np.ndarray) -> None:
        self.folder, self.names, self.size = folder, names, np.stack([width, height], axis=1)
        self.rows: list[np.ndarray] = []
        for file in self.FILES:
            (folder / file).touch()
        self.total = self.found = self.pairs = self.outside = self.duplicates = 0

    def add(self, table: pa.Table, source: str) -> None:
        """Append the inliers of the verified pairs of a MATCHES table.

        Matches with an endpoint outside its image are left out and counted. Raises SpoolError, naming
        `source`, for a table that is not verified, names unknown images or holds impossible numbers.
        """
        self.pairs += len(table)
        if table["geometry"].null_count:
            raise SpoolError(f"{source}: is not verified; run the matching job to its end first.")
        table = table.filter(pc.is_in(table["geometry"], pa.array(GEOMETRIES))).combine_chunks()
        if not len(table):
            return
        pairs = np.zeros(len(table), PAIR)
        for side in ("image0", "image1"):
            pairs[side] = self._rows_of(np.array(table[side].to_pylist(), dtype=object), source)
        pairs["row"] = self.found + np.arange(len(pairs))
        geometries = np.zeros(len(table), GEOMETRY)
        geometries["geometry"] = pc.index_in(table["geometry"], pa.array(GEOMETRIES)).to_numpy()
        for name in ("E", "F", "H", "pose"):
            column = table[name].combine_chunks()
            values = column.values.to_numpy(zero_copy_only=False).reshape(len(table), -1)
            geometries[name] = np.where(column.is_valid().to_numpy(zero_copy_only=False)[:, None], values, np.nan)

        lengths, columns = [], []
        for name in ("keypoints0", "keypoints1", "scores", "inliers"):
            column = table[name].combine_chunks()
            lengths.append(pc.fill_null(pc.list_value_length(column), 0).to_numpy())
            flat = column.flatten()
            columns.append((flat.flatten() if name.startswith("key") else flat).to_numpy(zero_copy_only=False))
        if any((length != lengths[0]).any() for length in lengths):
            raise SpoolError(f"{source}: lists of one pair differ in length; match this shard again.")
        inliers = columns[3]
        xy0, xy1, scores = columns[0].reshape(-1, 2)[inliers], columns[1].reshape(-1, 2)[inliers], columns[2][inliers]
        pair = np.repeat(np.arange(len(pairs)), lengths[0])[inliers]
        good = np.isfinite(xy0).all(axis=1) & np.isfinite(xy1).all(axis=1) & np.isfinite(scores) & (scores >= 0)
        if not good.all():
            raise SpoolError(f"{source}: holds coordinates or scores that are not finite; match this shard again.")
        if (pairs["image0"] == pairs["image1"]).any():
            raise SpoolError(f"{source}: holds an image matched with itself; plan the pairs again.")

        inside = np.ones(len(pair), bool)
        for xy, side in ((xy0, "image0"), (xy1, "image1")):
            inside &= ((xy >= -0.5) & (xy <= self.size[pairs[side][pair]] - 0.5)).all(axis=1)
        self.outside += int((~inside).sum())
        pairs["length"] = np.bincount(pair[inside], minlength=len(pairs))
        pairs["start"] = self.total + np.cumsum(pairs["length"]) - pairs["length"]
        self.total += int(pairs["length"].sum())
        self.found += len(pairs)
        matches = np.empty(int(inside.sum()), MATCH)
        matches["xy"], matches["score"] = np.stack([xy0[inside], xy1[inside]], axis=1), scores[inside]
        for name, values in (("matches", matches), ("geometries", geometries)):
            with open(self.folder / name, "ab") as file:
                values.tofile(file)
        self.rows.append(pairs[pairs["length"] > 0])

    def _rows_of(self, names: np.ndarray, source: str) -> np.ndarray:
        rows = np.minimum(np.searchsorted(self.names, names), len(self.names) - 1)
        unknown = self.names[rows] != names
        if unknown.any():
            raise SpoolError(f"{source}: matches {names[unknown][0]!r}, which is not in images/*.parquet; match again.")
        return rows

    def finish(self) -> np.ndarray:
        """(P,) PAIR, each two images once, ordered by image numbers, the lower one first."""
        pairs = np.concatenate(self.rows) if self.rows else np.zeros(0, PAIR)
        self.rows = []
        low, high = np.minimum(pairs["image0"], pairs["image1"]), np.maximum(pairs["image0"], pairs["image1"])
        order = np.lexsort((-pairs["length"], high, low))  # of a repeated pair, the one with most inliers
        repeated = np.zeros(len(pairs), bool)
        repeated[1:] = (np.diff(low[order]) == 0) & (np.diff(high[order]) == 0)
        self.duplicates = int(repeated.sum())
        os.truncate(self.folder / "index", INDEX.itemsize * self.total)
        return pairs[order[~repeated]]

    def merge_images(self, pairs: np.ndarray, radii: np.ndarray) -> Iterator[tuple[int, MergedKeypoints]]:
        """For runs of consecutive images (first row, their keypoints); notes each observation's keypoint.

        pairs: PAIR rows of `finish`; radii: (N,) merge radius of each image, pixels.
        """
        image = np.concatenate([pairs["image0"], pairs["image1"]])
        order = np.argsort(image, kind="stable")  # entry e is side e // P of pair e % P
        lengths, starts = (np.tile(pairs[name], 2)[order] for name in ("length", "start"))
        bounds = np.searchsorted(image[order], np.arange(len(radii) + 1))  # entries of every image
        observations = np.diff(np.concatenate([[0], np.cumsum(lengths)])[bounds])
        for begin, end in _batches(observations):
            entries = slice(bounds[begin], bounds[end])
            rows = _ranges(starts[entries], lengths[entries])
            side = np.repeat((order[entries] >= len(pairs)).astype(np.int8), lengths[entries])
            which = np.repeat(image[order[entries]] - begin, lengths[entries])
            matches = self._open("matches")
            merged = merge_keypoints(which, matches["xy"][rows, side], matches["score"][rows], radii[begin:end])
            self._open("index")[rows, side] = merged.index
            yield begin, merged

    def merge_pairs(self, pairs: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, list[np.ndarray]]]:
        """After `merge_images`: for runs of consecutive pairs (PAIR, GEOMETRY, (m, 2) uint32 keypoints each)."""
        for begin, end in _batches(pairs["length"]):
            lengths = pairs["length"][begin:end]
            rows = _ranges(pairs["start"][begin:end], lengths)
            pair = np.repeat(np.arange(end - begin), lengths)
            indices, scores = self._open("index")[rows], self._open("matches")["score"][rows]
            kept = merge_matches(pair, indices[:, 0], indices[:, 1], scores)
            bounds = np.searchsorted(pair[kept], np.arange(1, end - begin))
            found = self._open("geometries")[pairs["row"][begin:end]]
            yield pairs[begin:end], found, np.split(indices[kept].astype(np.uint32), bounds)

    def _open(self, name: str) -> np.ndarray:
        path, kind = self.folder / name, self.FILES[name]
        if not path.stat().st_size:  # which cannot be mapped
            return np.empty((0, *kind.shape), kind.base)
        # Mapped anew for every batch: pages once read are not held against this process's memory.
        with open(path, "r+b") as file:
            mapped = mmap.mmap(file.fileno(), 0)
        mapped.madvise(mmap.MADV_RANDOM)  # pieces lie apart: reading ahead would read many times the file
        return np.frombuffer(mapped, kind.base).reshape(-1, *kind.shape)


def _batches(sizes: np.ndarray) -> Iterator[tuple[int, int]]:
    """Consecutive (begin, end) whose sizes add up to BATCH at most, or that hold one item."""
    totals = np.concatenate([[0], np.cumsum(sizes)])
    begin = 0
    while begin < len(sizes):
        end = max(begin + 1, int(np.searchsorted(totals, totals[begin] + BATCH, "right")) - 1)
        yield begin, end
        begin = end


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """start, start + 1, … for every start, one after the other."""
    return np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
