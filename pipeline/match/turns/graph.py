"""From the turns and scales of verified pairs to one angle and one size for every photograph.

    verified pairs, their matches → turn and scale of image 1 against image 0 → parts of the graph
    that hang together → an angle and a size of every image against the others of its part

All angles are in degrees, clockwise. Image i turned by `angle[i]` is upright with the others of its
part. Sizes are logarithms of base 2: image i shows the scene 2 ** size[i] times as large. Source of
the method: iteratively reweighted averaging as in Chatterjee and Govindu, "Efficient and robust
large-scale rotation averaging" (ICCV 2013), in one dimension.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree

ROUNDS = 20  # of reweighting; angles have settled after a few
OUTLIER = 20.0  # degrees from which a pair counts little
OUTLYING_SIZE = 0.3  # of a logarithm of base 2, likewise
MOST_POINTS = 300  # of a pair; more would cost as much as its verification
LINES = 16  # from every point of a pair to others
OUTLYING_LINE = 10.0  # degrees from which a line counts little
ROUNDS_OF_LINES = 5  # of reweighting


def turn_between(keypoints0: np.ndarray, keypoints1: np.ndarray) -> float:
    """How far image 1 has to be turned for its points to lie as those of image 0.

    keypoints0, keypoints1: (M, 2), the inliers of a pair. Epipolar geometry lets some wrong matches
    through, which may lie anywhere, so the turn is that on which the lines between points agree.
    Returns degrees in −180…180; 0 where all points of an image are one.
    """
    first, second = _lines(keypoints0, keypoints1)
    weights = np.minimum(np.abs(first), np.abs(second))
    turns = first * second.conj()
    turns /= np.abs(turns)
    turn = weights @ turns
    for _ in range(ROUNDS_OF_LINES):
        off = np.degrees(np.angle(turns * turn.conj()))
        turn = weights / (1 + (off / OUTLYING_LINE) ** 2) @ turns
    return float(np.degrees(np.angle(turn)))


def scale_between(keypoints0: np.ndarray, keypoints1: np.ndarray) -> float | None:
    """How much larger image 1 shows the scene than image 0; 2 where distances are twice as long.

    keypoints0, keypoints1: as of `turn_between`. The scale is the median of the lines between
    points, so the images changed over give the inverse. Returns None where all points of an image
    are one.
    """
    first, second = np.abs(_lines(keypoints0, keypoints1))
    return float(np.exp(np.median(np.log(second / first)))) if len(first) else None


def _lines(keypoints0: np.ndarray, keypoints1: np.ndarray) -> np.ndarray:
    """(2, L) complex: lines between points (M, 2) that no image shows as one point.

    Each of at most MOST_POINTS points has lines to LINES others. These stand far from it in the
    list, which goes along the rows of image 0, so that lines are long.
    """
    points = np.stack([keypoints0, keypoints1]).astype(float) @ np.array([1, 1j])
    points = points[:, :: -(-len(keypoints0) // MOST_POINTS) or 1]
    count = points.shape[1]
    steps = np.unique(np.arange(1, LINES + 1) * count // (LINES + 1))
    lines = [points - np.roll(points, step, axis=1) for step in steps if step]
    found = np.concatenate([np.empty((2, 0), complex), *lines], axis=1)
    shown: np.ndarray = found[:, (found != 0).all(axis=0)]
    return shown


def parts_of(pairs: np.ndarray, count: int) -> np.ndarray:
    """(count,) the number of the part of the graph that every image belongs to. pairs: (E, 2)."""
    graph = coo_array((np.ones(len(pairs)), pairs.T), shape=(count, count))
    labels: np.ndarray = connected_components(graph, directed=False)[1]
    return labels


def angles_of(pairs: np.ndarray, turns: np.ndarray, weights: np.ndarray, count: int) -> np.ndarray:
    """(count,) the angle of every image, 0 for the first of each part.

    pairs: (E, 2) verified pairs. turns: (E,) of image 1 against image 0. weights: (E,) inliers.
    """
    return _synchronised(pairs, turns, weights, count, OUTLIER, wrapped)


def sizes_of(pairs: np.ndarray, sizes: np.ndarray, weights: np.ndarray, count: int) -> np.ndarray:
    """(count,) the logarithm of every image's size, 0 for the first of each part.

    sizes: (E,) logarithms of how much larger image 1 shows the scene. The others: see `angles_of`.
    """
    return _synchronised(pairs, sizes, weights, count, OUTLYING_SIZE, lambda size: size)


def _synchronised(
    pairs: np.ndarray,
    steps: np.ndarray,
    weights: np.ndarray,
    count: int,
    outlier: float,
    settled: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """(count,) values whose differences are nearest to the steps (E,) of the pairs.

    outlier: a difference from which a pair counts little. settled: brings values into their range.
    """
    values = settled(_along_tree(pairs, steps, weights, count))
    first, second = pairs.T
    fixed = np.zeros(count, bool)
    fixed[np.unique(parts_of(pairs, count), return_index=True)[1]] = True
    for _ in range(ROUNDS):
        # The value of an image as each of its pairs would have it, against what it is now.
        off = settled(values[first] + steps - values[second])
        trust = weights / (1 + (off / outlier) ** 2)
        total = np.bincount(first, trust, count) + np.bincount(second, trust, count)
        pull = np.bincount(second, trust * off, count) - np.bincount(first, trust * off, count)
        step = np.where(fixed, 0.0, pull / np.maximum(total, 1e-9))
        values = settled(values + 0.5 * step)
    return values


def wrapped(angle: np.ndarray) -> np.ndarray:
    """Degrees in −180…180."""
    result: np.ndarray = (np.asarray(angle) + 180) % 360 - 180
    return result


def _along_tree(
    pairs: np.ndarray, steps: np.ndarray, weights: np.ndarray, count: int
) -> np.ndarray:
    """Values along the strongest tree of every part."""
    first, second = pairs.T
    graph = coo_array((1 / weights, (first, second)), shape=(count, count))
    tree = minimum_spanning_tree(graph.tocsr()).tocoo()
    step_of = {(int(i), int(j)): step for (i, j), step in zip(pairs, steps, strict=True)}
    symmetric = coo_array(
        (np.ones(2 * tree.nnz), (np.append(tree.row, tree.col), np.append(tree.col, tree.row))),
        shape=(count, count),
    ).tocsr()
    values = np.zeros(count)
    labels = parts_of(pairs, count)
    for root in np.unique(labels, return_index=True)[1]:
        order, before = breadth_first_order(symmetric, root, directed=False)
        for image in order[1:]:
            parent = int(before[image])
            known = step_of.get((parent, int(image)))
            step = known if known is not None else -step_of[int(image), parent]
            values[image] = values[parent] + step
    return values
