"""Pairs of photographs with known poses that were taken near each other and look the same way."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from pipeline.errors import PairListError
from pipeline.pairs.formats import of_pairs
from pipeline.pairs.pair_list import PairList
from pipeline.pairs.poses.known import Poses

MOST_ANGLE = 180.0  # degrees


def looking_alike(
    poses: Poses, nearest: int, angle: float, radius: float | None = None
) -> PairList:
    """Pairs of every image with the nearest that look the same way.

    poses: of n images, all known. nearest: images paired with each. angle: degrees between two
    directions of view, at most. radius: farthest distance, in the unit of the poses; None for any.

    Pairs are rows of the poses, and a score is minus the distance. Raises PairListError for limits
    that make no pair.
    """
    if nearest < 1 or not 0 < angle <= MOST_ANGLE or (radius is not None and not radius > 0):
        raise PairListError(
            "give how many nearest images are wanted (1 or more), an angle above 0 and up to "
            f"{MOST_ANGLE:g} degrees, and a radius above 0."
        )
    count = len(poses.shift)
    centres, views = poses.centres(), poses.rotations()[:, 2]
    tree = cKDTree(centres)
    least = np.cos(np.radians(angle)) - 1e-12
    limit = np.inf if radius is None else np.nextafter(radius, np.inf)
    first, second, distance = [], [], []
    left, reach = np.arange(count), min(2 * nearest, count - 1)
    while len(left):
        away, other = tree.query(centres[left], reach + 1, distance_upper_bound=limit)
        good = (other != left[:, None]) & np.isfinite(away)
        rows, columns = np.nonzero(good)
        alike = np.einsum("mi,mi->m", views[left[rows]], views[other[rows, columns]])
        good[rows, columns] = alike >= least
        whole = (good.sum(axis=1) >= nearest) | ~np.isfinite(away[:, -1]) | (reach >= count - 1)
        good &= (np.cumsum(good, axis=1) <= nearest) & whole[:, None]
        rows, columns = np.nonzero(good)
        first.append(left[rows])
        second.append(other[rows, columns])
        distance.append(away[rows, columns])
        left, reach = left[~whole], min(2 * reach, count - 1)
    nothing = np.empty(0, np.int64)
    scores = -np.concatenate([np.empty(0), *distance])
    pairs = np.concatenate([nothing, *first]), np.concatenate([nothing, *second])
    return of_pairs(*pairs, (0 + scores).astype(np.float32))
