"""Merge the observations of a range of images, and then the matches of its pairs.

The stages:
    MergeImages  observations of one range → keypoints of its images; the keypoint of every
                 observation, dealt out by pair
    MergePairs   keypoints of both sides   → the matches that stay, and their pairs' geometries
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.reconstruct.merging.keypoints import merge_keypoints, merge_matches
from pipeline.reconstruct.merging.masked import ImageMasks, merge_masked
from pipeline.reconstruct.merging.pieces import (
    MERGED,
    RangePart,
    Written,
    read_part,
    runs,
    write_pieces,
)
from pipeline.store.folder import Folder

BATCH = 1 << 17  # observations or matches worked on at a time; they fit into a core's cache


@dataclass(frozen=True)
class ImageRange:
    """The observations of consecutive images, which come in pieces, one a pair and side.

    first: row of the first image.
    image: (E,) the image of each piece, from 0, sorted. lengths, starts: (E,) where it lies in the
    observations of the range. target: (E,) range of the piece's pair. radii: merge radius of each
    image, pixels. ranges: how many there are.
    """

    number: int
    first: int
    image: np.ndarray
    lengths: np.ndarray
    starts: np.ndarray
    target: np.ndarray
    radii: np.ndarray
    ranges: int
    observations: RangePart


@dataclass(frozen=True)
class MergedImages:
    """Where the keypoints of a range are, and the keypoint of every observation.

    The keypoint of an observation in a masked place is −1.

    name: file of `xy`, `spread` and `count`, those of one image after those of the other; `count`
    tells how many each image has. merged: pieces as in ImageRange.
    """

    number: int
    name: str
    merged: Written
    failures: list[str]


class MergeImages:
    """A stage that merges the observations of a range.

    folder: where the files are. masks: of the images; None: there are none.
    """

    def __init__(self, folder: Folder, masks: ImageMasks | None = None) -> None:
        self.folder, self.masks = folder, masks

    def __call__(self, task: ImageRange, attempt: int) -> MergedImages:
        """Merge the observations of every image, and deal out their keypoints by pair."""
        observed = read_part(self.folder, task.observations)
        bounds = np.searchsorted(task.image, np.arange(len(task.radii) + 1))
        sizes = np.diff(np.concatenate([[0], np.cumsum(task.lengths)])[bounds])
        found, pieces = [], [np.empty(0, MERGED)]
        failures: list[str] = []
        for begin, end in _batches(sizes):
            entries = slice(bounds[begin], bounds[end])
            lengths = task.lengths[entries]
            mine = observed[runs(task.starts[entries], lengths)]
            which = np.repeat(task.image[entries] - begin, lengths)
            what = which, mine["xy"], mine["score"], task.radii[begin:end]
            if self.masks is None:
                merged = merge_keypoints(*what)
            else:
                read = [self.masks.read(row) for row in range(task.first + begin, task.first + end)]
                merged = merge_masked(*what, [mask for mask, _ in read])
                failures += [failure for _, failure in read if failure]
            piece = np.empty(len(mine), MERGED)
            piece["keypoint"], piece["score"] = merged.index, mine["score"]
            pieces.append(piece)
            found.append((merged.xy, merged.spread, np.diff(merged.offsets)))
        name = f"keypoints/{task.number:05}"
        xy, spread, count = (np.concatenate(column) for column in zip(*found, strict=True))
        publish_arrays(self.folder, name, xy=xy, spread=spread, count=count)
        written = write_pieces(
            *(self.folder, f"merged/{task.number:05}", task.target, task.lengths),
            *(np.concatenate(pieces), task.ranges),
        )
        return MergedImages(task.number, name, written, failures)


@dataclass(frozen=True)
class PairRange:
    """The pairs whose first image lies in a range: (P,) PAIR, and where their pieces are."""

    number: int
    pairs: np.ndarray
    merged: RangePart
    geometries: RangePart


@dataclass(frozen=True)
class MergedPairs:
    """The file with the matches of the pairs of a range.

    It holds `pairs` (P,) PAIR, `geometries` (P,) GEOMETRY, `matches` (M, 2) uint32, and `count`
    (P,), the number of matches of each pair. matches: of all pairs. verified: pairs with a match.
    masked: matches left out because an endpoint lies in a masked place.
    """

    number: int
    name: str
    matches: int
    verified: int
    masked: int


class MergePairs:
    """A stage that merges the matches of the pairs of a range. folder: where the files are."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    def __call__(self, task: PairRange, attempt: int) -> MergedPairs:
        """Choose the matches that stay."""
        pairs, merged = task.pairs, read_part(self.folder, task.merged)
        matches, counts = [np.empty((0, 2), np.uint32)], [np.empty(0, np.int64)]
        masked = 0
        for begin, end in _batches(pairs["length"]):
            lengths = pairs["length"][begin:end]
            of_pair = np.repeat(np.arange(end - begin), lengths)
            sides = [merged[runs(pairs["start"][begin:end, side], lengths)] for side in (0, 1)]
            indices = np.stack([side["keypoint"] for side in sides], axis=1)
            # Observations in masked places have no keypoint.
            seen = np.flatnonzero((indices >= 0).all(axis=1))
            masked += len(indices) - len(seen)
            of_pair, indices, scores = of_pair[seen], indices[seen], sides[0]["score"][seen]
            kept = merge_matches(of_pair, indices[:, 0], indices[:, 1], scores)
            matches.append(indices[kept].astype(np.uint32))
            counts.append(np.bincount(of_pair[kept], minlength=end - begin))
        name = f"pairs/{task.number:05}"
        together, count = np.concatenate(matches), np.concatenate(counts)
        publish_arrays(
            *(self.folder, name),
            pairs=pairs,
            geometries=read_part(self.folder, task.geometries)[pairs["row"]],
            matches=together,
            count=count,
        )
        return MergedPairs(task.number, name, len(together), int((count > 0).sum()), masked)


def publish_arrays(folder: Folder, name: str, **arrays: np.ndarray) -> None:
    """Write named arrays to one file."""
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy takes the names for its own
    folder.publish(name, pa.py_buffer(file.getbuffer()), lasting=False)


def read_arrays(folder: Folder, name: str) -> dict[str, np.ndarray]:
    """The arrays of a file of `publish_arrays`."""
    with np.load(io.BytesIO(folder.read_bytes(name)), allow_pickle=False) as found:
        return dict(found)


def _batches(sizes: np.ndarray) -> Iterator[tuple[int, int]]:
    """Cut items into batches (begin, end).

    The sizes of a batch add up to BATCH at most, unless it is a single item.
    """
    totals = np.concatenate([[0], np.cumsum(sizes)])
    begin = 0
    while begin < len(sizes):
        end = max(begin + 1, int(np.searchsorted(totals, totals[begin] + BATCH, "right")) - 1)
        yield begin, end
        begin = end
