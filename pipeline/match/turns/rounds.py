"""Which pairs are tried again after a round, and in which views.

    TURNS of all rounds → verified pairs → angles and sizes of the images (see `graph`)
    a pair of one part whose images are turned or scaled against each other → again
    pairs between parts → guessed by headings, or probed at several turns, then at several scales
        → the likely ones again

Photographs that are all upright and of one size have parts without turns and scales, so nothing is
tried again. What is tried follows from the tables of the rounds before alone, so a stopped run
decides the same.

Views of pairs are float arrays (M, 6): the images i and j, their turns in degrees, and logarithms
of base 2 of their scales. Tries are (T, 4): the images i and j, the turn of image j against image
i, and the logarithm of the scale of image i against that of image j.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_array

from pipeline.events import counted
from pipeline.match.turns.between import wrapped
from pipeline.match.turns.graph import angles_of, parts_of, sizes_of
from pipeline.tables import TURNS

ALIKE = 20.0  # degrees between two photographs that the network takes for equally turned
EXACT = 15.0  # degrees from a multiple of 90, below which pixels are only moved
GRID = 30  # degrees between other turns
TURNED_PAIR = 45.0  # degrees: two photographs that no person holds so by chance
WEAK = 3  # verified pairs of an image, below which it may fall out of a model
# The following are logarithms of base 2. Where one image shows the scene 1.4 times as large, the
# network finds half of the matches, and hardly a wrong one. At twice the size, most are wrong.
ALIKE_SIZE = np.log2(1.5)  # between two photographs that the network takes for equally large
ALIKE_SCALE = 0.45  # between two views of a pair; a step of both of its images is 0.5
STEP = 0.25  # between scales of a photograph
MOST_SIZE = 2.0  # between two photographs: a view at twice the long side against one at half of it
FARTHEST_SIZE = 2.6  # beyond, not even these views would fit
MARGIN_OF_SCALES = 1.2  # likewise, because chance has its most matches at equal size
NEXT_STEP = 1.1  # of a ladder's logarithms: 2 is next to 1 and to 3
PROBED_PAIRS = 3  # of every two parts
# Probes of a round, as shares of the planned pairs. One takes as long as two or three pairs do.
BLIND = 0.01  # where nothing tells that photographs are turned or scaled
SEEN = 0.1  # where verified pairs or headings tell it
LEAST_PROBES = 12  # a small collection waits for seconds
LEAST_MATCHES = 12  # of the best turn of a probed pair
MARGIN = 1.5  # times the matches of the next best turn or scale that is not its neighbour

# A pair of images, and of each of its probes the turn, the logarithm of the scale and the matches.
Probed = tuple[tuple[int, int], np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Seen:
    """What the rounds so far say of the planned pairs.

    pairs: (N, 2) indices of images, i < j. inliers: (N,) of the best try. turn: (N,) degrees by
    which image j has to be turned to look like image i, NaN where the pair is not verified.
    size: (N,) logarithm of base 2 of how much larger image j shows the scene, likewise.
    failed: (N,) bool.
    """

    pairs: np.ndarray
    inliers: np.ndarray
    turn: np.ndarray
    size: np.ndarray
    failed: np.ndarray
    angle: np.ndarray  # (n,) of every image, in its part
    sizes: np.ndarray  # (n,) likewise, logarithms
    part: np.ndarray  # (n,) int, the part of every image
    COLUMNS: ClassVar = ("image0", "image1", "num_inliers", "turn", "failed", "scale")  # of TURNS

    @classmethod
    def of(cls, tables: Sequence[pa.Table], names: pa.Array) -> Seen:
        """tables: TURNS of all rounds, the first round first."""
        # Tables of an older version lack a column.
        table = pa.concat_tables([TURNS.empty_table(), *tables], promote_options="default")
        sides = [
            pc.index_in(table[side], value_set=names).to_numpy() for side in ("image0", "image1")
        ]
        first, second = sides
        turn = table["turn"].to_numpy(zero_copy_only=False).astype(float)
        scale = pc.fill_null(table["scale"], 1.0).to_numpy().astype(float)
        flipped = first > second  # a pair of a list may stand in either direction
        turn = np.where(flipped, -turn, turn)
        size = np.where(np.isnan(turn), np.nan, np.log2(np.where(flipped, 1 / scale, scale)))
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
        weights = inliers[best][good].astype(float)
        angle = angles_of(pairs[good], turn[best][good], weights, count)
        sizes = sizes_of(pairs[good], size[best][good], weights, count)
        failed = table["failed"].to_numpy(zero_copy_only=False)
        found = inliers[best], turn[best], size[best], failed[best], _settled(angle, part), sizes
        return cls(pairs, *found, part)

    def open(self) -> np.ndarray:
        """(N,) bool: pairs that no try has verified and that nothing forbids to try."""
        still: np.ndarray = np.isnan(self.turn) & ~self.failed
        return still

    def together(self) -> np.ndarray:
        """(N,) bool: pairs of one part."""
        first, second = self.pairs.T
        same: np.ndarray = self.part[first] == self.part[second]
        return same

    def between(self) -> tuple[np.ndarray, np.ndarray]:
        """Turn and size (N,) of image j against image i, its own or as its neighbours tell."""
        first, second = self.pairs.T
        verified = ~np.isnan(self.turn)
        turn = np.where(verified, self.turn, wrapped(self.angle[second] - self.angle[first]))
        return turn, np.where(verified, self.size, self.size_by_neighbours())

    def size_by_neighbours(self) -> np.ndarray:
        """(N,): the size of image j against image i as their neighbours tell."""
        first, second = self.pairs.T
        size: np.ndarray = self.sizes[second] - self.sizes[first]
        return size

    def have_neighbour(self) -> np.ndarray:
        """(N,) bool: pairs whose two images are both verified with a third one."""
        i, j = self.pairs[~np.isnan(self.turn)].T
        count = len(self.part)
        graph = coo_array((np.ones(2 * len(i)), (np.append(i, j), np.append(j, i))), (count, count))
        first, second = self.pairs.T
        common: np.ndarray = np.asarray((graph.tocsr() @ graph.tocsr())[first, second]).ravel() > 0
        return common


def again(seen: Seen, tried: np.ndarray, turning: bool = True, scaling: bool = True) -> np.ndarray:
    """(M, 6): pairs of one part whose images are turned or scaled against each other.

    tried: (T, 4) pairs that a round has tried already. turning, scaling: what other views may be.
    A verified pair is tried again, too, where its own matches tell that another view fits better.
    """
    turn, size = seen.between()
    turned = turning & (np.abs(turn) > ALIKE)
    chosen = ~seen.failed & seen.together() & (turned | (scaling & _scaled(size)))
    return _untried(fitting_views(seen, chosen, size, turning, scaling), tried)


def is_survey(seen: Seen, headings: np.ndarray) -> bool:
    """Whether photographs look down or are turned against each other.

    headings: (n,), NaN where none is known; only cameras that look down have one.
    """
    return bool(np.isfinite(headings).any() or (np.abs(seen.turn) > TURNED_PAIR).any())


def is_scaled(seen: Seen) -> bool:
    """Whether verified pairs show the scene at sizes that differ."""
    return bool(_scaled(seen.size).any())


def second_chances(
    seen: Seen, again_tried: np.ndarray, turning: bool = True, scaling: bool = True
) -> np.ndarray:
    """(M, 6): open pairs of a survey whose images share a verified neighbour.

    The ground often has little texture, and later rounds see it better than the first one.

    again_tried: (T, 4) pairs that a later round has tried. The others: see `again`.
    """
    chosen = seen.open() & seen.together() & seen.have_neighbour()
    size = seen.size_by_neighbours()
    return _untried(fitting_views(seen, chosen, size, turning, scaling), again_tried)


def guessed(seen: Seen, headings: np.ndarray, sizes: np.ndarray, tried: np.ndarray) -> np.ndarray:
    """(M, 6): pairs between parts whose files say how they are turned and scaled.

    One of their images has few verified pairs, or they differ in size.

    headings: (n,), NaN where none is known. sizes: (n,) logarithms of how large each shows the
    ground, likewise.
    """
    first, second = seen.pairs.T
    partners = np.bincount(seen.pairs[~np.isnan(seen.turn)].ravel(), minlength=len(seen.part))
    weak = np.minimum(partners[first], partners[second]) < WEAK
    known = np.isfinite(headings[first]) & np.isfinite(headings[second])
    told = (known & weak) | _scaled(sizes[second] - sizes[first])
    pairs = seen.pairs[seen.open() & ~seen.together() & told]
    return _untried(by_headings(pairs, headings, sizes), tried)


def first_views(pairs: np.ndarray, headings: np.ndarray, sizes: np.ndarray) -> np.ndarray | None:
    """(M, 6): all pairs of a run, in the views that the files of their images ask for.

    headings, sizes: see `guessed`. None where no pair is turned or scaled.
    """
    first, second = pairs.T
    turned = np.abs(wrapped(headings[second] - headings[first])) > ALIKE  # false where unknown
    other = turned | _scaled(sizes[second] - sizes[first])
    return by_headings(pairs, headings, sizes) if other.any() else None


def by_headings(pairs: np.ndarray, headings: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(M, 6): pairs, in the views that headings and sizes (n,) of their images ask for."""
    size = sizes[pairs[:, 1]] - sizes[pairs[:, 0]]
    return _views(pairs, _settled_together(headings), np.where(_scaled(size), size, 0.0))


def fitting_views(
    seen: Seen, chosen: np.ndarray, size: np.ndarray, turning: bool, scaling: bool
) -> np.ndarray:
    """(M, 6): the views that fit some pairs best, as far as turns and scales are searched.

    chosen: (N,) bool, of the pairs of `seen`. size: (N,) of these.
    """
    angle = seen.angle if turning else np.zeros_like(seen.angle)
    return _views(seen.pairs[chosen], angle, np.where(scaling & _scaled(size), size, 0.0)[chosen])


def most_probes(pairs: int, found: bool) -> int:
    """How many pairs of so many planned ones a round may probe at several turns, or scales.

    found: whether anything tells that photographs are turned, or scaled. Photographs that have
    nothing in common pay little for being probed in vain. Where probes find pairs, the next round
    may probe as many again.
    """
    return max(LEAST_PROBES, int((SEEN if found else BLIND) * pairs))


def later_line(pairs: int, survey: bool) -> str:
    """What later rounds may cost at most, in one line."""
    probes = counted(most_probes(pairs, survey), "probe")
    if survey:
        again = f"at most {counted(pairs, 'pair')} again, some more than once"
        return f"later rounds: {again}, and {probes} a round"
    return f"later rounds: at most {probes} a round, and the pairs that they find"


def to_probe(seen: Seen, probed: np.ndarray, most: int) -> np.ndarray:
    """(M, 2): the `most` pairs between parts that tell most, PROBED_PAIRS of every two parts.

    probed: (P, 2) pairs that were probed already; they count among those of their parts. Pairs
    whose images have many inliers elsewhere come first, because they are rich in what the network
    sees, and one pair of every two parts comes before a second one of any.
    """
    first, second = seen.pairs.T
    apart = np.flatnonzero(seen.open() & (seen.part[first] != seen.part[second]))
    rich = np.bincount(seen.pairs.ravel(), np.repeat(seen.inliers, 2), len(seen.part))
    support = np.minimum(rich[first[apart]], rich[second[apart]])
    low, high = np.sort(seen.part[seen.pairs[apart]], axis=1).T
    order = np.lexsort((second[apart], first[apart], -support, high, low))
    place = np.empty(len(order), np.int64)  # of a pair among those of the same parts
    between = low[order] * len(seen.part) + high[order]
    _, start, count = np.unique(between, return_index=True, return_counts=True)
    place[order] = np.arange(len(order)) - np.repeat(start, count)
    width = len(seen.part)
    done = np.isin(seen.pairs[apart] @ [width, 1], probed @ [width, 1])
    best = np.lexsort((second[apart], first[apart], -support, place))
    new = best[(place[best] < PROBED_PAIRS) & ~done[best]]
    chosen: np.ndarray = seen.pairs[np.sort(apart[new[:most]])]
    return chosen


def likely(probes: pa.Table, names: pa.Array, tried: np.ndarray) -> np.ndarray:
    """(M, 6): the probed pairs that one view suits clearly better than others.

    probes: PROBES, of several turns or of several scales.
    """
    found = []
    for (i, j), turns, sizes, counts in _by_pair(probes, names):
        best = int(counts.argmax())
        margin = MARGIN
        if sizes.any():
            if not sizes[best]:  # as of two photographs that have nothing in common
                continue
            margin = MARGIN_OF_SCALES
        off = np.abs(wrapped(turns - turns[best]))
        step = 360 / len(np.unique(turns))
        others = counts[(off > 1.5 * step) | (np.abs(sizes - sizes[best]) > NEXT_STEP)]
        if counts[best] >= max(LEAST_MATCHES, margin * others.max(initial=0)):
            near = (turns == turns[best]) & (sizes * sizes[best] > 0)
            scale = _scale(np.average(sizes[near], weights=counts[near])) if near.any() else 0.0
            found.append((i, j, 0, turns[best] % 360, scale, -scale))
    return _untried(np.array(found, float).reshape(-1, 6), tried)


def best_turns(probes: pa.Table) -> dict[tuple[str, str], int]:
    """The turn of most matches, by the names of probed pairs. probes: PROBES, of several turns."""
    best: dict[tuple[str, str], tuple[int, int]] = {}
    columns = (probes[name].to_pylist() for name in ("image0", "image1", "turn"))
    counts = _counts(probes).tolist()
    for image0, image1, turn, count in zip(*columns, counts, strict=True):
        best[image0, image1] = max(best.get((image0, image1), (-1, 0)), (count, -turn))
    return {pair: -turn % 360 for pair, (_, turn) in best.items()}


def _by_pair(probes: pa.Table, names: pa.Array) -> Iterator[Probed]:
    sides = [pc.index_in(probes[side], value_set=names).to_numpy() for side in ("image0", "image1")]
    pairs, which = np.unique(np.stack(sides, axis=1), axis=0, return_inverse=True)
    sizes = np.log2(pc.fill_null(probes["scale"], 1.0).to_numpy())
    columns = probes["turn"].to_numpy(), sizes, _counts(probes)
    for number, (i, j) in enumerate(pairs.tolist()):
        turn, size, count = (column[which == number] for column in columns)
        yield (i, j), turn, size, count


def _counts(probes: pa.Table) -> np.ndarray:
    """Coarse matches of every probe, 0 where an image could not be read."""
    counts: np.ndarray = pc.fill_null(probes["num_matches"], 0).to_numpy()
    return counts


def _settled(angle: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Angles moved by one number a part, so that most are near 0 or 180 degrees."""
    moved = angle.copy()
    for number in np.unique(part):
        members = (part == number) & np.isfinite(angle)
        if members.any():
            mean = np.angle(np.exp(2j * np.radians(angle[members])).mean())
            moved[members] = wrapped(angle[members] - np.degrees(mean) / 2)
    return moved


def _settled_together(headings: np.ndarray) -> np.ndarray:
    return _settled(headings, np.zeros(len(headings), np.int64))


def _scaled(size: np.ndarray) -> np.ndarray:
    """Whether images differ in size, and by no more than views can make good."""
    differ: np.ndarray = (np.abs(size) >= ALIKE_SIZE) & (np.abs(size) <= FARTHEST_SIZE)
    return differ


def _views(pairs: np.ndarray, angle: np.ndarray, size: np.ndarray) -> np.ndarray:
    """(M, 6): pairs and the views that fit best.

    angle: (n,) of the images. size: (M,) of the pairs.

    An image stands at 0 or at 180 degrees, whichever is nearer to its angle, in all of its pairs,
    so that it is encoded once, and with its own width and height. Image j is turned further where
    it is still turned against image i. Both stand at 0 where the angle of one is unknown. The image
    that shows the scene smaller is enlarged by as much as the other is reduced.
    """
    between = wrapped(angle[pairs[:, 1]] - angle[pairs[:, 0]])
    known = np.isfinite(between)
    upside_down = np.abs(wrapped(angle)) > 90
    base = np.where(upside_down[pairs] & known[:, None], 180.0, 0.0)
    rest = np.where(known, wrapped(between - (base[:, 1] - base[:, 0])), 0.0)
    right = 90 * np.round(rest / 90)
    turn = np.where(np.abs(rest - right) <= EXACT, right, GRID * np.round(rest / GRID))
    base[:, 1] += np.where(np.abs(rest) > ALIKE, turn, 0.0)
    scale = _scale(size)
    return np.column_stack([pairs, base % 360, scale, -scale])


def _scale(size: np.ndarray) -> np.ndarray:
    """The logarithm of the scale of image 0, of image 1's size against image 0's."""
    half: np.ndarray = STEP * np.round(np.clip(size, -MOST_SIZE, MOST_SIZE) / 2 / STEP)
    return half


def _untried(views: np.ndarray, tried: np.ndarray) -> np.ndarray:
    """Views whose pair was not tried in views that are alike."""
    before: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for i, j, turn, size in tried.tolist():
        before.setdefault((i, j), []).append((turn, size))
    kept = [
        all(
            abs(float(wrapped(np.array(tj - ti - turn)))) > ALIKE
            or abs(si - sj - size) > ALIKE_SCALE
            for turn, size in before.get((i, j), [])
        )
        for i, j, ti, tj, si, sj in views.tolist()
    ]
    new: np.ndarray = views[np.array(kept, bool)]
    return new
