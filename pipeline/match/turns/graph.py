"""From the turns and scales of verified pairs to one angle and one size for every photograph.

    verified pairs, turn and scale of image 1 against image 0 → parts of the graph that hang
    together → an angle and a size of every image against the others of its part

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

from pipeline.match.turns.between import wrapped

ROUNDS = 20  # of reweighting; angles have settled after a few
OUTLIER = 20.0  # degrees from which a pair counts little
OUTLYING_SIZE = 0.3  # of a logarithm of base 2, likewise


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
