"""Which models of blocks belong together, and how: joins between two, and loops of joins.

A join is found from points that two models have of the same observations, and accepted where most
of these points and the cameras agree. A wrong join closes no loop: going around through other joins
does not come back to the same place. Of such a loop the weakest joins are refused. Where positions
place both models, a join that leads elsewhere is refused before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.reconstruct.joining.piece import (
    SAME,
    Piece,
    agreeing,
    common_points,
    robust_similarity,
)
from pipeline.reconstruct.positions.fit import CLEARLY_OFF, Fit
from pipeline.reconstruct.similarity import Similarity

LEAST_POINTS = 30  # of a join
LEAST_SHARE = 0.5  # of the common points that agree with it
MOST_TURN = 3.0  # degrees between the directions in which both say that their images look, median
# Around a loop, each join adds to the error. This share of the distance between cameras and points
# is allowed for one join; errors of n joins add up as their root.
LOOP_ERROR = 0.15
# A loop that does not close is opened at its weakest join. Joins that are less than so many times
# stronger are refused too, since any of them may be the wrong one.
CLEARLY = 2.0


@dataclass(frozen=True)
class Join:
    """Points of `second` on those of `first`.

    first, second: rows of the pieces. move: from the world of `second` to that of `first`.
    mine, theirs: (n,) rows of the points that agree. share: of all common points that agree.
    """

    first: int
    second: int
    move: Similarity
    mine: np.ndarray
    theirs: np.ndarray
    share: float

    @property
    def rows(self) -> tuple[int, int]:
        """Rows of both pieces."""
        return self.first, self.second

    @property
    def strength(self) -> float:
        """Points that agree, discounted by those that do not."""
        return len(self.mine) * self.share

    def from_to(self, source: int) -> Similarity:
        """The similarity from the world of one of both to that of the other."""
        return self.move if source == self.second else self.move.inverse()


@dataclass
class Joins:
    """What joins there are.

    joins: the accepted ones. refused: a sentence for each of the others. doubted: rows of the
    pieces that contradict each other: in most common points, in loops that do not close, or by the
    positions of their cameras.
    """

    joins: list[Join] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    doubted: set[int] = field(default_factory=set)


def find_joins(pieces: Sequence[Piece], fits: Mapping[int, Fit]) -> Joins:
    """All joins between two pieces that their points and cameras support, and that close loops.

    fits: to positions, by the rows of the pieces that these place.
    """
    found = Joins()
    for first, second in _meeting(pieces):
        both = f"blocks {names(pieces, (first, second))} were not joined"
        mine, theirs = common_points(pieces[first], pieces[second])
        if len(mine) < LEAST_POINTS:
            continue
        distance = pieces[first].distance[mine]
        source, target = pieces[second].xyz[theirs], pieces[first].xyz[mine]
        move, good = robust_similarity(source, target, distance)
        share, turn = float(good.mean()), _turn(pieces[first], pieces[second], move)
        if share < LEAST_SHARE or good.sum() < LEAST_POINTS:
            found.doubted |= {first, second}
            found.refused.append(f"{both}: {good.sum()} of {len(good)} common points agree")
        elif turn > MOST_TURN:
            found.refused.append(f"{both}: their cameras differ by {turn:.0f}°")
        else:
            found.joins.append(Join(first, second, move, mine[good], theirs[good], share))
    _refuse_by_positions(pieces, found, fits)
    _open_wrong_loops(pieces, found)
    return found


def _meeting(pieces: Sequence[Piece]) -> list[tuple[int, int]]:
    """Couples of pieces that share an image."""
    holders: dict[int, list[int]] = {}
    for row, piece in enumerate(pieces):
        for image in piece.views.numbers.tolist():
            holders.setdefault(image, []).append(row)
    return sorted(
        {(a, b) for rows in holders.values() for i, a in enumerate(rows) for b in rows[i + 1 :]}
    )


def _turn(first: Piece, second: Piece, move: Similarity) -> float:
    """Degrees between the rotations of the shared images after the move, median."""
    one, other = first.views, second.views
    _, mine, theirs = np.intersect1d(one.numbers, other.numbers, return_indices=True)
    moved = other.rotation[theirs] @ move.rotation.T
    trace = np.einsum("vij,vij->v", one.rotation[mine], moved)
    return float(np.median(np.degrees(np.arccos(((trace - 1) / 2).clip(-1, 1)))))


def _refuse_by_positions(pieces: Sequence[Piece], found: Joins, fits: Mapping[int, Fit]) -> None:
    """Refuse joins, in place, between pieces that positions put clearly elsewhere."""
    for join in [one for one in found.joins if {*one.rows} <= fits.keys()]:
        first, second = fits[join.first], fits[join.second]
        mine = first.move(pieces[join.first].xyz[join.mine])
        theirs = second.move(pieces[join.second].xyz[join.theirs])
        off = float(np.median(np.linalg.norm(mine - theirs, axis=1)))
        far = first.move.scale * float(np.median(pieces[join.first].distance[join.mine]))
        middle = np.median(mine, axis=0)
        error = float(np.hypot(first.error_at(middle), second.error_at(middle)))
        # The two ways over positions are as two more joins of a loop.
        if off < LOOP_ERROR * np.sqrt(3) * far + CLEARLY_OFF * error:
            continue
        found.doubted |= {*join.rows}
        found.joins = [other for other in found.joins if other is not join]
        found.refused.append(
            f"blocks {names(pieces, join.rows)} were not joined: by the positions of their images, "
            f"what both show lies {off:.1f} m apart; check the positions there"
        )


def _open_wrong_loops(pieces: Sequence[Piece], found: Joins) -> None:
    """Refuse joins, in place, until all short loops close."""
    while True:
        wrong = [loop for loop in loops(len(pieces), found.joins) if not _closes(loop, pieces)]
        if not wrong:
            return
        found.doubted |= {row for loop in wrong for join in loop for row in join.rows}
        # Loops with few joins say most.
        shortest = min(map(len, wrong))
        suspects = {id(join): join for loop in wrong if len(loop) == shortest for join in loop}
        weakest = min(join.strength for join in suspects.values())
        for join in [one for one in suspects.values() if one.strength < CLEARLY * weakest]:
            found.joins = [other for other in found.joins if other is not join]
            found.refused.append(
                f"blocks {names(pieces, join.rows)} were not joined: the way through "
                f"{shortest - 2} other blocks leads to another place; look for places that look "
                "alike"
            )


def names(pieces: Sequence[Piece], rows: Iterable[int]) -> str:
    """Names of pieces, for a sentence."""
    return " and ".join(pieces[row].name for row in rows)


def loops(count: int, joins: Iterable[Join]) -> list[list[Join]]:
    """For every join the shortest way back to its beginning: lists of joins, in order.

    Joins that are in no loop have none.
    """
    beside: list[list[Join]] = [[] for _ in range(count)]
    for join in joins:
        beside[join.first].append(join)
        beside[join.second].append(join)
    found: dict[frozenset[int], list[Join]] = {}
    for join in joins:
        way: dict[int, Join | None] = {join.second: None}
        todo = [join.second]
        while todo and join.first not in way:
            after = []
            for at in todo:
                for step in beside[at]:
                    other = step.first + step.second - at
                    if step is not join and other not in way:
                        way[other] = step
                        after.append(other)
            todo = after
        if join.first in way:
            loop, at = [join], join.first
            while (back := way[at]) is not None:
                loop.append(back)
                at = back.first + back.second - at
            found.setdefault(frozenset(map(id, loop)), loop)
    return list(found.values())


def _closes(loop: Sequence[Join], pieces: Sequence[Piece]) -> bool:
    """Whether the points of the first join come back to where they were."""
    start = loop[0]
    at, around = start.second, Similarity.identity()
    for step in (start, *loop[1:]):
        around = step.from_to(at).after(around)
        at = step.first + step.second - at
    piece = pieces[start.second]
    points, far = piece.xyz[start.theirs], piece.distance[start.theirs]
    off = np.linalg.norm(around(points) - points, axis=1) / far
    return bool(np.median(off) < LOOP_ERROR * np.sqrt(len(loop)))


def supported(join: Join, pieces: Sequence[Piece], placed: Sequence[Similarity]) -> bool:
    """Whether most points of a join still agree when all pieces are placed."""
    first, second = pieces[join.first], pieces[join.second]
    back = placed[join.first].inverse().after(placed[join.second])
    far = first.distance[join.mine] * (LOOP_ERROR / SAME)
    agree = agreeing(back, second.xyz[join.theirs], first.xyz[join.mine], far)
    return bool(agree.mean() >= LEAST_SHARE)
