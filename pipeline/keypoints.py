"""Pair-local coordinates → keypoints shared by all pairs of an image.

A detector-free matcher proposes new sub-pixel coordinates in every pair, so one scene point seen in ten pairs
is ten nearby observations. Here they become one keypoint, in two steps that stream:

    by image  merge_keypoints   observations (N, 2) + scores → keypoints (K, 2), spread (K,), keypoint of each
    (N,) by pair   merge_matches     keypoint indices (N,) ×2 + scores → the matches that stay one-to-one

Observations are binned, bins compete by their summed scores (a bin wins where no heavier one lies within the
radius), and every bin joins its nearest winner; a keypoint is the score-weighted mean of its observations.
All of it sees the observations in a canonical order, so the result is the same, bit for bit, whatever order
they come in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

BINS_PER_RADIUS = 4
CHUNK = 1 << 22  # candidate neighbours looked at together: bounds the memory


@dataclass(frozen=True)
class MergedKeypoints:
    """The keypoints of several images, those of image `i` at `offsets[i] : offsets[i + 1]`."""

    xy: np.ndarray  # (K, 2) float32, in the coordinates of the observations
    spread: np.ndarray  # (K,) float32, root mean square distance of the merged observations to the keypoint
    count: np.ndarray  # (K,) int32, observations merged
    offsets: np.ndarray  # (images + 1,) int64
    index: np.ndarray  # (N,) int32, the keypoint of each observation, counted within its image


def merge_keypoints(image: np.ndarray, xy: np.ndarray, weights: np.ndarray, radius: np.ndarray) -> MergedKeypoints:
    """Cluster the observations of each image within a radius.

    image: (N,) integers below len(radius); xy: (N, 2) pixels; weights: (N,) scores, not negative;
    radius: (images,) pixels, above zero. Takes 2–6 µs per observation, O(N log N). Observations of one
    keypoint lie within the radius, plus half a bin (radius / 8 per axis), of the place that won.

    Raises ValueError for shapes that disagree, numbers that are not finite, negative weights, unknown images.
    """
    image, radius = np.asarray(image, np.int64), np.asarray(radius, np.float64)
    xy, weights = np.asarray(xy, np.float32), np.asarray(weights, np.float32)
    if not (image.shape == weights.shape and xy.shape == (*image.shape, 2) and radius.ndim == 1):
        raise ValueError(f"merge_keypoints: shapes {image.shape}, {xy.shape} and {weights.shape} disagree.")
    if not (np.isfinite(xy).all() and np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError("merge_keypoints: coordinates must be finite and weights finite and not negative.")
    if len(image) and (image.min() < 0 or image.max() >= len(radius)):
        raise ValueError(f"merge_keypoints: image numbers must lie in 0…{len(radius) - 1}.")
    if not (np.isfinite(radius).all() and (radius > 0).all()):
        raise ValueError("merge_keypoints: every radius must be a positive number of pixels.")

    # Canonical, so that sums round in one way only. Any total order will do; sorting the bits needs two keys.
    bits = np.ascontiguousarray(xy).view(np.uint64).ravel()
    order = np.lexsort((image << 32 | weights.view(np.uint32), bits))
    image, weight = image[order], np.maximum(weights[order], np.finfo(np.float32).tiny).astype(np.float64)
    unit = xy[order].astype(np.float64) / radius[image, None]  # one radius = 1 in every image

    # Bins of a quarter of the radius: as precise as single observations, and far fewer where pairs overlap.
    bins, bin_of = _group(_cell_keys(image, np.floor(unit * BINS_PER_RADIUS)))
    bin_image, bin_weight = image[bins], np.bincount(bin_of, weight, len(bins))
    bin_xy = _weighted_mean(unit, weight, bin_of, bin_weight)

    winners = _suppress(bin_image, bin_xy, bin_weight)
    winner_of = _nearest(bin_image, bin_xy, winners)[bin_of]

    total = np.bincount(winner_of, weight, len(winners))
    mean = _weighted_mean(unit, weight, winner_of, total)
    count = np.bincount(winner_of, minlength=len(winners))
    square = np.bincount(winner_of, ((unit - mean[winner_of]) ** 2).sum(axis=1), len(winners))
    scale = radius[bin_image[winners]]
    offsets = np.searchsorted(bin_image[winners], np.arange(len(radius) + 1))  # winners are ordered by image
    index = np.empty(len(order), np.int32)
    index[order] = winner_of - offsets[image]
    return MergedKeypoints(
        (mean * scale[:, None]).astype(np.float32),
        (np.sqrt(square / np.maximum(count, 1)) * scale).astype(np.float32),
        count.astype(np.int32),
        offsets,
        index,
    )


def merge_matches(pair: np.ndarray, index0: np.ndarray, index1: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The matches that stay when their endpoints became shared keypoints.

    pair: (N,) integers; index0, index1: (N,) keypoints of the pair's images; scores: (N,).
    Returns (M,) rows of the input, ordered by pair, index0. A match stays where it has the highest score of
    its pair at both of its keypoints, so no keypoint, and no couple of keypoints, occurs twice in a pair.
    """
    pair, index0, index1 = (np.asarray(column, np.int64) for column in (pair, index0, index1))
    order = np.lexsort((index0 << 32 | index1, -np.asarray(scores, np.float64), pair))
    pair, index0, index1 = pair[order], index0[order], index1[order]
    stays = np.ones(len(order), bool)
    for index in (index0, index1):
        keys = pair << 32 | index
        by_keypoint = np.argsort(keys, kind="stable")  # the best score of every keypoint comes first
        stays[by_keypoint[1:][np.diff(keys[by_keypoint]) == 0]] = False
    rows = np.flatnonzero(stays)
    return order[rows[np.lexsort((index0[rows], pair[rows]))]]


def _cell_keys(image: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """(N,) image, (N, 2) whole cell numbers (x, y) → (N,) int64 keys that sort by image, y, x.

    20 bits per axis and 22 for the image, so bins reach 131,072 radii from the origin; checked, never
    wrapped.
    """
    cells = cells.astype(np.int64) + (1 << 19)
    if len(image) and (cells.min() < 1 or cells.max() >= (1 << 20) - 1 or image.max() >= 1 << 22):
        raise ValueError("merge_keypoints: coordinates far outside the image, or over 4 million images.")
    return (image << 40) | (cells[:, 1] << 20) | cells[:, 0]


def _group(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(first row of every distinct key in the order of the keys, group number of every row)."""
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    return first, group


def _weighted_mean(xy: np.ndarray, weight: np.ndarray, group: np.ndarray, total: np.ndarray) -> np.ndarray:
    return np.stack([np.bincount(group, weight * xy[:, axis], len(total)) / total for axis in (0, 1)], axis=1)


def _suppress(image: np.ndarray, xy: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Rows that win: within distance 1 lies no winner of higher priority (weight, then order of rows).

    The result of the greedy loop over rows by priority, found in parallel: in each round every row wins whose
    stronger neighbours have all lost, and the weaker neighbours of winners lose. Few rounds are needed.
    """
    priority = np.empty(len(image), np.int64)
    priority[np.argsort(-weight, kind="stable")] = np.arange(len(image))
    weak, strong = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for row, other, _ in _neighbours(image, xy, np.arange(len(image))):
        below = priority[row] > priority[other]
        weak.append(row[below])
        strong.append(other[below])
    edges = np.stack([np.concatenate(weak), np.concatenate(strong)])
    undecided, wins = np.ones(len(image), bool), np.zeros(len(image), bool)
    while edges.size:
        winning = undecided.copy()
        winning[edges[0]] = False
        wins |= winning
        undecided &= ~winning
        undecided[edges[0, winning[edges[1]]]] = False
        edges = edges[:, undecided[edges[0]] & undecided[edges[1]]]
    return np.flatnonzero(wins | undecided)


def _nearest(image: np.ndarray, xy: np.ndarray, winners: np.ndarray) -> np.ndarray:
    """For every row, the position in `winners` of the nearest one within distance 1; ties to the first."""
    nearest = np.empty(len(image), np.int64)
    for row, other, square in _neighbours(image, xy, winners):
        order = np.lexsort((other, square, row))
        rows, first = np.unique(row[order], return_index=True)
        nearest[rows] = other[order][first]
    return nearest


def _neighbours(
    image: np.ndarray, xy: np.ndarray, targets: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For chunks of rows, all (row, position in `targets`, squared distance) of one image within distance 1.

    A grid of unit cells, sorted by image, y, x: the three cells beside and below each other in x are one
    slice.
    """
    cells = np.floor(xy)
    keys = _cell_keys(image, cells)
    order = np.argsort(keys[targets], kind="stable")
    sorted_keys = keys[targets][order]
    starts = np.stack([np.searchsorted(sorted_keys, keys + (dy << 20) - 1, "left") for dy in (-1, 0, 1)], axis=1)
    stops = np.stack([np.searchsorted(sorted_keys, keys + (dy << 20) + 1, "right") for dy in (-1, 0, 1)], axis=1)
    ends = np.cumsum((stops - starts).sum(axis=1))
    begin = 0
    while begin < len(image):
        done = ends[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, done + CHUNK, "right")))
        lengths = (stops[begin:end] - starts[begin:end]).ravel()
        row = np.repeat(np.arange(begin, end), lengths.reshape(-1, 3).sum(axis=1))
        first = np.repeat(starts[begin:end].ravel() - (np.cumsum(lengths) - lengths), lengths)
        other = order[first + np.arange(len(first))]
        square = ((xy[row] - xy[targets[other]]) ** 2).sum(axis=1)
        near = square <= 1
        yield row[near], other[near], square[near]
        begin = end
