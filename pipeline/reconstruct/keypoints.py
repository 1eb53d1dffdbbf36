"""Pair-local coordinates → keypoints shared by all pairs of an image.

A detector-free matcher proposes new sub-pixel coordinates in every pair, so one scene point seen in
ten pairs is ten nearby observations. Here they become one keypoint, in two steps that stream:

    by image  merge_keypoints   observations (N, 2) + scores → keypoints (K, 2), spread (K,),
    keypoint of each
    (N,) by pair   merge_matches     keypoint indices (N,) ×2 + scores → the matches that stay
    one-to-one

Observations are binned, bins compete by their summed scores (a bin wins where no heavier one lies
within the radius), and every bin joins its nearest winner; a keypoint is the score-weighted mean of
its observations. All of it sees the observations in a canonical order, so the result is the same,
bit for bit, whatever order they come in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

BINS_PER_RADIUS = 4
SUB_BITS = 4  # of a bin's key below its cell's: 4 × 4 bins a cell
BELOW = 1 << 18  # from a cell's key to that of the cell below
CHUNK = 1 << 18  # candidate neighbours looked at together: stays in a core's cache


@dataclass(frozen=True)
class MergedKeypoints:
    """The keypoints of several images, those of image `i` at `offsets[i] : offsets[i + 1]`."""

    xy: np.ndarray  # (K, 2) float32, in the coordinates of the observations
    # (K,) float32, root mean square distance of the merged observations to the keypoint
    spread: np.ndarray
    count: np.ndarray  # (K,) int32, observations merged
    offsets: np.ndarray  # (images + 1,) int64
    index: np.ndarray  # (N,) int32, the keypoint of each observation, counted within its image


def merge_keypoints(
    image: np.ndarray, xy: np.ndarray, weights: np.ndarray, radius: np.ndarray
) -> MergedKeypoints:
    """Cluster the observations of each image within a radius.

    image: (N,) integers below len(radius); xy: (N, 2) pixels; weights: (N,) scores, not negative;
    radius: (images,) pixels, above zero. Takes about 1 µs per observation, O(N log N). Observations
    of one keypoint lie within the radius, plus half a bin (radius / 8 per axis), of the place that
    won.

    Raises ValueError for shapes that disagree, numbers that are not finite, negative weights,
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
    # Canonical, so that sums round in one way only: by bin, in a bin by the bits of the numbers.
    order = _sorted_by(
        keys, weights.view(np.uint32), np.ascontiguousarray(xy).view(np.uint64).ravel()
    )
    image, unit, keys = image[order], unit[order], keys[order]
    weight = np.maximum(weights[order], np.finfo(np.float32).tiny).astype(np.float64)

    # Bins of a quarter of the radius: as precise as single observations, and far fewer where pairs
    # overlap.
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
    square = np.bincount(winner_of, ((unit - mean[winner_of]) ** 2).sum(axis=1), len(winners))
    scale = radius[bin_image[winners]]
    # winners are ordered by image
    offsets = np.searchsorted(bin_image[winners], np.arange(len(radius) + 1))
    index = np.empty(len(order), np.int32)
    index[order] = winner_of - offsets[image]
    return MergedKeypoints(
        (mean * scale[:, None]).astype(np.float32),
        (np.sqrt(square / np.maximum(count, 1)) * scale).astype(np.float32),
        count.astype(np.int32),
        offsets,
        index,
    )


def merge_matches(
    pair: np.ndarray, index0: np.ndarray, index1: np.ndarray, scores: np.ndarray
) -> np.ndarray:
    """The matches that stay when their endpoints became shared keypoints.

    pair: (N,) integers; index0, index1: (N,) keypoints of the pair's images; scores: (N,).
    Returns (M,) rows of the input, ordered by pair, index0. A match stays where it has the highest
    score of its pair at both of its keypoints, so no keypoint, and no couple of keypoints, occurs
    twice in a pair.
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
    """(N,) image, (N, 2) whole bin numbers (x, y) → (N,) int64 keys that sort by image, cell y,
    cell x, bin.

    A cell is one radius wide; a key's upper bits are its cell's. 20 bits per axis and 22 for the
    image, so bins reach 131,072 radii from the origin; checked, never wrapped.
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
    """`np.lexsort((*minor, keys))`, several times faster where most keys are unique."""
    order = np.argsort(keys)
    shared = ~_begins(keys[order])
    shared[:-1] |= shared[1:]
    rows = order[shared]
    order[shared] = rows[np.lexsort((*(column[rows] for column in minor), keys[rows]))]
    return order


def _begins(keys: np.ndarray) -> np.ndarray:
    """(N,) of sorted keys, which are the first of their kind."""
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
    """(rows that win, for every row the position among them of the nearest within distance 1; ties
    to the first).

    Within distance 1 of a winner lies no winner of higher priority (weight, then order of rows):
    the result of the greedy loop over rows by priority, found in parallel. In each round every row
    wins whose stronger neighbours have all lost, and the weaker neighbours of winners lose. Few
    rounds are needed.
    """
    couples, nothing = (
        _couples(cell, xy),
        (np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0)),
    )
    first, second, square = (
        np.concatenate(column) for column in zip(nothing, *couples, strict=True)
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
    """In chunks, all (row, later row, squared distance) of one image within distance 1.

    cell: (N,) sorted keys of the unit cells by image, y, x. A row meets those after it in its own
    cell and the one to the right, a slice, and those in the three cells below, another.
    """
    starts = np.stack(
        [np.arange(1, len(cell) + 1), np.searchsorted(cell, cell + BELOW - 1, "left")], axis=1
    )
    stops = np.stack(
        [np.searchsorted(cell, cell + step, "right") for step in (1, BELOW + 1)], axis=1
    )
    lengths = stops - starts
    ends = np.cumsum(lengths.sum(axis=1))
    x, y = np.ascontiguousarray(xy.T)
    begin = 0
    while begin < len(cell):
        done = ends[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, done + CHUNK, "right")))
        chunk = lengths[begin:end].ravel()
        row = np.repeat(np.arange(begin, end), lengths[begin:end].sum(axis=1))
        other = np.repeat(
            starts[begin:end].ravel() - (np.cumsum(chunk) - chunk), chunk
        ) + np.arange(len(row))
        square = (x[row] - x[other]) ** 2 + (y[row] - y[other]) ** 2
        near = np.flatnonzero(square <= 1)
        yield row[near].astype(np.int32), other[near].astype(np.int32), square[near]
        begin = end
