"""Merge the coordinates that pairs propose into keypoints shared by all pairs of an image.

A detector-free matcher proposes new sub-pixel coordinates in every pair, so one scene point seen in
ten pairs is ten nearby observations. They become one keypoint in two steps, and both can stream:

    by image  merge_keypoints  observations (N, 2), scores (N,)
                               → keypoints (K, 2), spread (K,), each observation's keypoint (N,)
    by pair   merge_matches    keypoint indices (N,) ×2, scores (N,) → the matches that stay

Observations are sorted into bins. A bin wins where no bin with a higher sum of scores lies within
the radius. Every other bin joins its nearest winner. A keypoint is the mean of its observations,
weighted by their scores. The observations are put into a canonical order first, so the result is
the same, bit for bit, in whatever order they come.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

BINS_PER_RADIUS = 4
SUB_BITS = 4  # the lowest bits of a bin's key: which of the 4 × 4 bins of its cell it is
BELOW = 1 << 18  # the difference between a cell's key and the key of the cell below
CHUNK = 1 << 18  # candidate neighbours compared at a time; as many fit into a core's cache


@dataclass(frozen=True)
class MergedKeypoints:
    """The keypoints of several images. Image `i` has rows `offsets[i] : offsets[i + 1]`."""

    xy: np.ndarray  # (K, 2) float32, in the coordinates of the observations
    spread: np.ndarray  # (K,) float32, RMS distance of the merged observations to the keypoint
    count: np.ndarray  # (K,) int32, number of merged observations
    offsets: np.ndarray  # (images + 1,) int64
    index: np.ndarray  # (N,) int32, the keypoint of each observation, counted within its image


def merge_keypoints(
    image: np.ndarray, xy: np.ndarray, weights: np.ndarray, radius: np.ndarray
) -> MergedKeypoints:
    """Cluster the observations of each image within a radius.

    image: (N,) integers below len(radius). xy: (N, 2) pixels. weights: (N,) scores, not negative.
    radius: (images,) pixels, above zero.

    Takes about 1 µs per observation, O(N log N). The observations of one keypoint lie within the
    radius, plus half a bin (radius / 8 per axis), of the bin that won.

    Raises ValueError for shapes that disagree, numbers that are not finite, negative weights and
    unknown images.
    """
    image, radius = np.asarray(image, np.int64), np.asarray(radius, np.float64)
    xy, weights = np.asarray(xy, np.float32), np.asarray(weights, np.float32)
    if not (image.shape == weights.shape and xy.shape == (*image.shape, 2) and radius.ndim == 1):
        raise ValueError(
            f"merge_keypoints: shapes {image.shape}, {xy.shape} and {weights.shape} disagree."
        )
    if not (np.isfinite(xy).all() and np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError(
            "merge_keypoints: coordinates must be finite and weights finite and not negative."
        )
    if len(image) and (image.min() < 0 or image.max() >= len(radius)):
        raise ValueError(f"merge_keypoints: image numbers must lie in 0…{len(radius) - 1}.")
    if not (np.isfinite(radius).all() and (radius > 0).all()):
        raise ValueError("merge_keypoints: every radius must be a positive number of pixels.")

    unit = xy.astype(np.float64) / radius[image, None]  # one radius = 1 in every image
    keys = _bin_keys(image, np.floor(unit * BINS_PER_RADIUS))
    # The order is canonical, so that sums always round in the same way: by bin, and within a bin by
    # the bits of the numbers.
    order = _sorted_by(
        keys, weights.view(np.uint32), np.ascontiguousarray(xy).view(np.uint64).ravel()
    )
    # Taking rows is faster than indexing them.
    image, unit, keys = image[order], unit.take(order, axis=0), keys[order]
    weight = np.maximum(weights[order], np.finfo(np.float32).tiny).astype(np.float64)

    # A bin is a quarter of the radius wide. Bins are as precise as single observations, and there
    # are far fewer of them where pairs overlap.
    begins = _begins(keys)
    bin_of = np.cumsum(begins) - 1
    bin_image, bin_cell = image[begins], keys[begins] >> SUB_BITS
    bin_weight = np.bincount(bin_of, weight, len(bin_cell))
    winners, nearest = _suppress(
        bin_cell, _weighted_mean(unit, weight, bin_of, bin_weight), bin_weight
    )
    winner_of = nearest[bin_of]

    total = np.bincount(winner_of, weight, len(winners))
    mean = _weighted_mean(unit, weight, winner_of, total)
    count = np.bincount(winner_of, minlength=len(winners))
    off = unit - mean.take(winner_of, axis=0)
    square = np.bincount(winner_of, off[:, 0] ** 2 + off[:, 1] ** 2, len(winners))
    scale = radius[bin_image[winners]]
    # Winners are ordered by image.
    offsets = np.searchsorted(bin_image[winners], np.arange(len(radius) + 1))
    index = np.empty(len(order), np.int32)
    index[order] = winner_of - offsets[image]
    return MergedKeypoints(
        xy=(mean * scale[:, None]).astype(np.float32),
        spread=(np.sqrt(square / np.maximum(count, 1)) * scale).astype(np.float32),
        count=count.astype(np.int32),
        offsets=offsets,
        index=index,
    )


def merge_matches(
    pair: np.ndarray, index0: np.ndarray, index1: np.ndarray, scores: np.ndarray
) -> np.ndarray:
    """Choose the matches that stay when their endpoints have become shared keypoints.

    pair: (N,) integers. index0, index1: (N,) keypoints of the pair's images. scores: (N,).
    Returns (M,) rows of the input, ordered by pair and index0. A match stays where it has the
    highest score of its pair at both of its keypoints. So no keypoint occurs twice in a pair.
    """
    pair, index0, index1 = (np.asarray(column, np.int64) for column in (pair, index0, index1))
    scores, couple = np.asarray(scores, np.float64), index0 << 32 | index1
    stays = np.ones(len(pair), bool)
    for index in (index0, index1):
        keys = pair << 32 | index
        best_first = _sorted_by(keys, couple, -scores)
        stays[best_first[~_begins(keys[best_first])]] = False
    kept = np.flatnonzero(stays)
    return kept[np.argsort(pair[kept] << 32 | index0[kept])]


def _bin_keys(image: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """Keys that sort bins by image, cell y, cell x and bin: (N,) int64.

    image: (N,). bins: (N, 2) whole bin numbers (x, y).
    A cell is one radius wide, and the upper bits of a key are the key of its cell. A key has 20
    bits per axis and 22 for the image, so bins reach 131,072 radii from the origin. Raises
    ValueError beyond that.
    """
    x, y = (bins.astype(np.int64) + (1 << 19)).T
    if len(image) and (
        min(x.min(), y.min()) < 4
        or max(x.max(), y.max()) >= (1 << 20) - 4
        or image.max() >= 1 << 22
    ):
        raise ValueError(
            "merge_keypoints: coordinates far outside the image, or over 4 million images."
        )
    cell = image << 36 | (y >> 2) << 18 | x >> 2
    keys: np.ndarray = cell << SUB_BITS | (y & 3) << 2 | x & 3
    return keys


def _sorted_by(keys: np.ndarray, *minor: np.ndarray) -> np.ndarray:
    """Do `np.lexsort((*minor, keys))`, several times faster where most keys are unique."""
    order = np.argsort(keys)
    shared = ~_begins(keys[order])
    shared[:-1] |= shared[1:]
    rows = order[shared]
    order[shared] = rows[np.lexsort((*(column[rows] for column in minor), keys[rows]))]
    return order


def _begins(keys: np.ndarray) -> np.ndarray:
    """Which of the sorted keys differ from the one before: (N,) bool."""
    begins = np.ones(len(keys), bool)
    begins[1:] = keys[1:] != keys[:-1]
    return begins


def _weighted_mean(
    xy: np.ndarray, weight: np.ndarray, group: np.ndarray, total: np.ndarray
) -> np.ndarray:
    return np.stack(
        [np.bincount(group, weight * xy[:, axis], len(total)) / total for axis in (0, 1)], axis=1
    )


def _suppress(
    cell: np.ndarray, xy: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find the rows that win, and the nearest winner of every row.

    Returns the winning rows, and for every row the position of its nearest winner among them. A
    winner is its own nearest, the others have one within distance 1, and of equally near winners
    the first is taken.

    The result is that of the greedy loop over rows by priority (weight, then order of rows), where
    a row wins unless it lies within distance 1 of an earlier winner. It is found in parallel: in
    each round every row wins whose stronger neighbours have all lost, and the weaker neighbours of
    the winners lose. Few rounds are needed.
    """
    nothing = (np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0))
    first, second, square = (
        np.concatenate(column) for column in zip(nothing, *_couples(cell, xy), strict=True)
    )
    ahead = weight[first] >= weight[second]
    weak, strong = np.where(ahead, second, first), np.where(ahead, first, second)
    edges = np.stack([weak, strong])
    undecided, wins = np.ones(len(xy), bool), np.zeros(len(xy), bool)
    while edges.size:
        winning = undecided.copy()
        winning[edges[0]] = False
        wins |= winning
        undecided &= ~winning
        undecided[edges[0, winning[edges[1]]]] = False
        edges = edges[:, undecided[edges[0]] & undecided[edges[1]]]
    wins |= undecided

    winners = np.flatnonzero(wins)
    position = np.cumsum(wins) - 1
    decided = wins[first] != wins[second]
    first, second, square = first[decided], second[decided], square[decided]
    loser, winner = np.where(wins[first], second, first), np.where(wins[first], first, second)
    least = np.full(len(xy), np.inf)
    np.minimum.at(least, loser, square)
    closest = square == least[loser]
    nearest = np.where(wins, position, len(xy))
    np.minimum.at(nearest, loser[closest], position[winner[closest]])
    return winners, nearest


def _couples(
    cell: np.ndarray, xy: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Find all couples of rows of one image within distance 1, in chunks.

    cell: (N,) sorted keys of the unit cells by image, y, x. xy: (N, 2).
    Yields rows, later rows and squared distances. A row is compared with two slices of later rows:
    those in its own cell and the cell to the right, and those in the three cells below.
    """
    below = np.searchsorted(cell, cell + BELOW - 1, "left")
    starts = np.stack([np.arange(1, len(cell) + 1), below], axis=1)
    right_end, below_end = (np.searchsorted(cell, cell + step, "right") for step in (1, BELOW + 1))
    stops = np.stack([right_end, below_end], axis=1)
    lengths = stops - starts
    compared = lengths[:, 0] + lengths[:, 1]
    ends = np.cumsum(compared)
    x, y = np.ascontiguousarray(xy.T)
    begin = 0
    while begin < len(cell):
        done = ends[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, done + CHUNK, "right")))
        chunk = lengths[begin:end].ravel()
        row = np.repeat(np.arange(begin, end), compared[begin:end])
        first = starts[begin:end].ravel() - (np.cumsum(chunk) - chunk)
        other = np.repeat(first, chunk) + np.arange(len(row))
        square = (x[row] - x[other]) ** 2 + (y[row] - y[other]) ** 2
        near = np.flatnonzero(square <= 1)
        yield row[near].astype(np.int32), other[near].astype(np.int32), square[near]
        begin = end
