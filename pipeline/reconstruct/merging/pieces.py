"""Pieces of arrays in files, dealt out by ranges of images: what one task writes and another reads.

    write_pieces   one task's pieces → one file, in which the pieces of each range lie together
    Parts.of       all files         → where each range lies in each of them
    read_part      one range         → its part of every file, one after the other

A file is published whole under the name of its task, so a task can run twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.store.folder import Folder

OBSERVATION = np.dtype([("xy", np.float32, 2), ("score", np.float32)])
MERGED = np.dtype([("keypoint", np.int32), ("score", np.float32)])
PAIR = np.dtype(
    [
        ("image0", np.int64),  # rows of the images
        ("image1", np.int64),
        ("start", np.int64, 2),  # where its observations start in the ranges of both images
        ("length", np.int64),  # number of matches
        ("row", np.int64),  # its row among the geometries of its range
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


@dataclass(frozen=True)
class Ranges:
    """Runs of consecutive images. Each holds `size` of the `images`, the last one the rest."""

    images: int
    size: int

    def __len__(self) -> int:
        return -(-self.images // self.size)

    def of(self, images: np.ndarray) -> np.ndarray:
        """The range of each image, given by rows."""
        return images // self.size

    def low(self, pairs: np.ndarray) -> np.ndarray:
        """The range of each pair of PAIR, which is that of its first image."""
        return self.of(np.minimum(pairs["image0"], pairs["image1"]))

    def bounds(self, number: int) -> tuple[int, int]:
        """The first row and the last row + 1 of a range."""
        return number * self.size, min((number + 1) * self.size, self.images)


@dataclass(frozen=True)
class Written:
    """A file of pieces.

    starts: (P,) where each piece starts within its range's part of the file.
    bounds: (ranges + 1,) where the parts of the ranges lie.
    """

    name: str
    starts: np.ndarray
    bounds: np.ndarray


def write_pieces(
    folder: Folder, name: str, ranges: np.ndarray, lengths: np.ndarray, values: np.ndarray, n: int
) -> Written:
    """Write pieces to one file, by range.

    ranges, lengths: (P,). values: the pieces one after the other, as many as the lengths add up to.
    n: the number of ranges.
    """
    order = np.argsort(ranges, kind="stable")
    ends = np.cumsum(lengths[order])
    totals = np.bincount(ranges, lengths, n).astype(np.int64)
    bounds = np.concatenate([[0], np.cumsum(totals)])
    starts = np.empty(len(ranges), np.int64)
    starts[order] = ends - lengths[order] - bounds[ranges[order]]
    if (order[1:] < order[:-1]).any():
        values = values[runs((np.cumsum(lengths) - lengths)[order], lengths[order])]
    folder.publish(name, pa.py_buffer(np.ascontiguousarray(values)), lasting=False)
    return Written(name, starts, bounds)


@dataclass(frozen=True)
class RangePart:
    """What one range has in every file. first, last: (files,) its first element and last + 1."""

    kind: np.dtype
    names: list[str]
    first: np.ndarray
    last: np.ndarray


@dataclass(frozen=True)
class Parts:
    """Files of pieces of one kind, in the order in which their parts are put together.

    bounds: (files, ranges + 1).
    """

    kind: np.dtype
    names: list[str]
    bounds: np.ndarray

    @classmethod
    def of(cls, kind: np.dtype, files: Sequence[Written], n: int) -> Parts:
        """n: the number of ranges."""
        bounds = np.array([file.bounds for file in files], np.int64).reshape(len(files), n + 1)
        return cls(kind, [file.name for file in files], bounds)

    def before(self) -> np.ndarray:
        """How many elements of a range lie in the files before: (files, ranges)."""
        sizes = np.diff(self.bounds, axis=1)
        before: np.ndarray = np.cumsum(sizes, axis=0) - sizes
        return before

    def part(self, number: int) -> RangePart:
        """That of one range. Files without anything of it are left out."""
        first, last = self.bounds[:, number], self.bounds[:, number + 1]
        some = np.flatnonzero(last > first)
        return RangePart(self.kind, [self.names[row] for row in some], first[some], last[some])


def read_part(folder: Folder, part: RangePart) -> np.ndarray:
    """All elements of a range, (n,) of the part's kind."""
    size = part.kind.itemsize
    found = [np.empty(0, part.kind)]
    for name, first, last in zip(part.names, part.first.tolist(), part.last.tolist(), strict=True):
        found.append(np.frombuffer(folder.read_range(name, first * size, last * size), part.kind))
    return np.concatenate(found)


def runs(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """For every start the numbers start, start + 1, …, as many as its length; all in one array."""
    return np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
