"""Photographs taken one after another: pairs with the next ones, and with places seen before.

names → sequences: indices in the order taken, one array for each folder
sequences → overlaps: pairs within a window, and at growing distances
sequences, Descriptors → closures: pairs far apart in the sequence that look alike
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from pipeline.errors import PairListError
from pipeline.pairs.descriptors import Descriptors, nearest
from pipeline.pairs.formats import of_pairs
from pipeline.pairs.pair_list import PairList


def sequences(names: Sequence[str], across_folders: bool = False) -> list[np.ndarray]:
    """The images of each folder in the order of their names.

    Numbers in names are ordered by value: frame9 is before frame10.

    names: (N,) sorted. across_folders: all images are one sequence.

    Returns indices into names, an array (n,) int64 for each sequence.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(names):
        members["" if across_folders else name.rpartition("/")[0]].append(index)
    ordered = (
        sorted(indices, key=lambda index: _by_value(names[index])) for indices in members.values()
    )
    return [np.array(indices, np.int64) for indices in ordered]


def _by_value(name: str) -> list[tuple[int, int | str]]:
    """A sort key with digits as numbers. Text and numbers alternate, so like meets like."""
    return [
        (0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"([0-9]+)", name)
    ]


def overlaps(taken: Sequence[np.ndarray], window: int, quadratic: bool = False) -> PairList:
    """Pairs of every image with the `window` images that follow it in its sequence.

    quadratic: add the images 1, 2, 4, … 2^(window − 1) further on, as COLMAP's quadratic overlap.

    Raises `PairListError` where the window is below 1.
    """
    if window < 1:
        raise PairListError(f"a window of {window} images pairs nothing; give 1 or more.")
    longest = max((len(indices) for indices in taken), default=0)
    steps = {*range(1, min(window, longest) + 1)}
    if quadratic:
        steps |= {1 << power for power in range(min(window, longest.bit_length()))}
    pairs = [
        np.stack([indices[:-step], indices[step:]])
        for indices in taken
        for step in steps
        if step < len(indices)
    ]
    return of_pairs(*np.concatenate([np.empty((2, 0), np.int64), *pairs], axis=1))


def closures(
    taken: Sequence[np.ndarray],
    names: Sequence[str],
    described: Descriptors,
    top_k: int,
    every: int,
    gap: int,
) -> PairList:
    """Pairs of every `every`-th image of a sequence with the `top_k` most similar ones.

    gap: images of the same sequence at most so many places apart are left out. They are similar
        because they were taken one after another, and close no loop.

    Scores are the cosines, and failures are those of the descriptors. Raises `PairListError` for
    numbers out of range.
    """
    if top_k < 1 or every < 1 or gap < 0:
        raise PairListError(
            "loop closure: give top-k and every of 1 or more and a gap of 0 or more, "
            f"not {top_k}, {every} and {gap}."
        )
    row = {name: number for number, name in enumerate(described.names)}
    index = np.array([row.get(name, -1) for name in names])
    sequence, place = np.empty(len(names), np.int64), np.empty(len(names), np.int64)
    for number, indices in enumerate(taken):
        sequence[indices], place[indices] = number, np.arange(len(indices))
    asked = np.concatenate([np.empty(0, np.int64), *(indices[::every] for indices in taken)])
    asked = asked[index[asked] >= 0]
    # The index among the names of each row of the descriptors.
    image = np.flatnonzero(index >= 0)[np.argsort(index[index >= 0])]
    found, cosines = nearest(
        described.vectors[index[asked]], described.vectors, top_k + 2 * gap + 1
    )
    other = image[found]
    near = (sequence[other] == sequence[asked, None]) & (
        np.abs(place[other] - place[asked, None]) <= gap
    )
    kept = ~near & (np.cumsum(~near, axis=1) <= top_k)
    return of_pairs(
        np.repeat(asked, kept.sum(axis=1)), other[kept], cosines[kept], described.failures
    )
