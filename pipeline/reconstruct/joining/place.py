"""Place all models of blocks in one world: similarities that agree with all joins at once.

The strongest joins place the pieces one after the other. Then all similarities change together, so
that the common points of all joins come as close as they can (generalised Procrustes). In this way
the error of a long way around is shared by all joins.

Trusted positions of cameras place pieces first, and are terms beside the points of the joins, each
weighted by its error. A long chain of pieces is then not bent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.linalg import spsolve
from scipy.spatial.transform import Rotation

from pipeline.reconstruct.joining.join import Join
from pipeline.reconstruct.joining.piece import Piece
from pipeline.reconstruct.positions.fit import Anchors, Fit
from pipeline.reconstruct.similarity import Similarity

POINTS_A_JOIN = 200  # that the averaging looks at
# Points of a join that count beside positions, because the bend of two models moves all points of a
# join alike. A piece of a ring that alone fits positions of 0.02 m to 0.04 m was placed 0.23 m off
# them where 200 points counted, and 0.06 m off where 10 did.
INDEPENDENT_POINTS = 10
STEPS = 10
ENOUGH = 1e-9  # change of a similarity at which the averaging ends


Part = tuple[list[int], list[Similarity]]  # rows of pieces, and where they lie


def place_pieces(
    pieces: Sequence[Piece],
    joins: Sequence[Join],
    anchors: Sequence[Anchors],
    fits: Mapping[int, Fit],
) -> list[Part]:
    """The rows of the pieces of each part, and where each of them lies in the part's world.

    anchors: of every piece, where positions are trusted. fits: of those that positions place alone,
    by their rows.

    The part with most core images comes first. The world is that of its largest piece.
    """
    sizes = [int(piece.is_core.sum()) for piece in pieces]
    unplaced, parts = set(range(len(pieces))), []
    while unplaced:
        root = max(unplaced, key=lambda row: (sizes[row], -row))
        placed = _along_strongest({root: Similarity.identity()}, joins)
        unplaced -= placed.keys()
        rows = sorted(placed, key=lambda row: row != root)
        inner = [join for join in joins if join.first in placed]
        moves = [placed[row] for row in rows]
        by_positions = _by_positions(rows, inner, moves, anchors, fits) if anchors else []
        held = {row: anchors[row] for row in rows if by_positions and anchors[row].names}
        parts.append((rows, averaged(pieces, inner, rows, by_positions or moves, held)))
    return sorted(parts, key=lambda part: -sum(sizes[row] for row in part[0]))


def _along_strongest(
    start: Mapping[int, Similarity], joins: Sequence[Join]
) -> dict[int, Similarity]:
    """Where the pieces lie that the strongest joins lead to, in the world of those at the start."""
    placed = {**start}
    while True:
        edge = [j for j in joins if (j.first in placed) != (j.second in placed)]
        if not edge:
            return placed
        join = max(edge, key=lambda j: (j.strength, -j.first, -j.second))
        known, new = (
            (join.first, join.second) if join.first in placed else (join.second, join.first)
        )
        placed[new] = placed[known].after(join.from_to(new))


def _by_positions(
    rows: Sequence[int],
    joins: Sequence[Join],
    moves: Sequence[Similarity],
    anchors: Sequence[Anchors],
    fits: Mapping[int, Fit],
) -> list[Similarity]:
    """Where the pieces of a part lie in the world of the positions; none where these do not tell.

    moves: where they lie in the world of the part.
    """
    start = {row: fits[row].move for row in rows if row in fits}
    if start:
        placed = _along_strongest(start, joins)
        return [placed[row] for row in rows]
    mine = [anchors[row] for row in rows]
    centres = [move(anchor.centres) for move, anchor in zip(moves, mine, strict=True)]
    places = np.concatenate([anchor.places for anchor in mine])
    fit = Anchors([], np.concatenate(centres), places, mine[0].error).fit()
    return [] if isinstance(fit, str) else [fit.move.after(move) for move in moves]


def averaged(
    pieces: Sequence[Piece],
    joins: Sequence[Join],
    rows: Sequence[int],
    placed: Sequence[Similarity],
    held: Mapping[int, Anchors],
) -> list[Similarity]:
    """The similarities, changed so that common points come together.

    held: cameras that come to their positions, by the rows of the pieces. `placed` is then in the
        world of the positions. What is returned is in that of the first piece.

    Without positions, the first similarity stays.
    """
    free = rows if held else rows[1:]
    column = {row: 7 * number for number, row in enumerate(free)}
    now = dict(zip(rows, placed, strict=True))
    # Far from the origin of the positions, a turn about it is hardly told from a shift.
    pivot = {
        row: now[row](pieces[row].views.centres()).mean(axis=0) if held else np.zeros(3)
        for row in rows
    }
    rng = np.random.default_rng(0)
    couples = []
    for join in joins:
        some = rng.permutation(len(join.mine))[:POINTS_A_JOIN]
        mine, theirs = join.mine[some], join.theirs[some]
        couples.append((join, pieces[join.first].xyz[mine], pieces[join.second].xyz[theirs]))
    for _ in range(STEPS if len(rows) > 1 else 0):
        change = _step(_terms(couples, held, now, pivot), column)
        for row in free:
            turn, shift, growth = np.split(change[column[row] :][:7], [3, 6])
            rotation, scale = Rotation.from_rotvec(turn).as_matrix(), float(np.exp(growth[0]))
            shift = shift + pivot[row] - scale * rotation @ pivot[row]
            now[row] = Similarity(scale, rotation, shift).after(now[row])
        if np.abs(change).max() < ENOUGH:
            break
    if held:
        back = now[rows[0]].inverse()
        return [back.after(now[row]) for row in rows]
    return [now[row] for row in rows]


# A term: rows of pieces with the derivatives of what is off, what is off (n, 3), and weights (n,).
Term = tuple[list[tuple[int, np.ndarray]], np.ndarray, np.ndarray]


def _terms(
    couples: Sequence[tuple[Join, np.ndarray, np.ndarray]],
    held: Mapping[int, Anchors],
    now: Mapping[int, Similarity],
    pivot: Mapping[int, np.ndarray],
) -> Iterator[Term]:
    """What is off between common points, and between cameras and their positions."""
    for join, mine, theirs in couples:
        share = min(1.0, INDEPENDENT_POINTS / len(mine)) if held else 1.0
        y0, y1 = now[join.first](mine), now[join.second](theirs)
        sides = [
            (join.first, _derivative(y0 - pivot[join.first])),
            (join.second, -_derivative(y1 - pivot[join.second])),
        ]
        yield sides, y0 - y1, share * _weight(y0 - y1)
    for row, anchors in held.items():
        y = now[row](anchors.centres)
        off = y - anchors.places
        yield [(row, _derivative(y - pivot[row]))], off, _weight(off, anchors.error)


def _weight(off: np.ndarray, error: float = 1e-12) -> np.ndarray:
    """Of what is off (n, 3). Of points far off, as with a small angle of rays, little counts.

    error: what is off at least; by default nothing.
    """
    spread = np.linalg.norm(off, axis=1)
    usual = max(np.median(spread), error)
    weight: np.ndarray = 1 / (1 + (spread / usual) ** 2) / usual**2
    return weight


def _step(terms: Iterable[Term], column: Mapping[int, int]) -> np.ndarray:
    """The change of all similarities with a column: rotation vector, shift and growth each."""
    values, places, size = [], [], 7 * len(column)
    right = np.zeros(size)
    for sides, off, weight in terms:
        sides = [(column[row], derivative) for row, derivative in sides if row in column]
        for mine, derivative in sides:
            right[mine:][:7] -= np.einsum("nij,n,ni->j", derivative, weight, off)
            for other, beside in sides:
                values.append(np.einsum("nij,n,nik->jk", derivative, weight, beside).ravel())
                places.append(np.mgrid[mine : mine + 7, other : other + 7].reshape(2, -1))
    rows, columns = np.concatenate(places, axis=1)
    normal = coo_array((np.concatenate(values), (rows, columns)), shape=(size, size)).tocsc()
    change: np.ndarray = spsolve(normal, right)
    return change


def _derivative(y: np.ndarray) -> np.ndarray:
    """Of points (n, 3) by rotation vector, shift and growth: (n, 3, 7)."""
    made = np.zeros((len(y), 3, 7))
    made[:, [1, 2, 0], [0, 1, 2]] = -y[:, [2, 0, 1]]
    made[:, [2, 0, 1], [0, 1, 2]] = y[:, [1, 2, 0]]
    made[:, :, 3:6] = np.eye(3)
    made[:, :, 6] = y
    return made
