"""Deal out the inlier matches of some shards: observations by image, geometries by pair.

In and out:
    MATCHES of a few shards → PAIR rows, and two files: observations and geometries, by ranges
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ReconstructionError
from pipeline.match.turns.tries import Settled
from pipeline.reconstruct.merging.pieces import (
    GEOMETRY,
    OBSERVATION,
    PAIR,
    Ranges,
    Written,
    write_pieces,
)
from pipeline.store.folder import Folder
from pipeline.vocabulary import VERIFIED

COLUMNS = (
    *("image0", "image1", "keypoints0", "keypoints1", "scores"),
    *("geometry", "inliers", "E", "F", "H", "pose"),
)


@dataclass(frozen=True)
class Shards:
    """Match tables that one task deals out: the task's number, and the run and name of each."""

    number: int
    tables: list[tuple[int, str]]


@dataclass(frozen=True)
class Dealt:
    """What a task found.

    pairs: (P,) PAIR of the verified pairs with matches. `start` and `row` count within the parts
        of the files.
    seen: rows of the tables. outside: matches left out because an endpoint lies outside its image.
    """

    number: int
    pairs: np.ndarray
    observations: Written
    geometries: Written
    seen: int
    outside: int


@dataclass(frozen=True)
class _Table:
    """The verified pairs of one table, and their inliers.

    pairs: (P,) PAIR without where their pieces are. geometries: (P,) GEOMETRY. sides: (2, M)
    OBSERVATION. seen: rows of the table. outside: matches left out.
    """

    pairs: np.ndarray
    geometries: np.ndarray
    sides: np.ndarray
    seen: int
    outside: int


class DealShards:
    """A stage that deals out match tables.

    runs: their tables. names: (N,) str, sorted. size: (N, 2) width and height of the upright
    images, pixels. folder: where the files go.
    """

    def __init__(
        self,
        runs: Sequence[Settled],
        names: np.ndarray,
        size: np.ndarray,
        ranges: Ranges,
        folder: Folder,
    ) -> None:
        self.runs, self.names, self.size = runs, names, size
        self.ranges, self.folder = ranges, folder

    def __call__(self, shards: Shards, attempt: int) -> Dealt:
        """Deal out a few tables.

        Raises ReconstructionError for a table that is not verified, names unknown images or holds
        impossible numbers.
        """
        found = [self._read(run, name) for run, name in shards.tables]
        pairs = np.concatenate([one.pairs for one in found])
        observed = np.concatenate([one.sides[side] for side in (0, 1) for one in found])
        geometries = np.concatenate([one.geometries for one in found])
        n, name = len(self.ranges), f"{shards.number:05}"
        images = np.concatenate([pairs["image0"], pairs["image1"]])
        pieces = self.ranges.of(images), np.tile(pairs["length"], 2), observed
        observations = write_pieces(self.folder, f"observations/{name}", *pieces, n)
        pieces = self.ranges.low(pairs), np.ones(len(pairs), np.int64), geometries
        rows = write_pieces(self.folder, f"geometries/{name}", *pieces, n)
        pairs["start"], pairs["row"] = observations.starts.reshape(2, -1).T, rows.starts
        seen, outside = sum(one.seen for one in found), sum(one.outside for one in found)
        matched = pairs[pairs["length"] > 0]
        return Dealt(shards.number, matched, observations, rows, seen, outside)

    def _read(self, run: int, name: str) -> _Table:
        table = self.runs[run].read(name, COLUMNS)
        source = f"{self.runs[run].run.shown}/{name}" if len(self.runs) > 1 else name
        seen = len(table)
        if table["geometry"].null_count:
            raise ReconstructionError(
                f"{source}: is not verified; run eloftr match to its end first."
            )
        verified = pa.array(VERIFIED, pa.string())
        table = table.filter(pc.is_in(table["geometry"], verified)).combine_chunks()
        pairs = np.zeros(len(table), PAIR)
        for side in ("image0", "image1"):
            pairs[side] = self._rows_of(np.array(table[side].to_pylist(), dtype=object), source)
        if (pairs["image0"] == pairs["image1"]).any():
            raise ReconstructionError(
                f"{source}: holds an image matched with itself; plan the pairs again."
            )
        lengths, xy0, xy1, scores = _inliers(table, source)
        pair = np.repeat(np.arange(len(pairs)), lengths)
        inside = np.ones(len(pair), bool)
        for xy, side in ((xy0, "image0"), (xy1, "image1")):
            last = (self.size[pairs[side]] - 0.5)[pair]
            inside &= ((xy >= -0.5) & (xy <= last)).all(axis=1)
        if not inside.all():
            xy0, xy1, scores, pair = (one[inside] for one in (xy0, xy1, scores, pair))
        pairs["length"] = np.bincount(pair, minlength=len(pairs))
        observed = np.empty((2, len(scores)), OBSERVATION)
        observed["xy"], observed["score"] = (xy0, xy1), scores
        return _Table(pairs, _geometries(table), observed, seen, int((~inside).sum()))

    def _rows_of(self, names: np.ndarray, source: str) -> np.ndarray:
        rows = np.minimum(np.searchsorted(self.names, names), len(self.names) - 1)
        unknown = self.names[rows] != names
        if unknown.any():
            raise ReconstructionError(
                f"{source}: matches {names[unknown][0]!r}, which is not in images/*.parquet; "
                "match again."
            )
        return rows


def _inliers(table: pa.Table, source: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The inliers of P pairs: how many each has (P,), xy in both images (M, 2), scores (M,)."""
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
    xy0, xy1 = (column.reshape(-1, 2) for column in columns[:2])
    scores, inliers = columns[2:]
    if not inliers.all():
        xy0, xy1, scores = xy0[inliers], xy1[inliers], scores[inliers]
    good = np.isfinite(scores).all() and (scores >= 0).all()
    if not (good and np.isfinite(xy0).all() and np.isfinite(xy1).all()):
        raise ReconstructionError(
            f"{source}: holds coordinates or scores that are not finite; match this shard again."
        )
    ends = np.concatenate([[0], np.cumsum(inliers)])[np.concatenate([[0], np.cumsum(lengths[0])])]
    return np.diff(ends), xy0, xy1, scores


def _geometries(table: pa.Table) -> np.ndarray:
    """The two-view geometries of P verified pairs: (P,) GEOMETRY."""
    made = np.zeros(len(table), GEOMETRY)
    made["geometry"] = pc.index_in(table["geometry"], pa.array(VERIFIED, pa.string())).to_numpy()
    for name in ("E", "F", "H", "pose"):
        column = table[name].combine_chunks()
        values = column.values.to_numpy(zero_copy_only=False).reshape(made[name].shape)
        present = column.is_valid().to_numpy(zero_copy_only=False)
        made[name] = np.where(present[:, None], values, np.nan)
    return made
