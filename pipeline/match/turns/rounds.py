"""Which pairs are tried again after a round, and at which turns.

    TURNS of all rounds → verified pairs → angles of the images (see `graph`)
    a pair of one part that is not verified, and whose images are turned against each other → again
    pairs between parts → guessed by headings, or probed at several turns → the likely ones again

Photographs that are all upright have parts without turns, so nothing is tried again. What is tried
follows from the tables of the rounds before alone, so a stopped run decides the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_array

from pipeline.match.turns.graph import angles_of, parts_of, wrapped

ALIKE = 20.0  # degrees between two photographs that the network takes for equally turned
EXACT = 15.0  # degrees from a multiple of 90, below which pixels are only moved
GRID = 30  # degrees between other turns
WEAK = 3  # verified pairs of an image, below which it may fall out of a model
TURNED_PAIR = 45.0  # degrees: two photographs that no person holds so by chance
PROBED_PAIRS = 3  # of every two parts
LEAST_MATCHES = 12  # of the best turn of a probed pair
MARGIN = 1.5  # times the matches of the next best turn that is not its neighbour


@dataclass(frozen=True)
class Seen:
    """What the rounds so far say of the planned pairs.

    pairs: (N, 2) indices of images, i < j. inliers: (N,) of the best try. turn: (N,) degrees by
    which image j has to be turned to look like image i, NaN where the pair is not verified.
    failed: (N,) bool.
    """

    pairs: np.ndarray
    inliers: np.ndarray
    turn: np.ndarray
    failed: np.ndarray
    angle: np.ndarray  # (n,) of every image, in its part
    part: np.ndarray  # (n,) int, the part of every image

    @classmethod
    def of(cls, tables: Sequence[pa.Table], names: pa.Array) -> Seen:
        """tables: TURNS of all rounds, the first round first."""
        table = pa.concat_tables(tables, promote_options="default")  # older ones lack columns
        sides = [
            pc.index_in(table[side], value_set=names).to_numpy() for side in ("image0", "image1")
        ]
        first, second = sides
        turn = table["turn"].to_numpy(zero_copy_only=False).astype(float)
        flipped = first > second  # a pair of a list may stand in either direction
        turn = np.where(flipped, -turn, turn)
        low, high = np.minimum(first, second), np.maximum(first, second)
        inliers = pc.fill_null(table["num_inliers"], 0).to_numpy()
        order = np.lexsort((-inliers, high, low))  # the best try of every pair first
        new = np.append(True, (np.diff(low[order]) != 0) | (np.diff(high[order]) != 0))[
            : len(order)
        ]
        best = order[new]
        pairs = np.stack([low[best], high[best]], axis=1)
        good = ~np.isnan(turn[best])
        count = len(names)
        part = parts_of(pairs[good], count)
        angle = angles_of(pairs[good], turn[best][good], inliers[best][good].astype(float), count)
        failed = table["failed"].to_numpy(zero_copy_only=False)
        return cls(pairs, inliers[best], turn[best], failed[best], _settled(angle, part), part)

    def open(self) -> np.ndarray:
        """(N,) bool: pairs that no try has verified and that nothing forbids to try."""
        still: np.ndarray = np.isnan(self.turn) & ~self.failed
        return still

    def have_neighbour(self) -> np.ndarray:
        """(N,) bool: pairs whose two images are both verified with a third one."""
        i, j = self.pairs[~np.isnan(self.turn)].T
        count = len(self.part)
        graph = coo_array((np.ones(2 * len(i)), (np.append(i, j), np.append(j, i))), (count, count))
        first, second = self.pairs.T
        common: np.ndarray = np.asarray((graph.tocsr() @ graph.tocsr())[first, second]).ravel() > 0
        return common


def is_survey(seen: Seen, headings: np.ndarray) -> bool:
    """Whether photographs look down or are turned against each other.

    The ground often has little texture, so all pairs of such a collection get a second chance.
    headings: (n,), NaN where none is known; only cameras that look down have one.
    """
    return bool(np.isfinite(headings).any() or (np.abs(seen.turn) > TURNED_PAIR).any())


def again(seen: Seen, tried: np.ndarray) -> np.ndarray:
    """(M, 4) int: open pairs of one part, and the turns of both images as their neighbours tell.

    They are pairs that share a verified neighbour or are turned against each other.

    tried: (T, 3) pairs that need not be tried again at a turn of image j against i.
    """
    first, second = seen.pairs.T
    same = seen.open() & (seen.part[first] == seen.part[second])
    turned = np.abs(wrapped(seen.angle[second] - seen.angle[first])) > ALIKE
    return _untried(_views(seen.pairs[same & (turned | seen.have_neighbour())], seen.angle), tried)


def guessed(seen: Seen, headings: np.ndarray, tried: np.ndarray) -> np.ndarray:
    """(M, 4): pairs between parts whose files say how they are turned.

    One of their images has few verified pairs. headings: (n,), NaN where none is known.
    """
    first, second = seen.pairs.T
    verified = ~np.isnan(seen.turn)
    partners = np.bincount(seen.pairs[verified].ravel(), minlength=len(seen.part))
    weak = np.minimum(partners[first], partners[second]) < WEAK
    apart = seen.open() & (seen.part[first] != seen.part[second])
    known = np.isfinite(headings[first]) & np.isfinite(headings[second])
    everyone = np.zeros(len(headings), np.int64)
    return _untried(_views(seen.pairs[apart & known & weak], _settled(headings, everyone)), tried)


def first_views(pairs: np.ndarray, headings: np.ndarray) -> np.ndarray | None:
    """(M, 4): all pairs of a run, at the turns that the headings of their images ask for.

    headings: (n,) degrees, NaN where none is known. None where no pair is turned.
    """
    first, second = pairs.T
    turned = np.abs(wrapped(headings[second] - headings[first])) > ALIKE  # false where unknown
    if not turned.any():
        return None
    return _views(pairs, _settled(headings, np.zeros(len(headings), np.int64)))


def to_probe(seen: Seen, probed: np.ndarray) -> np.ndarray:
    """(M, 2): the pairs between parts that tell most, at most PROBED_PAIRS of every two parts.

    probed: (P, 2) pairs that were probed already. Pairs whose images have many inliers elsewhere
    come first, because they are rich in what the network sees.
    """
    first, second = seen.pairs.T
    apart = np.flatnonzero(seen.open() & (seen.part[first] != seen.part[second]))
    rich = np.bincount(seen.pairs.ravel(), np.repeat(seen.inliers, 2), len(seen.part))
    low, high = np.sort(seen.part[seen.pairs[apart]], axis=1).T
    support = np.minimum(rich[first[apart]], rich[second[apart]])
    order = np.lexsort((second[apart], first[apart], -support, high, low))
    done = {tuple(pair) for pair in probed.tolist()}
    chosen: list[int] = []
    used: dict[tuple[int, int], int] = {}
    for k in order:
        between = int(low[k]), int(high[k])
        if used.get(between, 0) < PROBED_PAIRS:
            used[between] = used.get(between, 0) + 1
            if tuple(seen.pairs[apart[k]].tolist()) not in done:
                chosen.append(int(apart[k]))
    return seen.pairs[sorted(chosen)]


def likely(probes: pa.Table, names: pa.Array, tried: np.ndarray) -> np.ndarray:
    """(M, 4): the probed pairs that one turn suits clearly better than others. probes: PROBES."""
    sides = [pc.index_in(probes[side], value_set=names).to_numpy() for side in ("image0", "image1")]
    turn, count = probes["turn"].to_numpy(), probes["num_matches"].to_numpy()
    found = []
    pairs, which = np.unique(np.stack(sides, axis=1), axis=0, return_inverse=True)
    for number, (i, j) in enumerate(pairs):
        turns, counts = turn[which == number], count[which == number]
        best = int(counts.argmax())
        step = 360 / len(turns)
        others = counts[np.abs(wrapped(turns - turns[best])) > 1.5 * step]
        if counts[best] >= max(LEAST_MATCHES, MARGIN * others.max(initial=0)):
            found.append((i, j, 0, int(turns[best]) % 360))
    return _untried(np.array(found, np.int64).reshape(-1, 4), tried)


def _settled(angle: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Angles moved by one number a part, so that most are near 0 or 180 degrees."""
    moved = angle.copy()
    for number in np.unique(part):
        members = (part == number) & np.isfinite(angle)
        if members.any():
            mean = np.angle(np.exp(2j * np.radians(angle[members])).mean())
            moved[members] = wrapped(angle[members] - np.degrees(mean) / 2)
    return moved


def _views(pairs: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """(M, 4): pairs and turns of both images.

    An image stands at 0 or at 180 degrees, whichever is nearer to its angle, in all of its pairs,
    so that it is encoded once, and with its own width and height. Image j is turned further where
    it is still turned against image i. Both stand at 0 where the angle of one is unknown.
    """
    between = wrapped(angle[pairs[:, 1]] - angle[pairs[:, 0]])
    known = np.isfinite(between)
    upside_down = np.abs(wrapped(angle)) > 90
    base = np.where(upside_down[pairs] & known[:, None], 180, 0)
    rest = np.where(known, wrapped(between - (base[:, 1] - base[:, 0])), 0.0)
    right = 90 * np.round(rest / 90)
    turn = np.where(np.abs(rest - right) <= EXACT, right, GRID * np.round(rest / GRID))
    base[:, 1] += np.where(np.abs(rest) > ALIKE, turn, 0).astype(np.int64)
    return np.hstack([pairs, base % 360])


def _untried(views: np.ndarray, tried: np.ndarray) -> np.ndarray:
    """Views whose pair was not tried at a turn that is alike."""
    before: dict[tuple[int, int], list[int]] = {}
    for i, j, turn in tried.tolist():
        before.setdefault((i, j), []).append(turn)
    kept = [
        all(
            abs(float(wrapped(np.array(tj - ti - turn)))) > ALIKE for turn in before.get((i, j), [])
        )
        for i, j, ti, tj in views.tolist()
    ]
    new: np.ndarray = views[np.array(kept, bool)]
    return new
