"""New pairs across the gaps of a survey, whose planned pairs leave it in several parts.

parts of the graph of verified pairs, positions of photographs → near pairs between parts
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from pipeline.match.turns.rounds import Seen

NEAREST = 12  # photographs of each that are looked at
FARTHEST = 2.0  # times the median distance of the pairs so far
ACROSS = 6  # pairs of every two parts in a round


def across_gaps(seen: Seen, where: np.ndarray, most: int) -> np.ndarray:
    """(M, 2): the nearest pairs between parts that no round has tried.

    where: (n, 3) metres, NaN where unknown. most: pairs in all.
    """
    known = np.flatnonzero(np.isfinite(where).all(axis=1))
    count, width = min(NEAREST + 1, len(known)), len(where)
    if count < 2:
        return np.empty((0, 2), np.int64)
    _, near = cKDTree(where[known]).query(where[known], count)
    pairs = np.stack([np.repeat(known, count), known[near.ravel()]], axis=1)
    pairs = np.unique(np.sort(pairs, axis=1), axis=0)

    def distance(of: np.ndarray) -> np.ndarray:
        far: np.ndarray = np.linalg.norm(where[of[:, 0]] - where[of[:, 1]], axis=1)
        return far

    far, before = distance(pairs), distance(seen.pairs)
    usual = np.median(before[np.isfinite(before)]) if np.isfinite(before).any() else np.inf
    new = ~np.isin(pairs @ [width, 1], seen.pairs @ [width, 1]) & (far <= FARTHEST * usual)
    parts = np.sort(seen.part[pairs], axis=1)
    chosen: list[int] = []
    used: dict[tuple[int, ...], int] = {}
    for row in np.argsort(far, kind="stable"):
        between = tuple(parts[row].tolist())
        if new[row] and between[0] != between[1] and used.get(between, 0) < ACROSS:
            used[between] = used.get(between, 0) + 1
            chosen.append(int(row))
    found: np.ndarray = pairs[sorted(chosen[:most])]
    return found
