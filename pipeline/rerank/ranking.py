"""Retrieval's candidates in the order of their verified support.

    matched pairs → their support → candidates known so far → order, with an uncertainty gate;
    queries that are decided

A candidate without a verified geometry has no support and keeps its place behind those that have
some; so has one that was not matched. Failed ones come last. Equal support leaves retrieval's order
as it is.

The gate: the candidate that retrieval has first loses its place only where the evidence is
decisive, the best-supported one having at least `gate` inliers more. Below the first place support
decides, gate or not.

The saturation: support above it counts as equal, as a pair that has it is certain. The first k
candidates that reach it, in retrieval's order, are then the first k of the ranking, whatever the
later ones have: the query is decided.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.pairs.candidates import Candidates
from pipeline.tables import unragged
from pipeline.vocabulary import Score, Status

# of MATCHES that are read here
COLUMNS = ("image0", "image1", "status", "reason", "scores", "inliers", "num_inliers")


@dataclass(frozen=True)
class Support:
    """What matching says of N candidates.

    known: (N,) bool, whether the pair has a result. failed: (N,) bool, and reason: (N,) string
    array, why.
    inliers: (N,) int32, and score: (N,) float32 of the kind asked for; 0 where there is no result.
    """

    known: np.ndarray
    failed: np.ndarray
    reason: pa.Array
    inliers: np.ndarray
    score: np.ndarray


@dataclass(frozen=True)
class Order:
    """rank: (N,) int32 of every candidate among those of its query, from 1.

    Of the Q queries, margin: (Q,) int32, inliers of the best-supported candidate above those of
    retrieval's first that has not failed; gated: (Q,) bool, whether the gate kept that one in the
    first place.
    """

    rank: np.ndarray
    margin: np.ndarray
    gated: np.ndarray


def pair_keys(
    names: pa.Array, first: pa.Array | pa.ChunkedArray, second: pa.Array | pa.ChunkedArray
) -> np.ndarray:
    """(N,) int64, one number for each pair of names, the same in both directions; −1 where a name
    is not known.
    """
    sides = [
        pc.fill_null(pc.index_in(side, value_set=names), -1).to_numpy().astype(np.int64)
        for side in (first, second)
    ]
    low, high = np.minimum(*sides), np.maximum(*sides)
    return np.where(low < 0, -1, low * len(names) + high)


def pair_scores(matches: pa.Table, names: pa.Array, kind: str) -> pa.Table:
    """MATCHES → of every pair its key, failed, reason, inliers int32 and score float32.

    kind: one of `Score`. A pair's score depends on that pair alone, to the last bit.
    """
    inliers = pc.fill_null(matches["num_inliers"], 0).to_numpy()
    if kind == Score.INLIERS:
        score = inliers
    elif kind == Score.RATIO:
        score = inliers / np.maximum(pc.list_value_length(matches["scores"]).to_numpy(), 1)
    elif kind == Score.SUM:
        pairs = zip(unragged(matches["scores"]), unragged(matches["inliers"]), strict=True)
        score = np.array([scores[good].sum(dtype=np.float64) for scores, good in pairs])
    else:
        raise ValueError(f"score {kind!r}: choose {', '.join(Score)}.")
    columns = {
        "pair": pa.array(pair_keys(names, matches["image0"], matches["image1"])),
        "failed": pc.equal(matches["status"], Status.FAILED.value),
        "reason": matches["reason"],
        "inliers": pa.array(inliers, pa.int32()),
        "score": pa.array(score.astype(np.float32)),
    }
    return pa.table(columns)


def support(candidates: Candidates, pairs: np.ndarray, results: pa.Table | None) -> Support:
    """What the results, of `pair_scores`, say of each candidate.

    pairs: (N,) key of each one's pair, −1 for none.
    """
    unusable = candidates.reason.is_valid().to_numpy(zero_copy_only=False)
    count = len(pairs)
    if results is None:
        nothing = np.zeros(count, bool)
        return Support(
            nothing,
            unusable,
            candidates.reason,
            np.zeros(count, np.int32),
            np.zeros(count, np.float32),
        )
    at = pc.index_in(pa.array(pairs), value_set=results["pair"])
    row = pc.fill_null(at, -1).to_numpy()  # −1 takes what is appended
    failed, inliers, score = (
        np.append(results[name].to_numpy(), 0)[row] for name in ("failed", "inliers", "score")
    )
    reason = pc.coalesce(candidates.reason, results["reason"].combine_chunks().take(at))
    return Support(
        row >= 0,
        failed.astype(bool) | unusable,
        reason,
        inliers.astype(np.int32),
        score.astype(np.float32),
    )


def saturated(score: np.ndarray, saturation: float | None) -> np.ndarray:
    """Scores above the saturation become equal to it; None leaves them all."""
    return score if saturation is None else np.minimum(score, np.float32(saturation))


def order(
    candidates: Candidates, found: Support, saturation: float | None = None, gate: int | None = None
) -> Order:
    """The candidates of every query in the order of their support; gate: in inliers, None for none."""
    starts = candidates.starts[:-1]
    query = np.cumsum(candidates.rank == 1) - 1
    score = saturated(found.score, saturation)
    by_support = np.lexsort((candidates.rank, -score, found.failed, query))
    leader, first = by_support[starts], np.lexsort((candidates.rank, found.failed, query))[starts]
    margin = found.inliers[leader] - found.inliers[first]
    gated = (leader != first) & (margin < (-np.inf if gate is None else gate))
    later = np.ones(len(query), bool)
    later[first[gated]] = False
    by_gate = np.lexsort((candidates.rank, -score, later, found.failed, query))
    rank = np.empty(len(query), np.int32)
    rank[by_gate] = candidates.rank  # which counts from 1 in every query, as the new ranks do
    return Order(rank, margin.astype(np.int32), gated)


def decided(candidates: Candidates, found: Support, saturation: float, top: int) -> np.ndarray:
    """(Q,) bool: whether `top` candidates of the query are known to reach the saturation, with all
    before them known.

    Retrieval's order settles equal support, so nothing that later candidates have can change the
    first `top` places.
    """
    starts = candidates.starts[:-1]
    known = found.known | found.failed
    unknown_before = np.cumsum(~known)
    within = unknown_before == np.repeat(
        unknown_before[starts] - ~known[starts], np.diff(candidates.starts)
    )
    certain = within & (found.score >= np.float32(saturation))
    return np.add.reduceat(certain.astype(int), starts) >= top
