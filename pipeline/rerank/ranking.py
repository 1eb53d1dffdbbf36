"""Order retrieval's candidates by their verified support.

    MATCHES → pair_scores → support of every candidate → order, with a gate
                                                       → decided queries

A candidate without a verified geometry has no support, and so has a candidate that was not matched.
Both stand behind those with support, in retrieval's order. Failed candidates come last. Candidates
of equal support keep retrieval's order.

Gate: retrieval's first candidate loses its place only to a candidate with at least `gate` inliers
more. The places below the first depend on support alone.

Saturation: support above it counts as equal, because a pair with that much support is certain. Then
the first k candidates that reach it, in retrieval's order, are the first k of the ranking whatever
the later candidates have, and the query is decided.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.pairs.candidates import Candidates
from pipeline.tables import unragged
from pipeline.vocabulary import Score, Status


@dataclass(frozen=True)
class Support:
    """What matching found for N candidates.

    known: (N,) bool, whether the pair has a result.
    failed: (N,) bool. reason: (N,) string array, why it failed, null otherwise.
    inliers: (N,) int32. score: (N,) float32 of the kind asked for. Both are 0 without a result.
    """

    known: np.ndarray
    failed: np.ndarray
    reason: pa.Array
    inliers: np.ndarray
    score: np.ndarray


@dataclass(frozen=True)
class Order:
    """A new order of N candidates of Q queries.

    rank: (N,) int32, the rank of every candidate within its query, from 1.
    margin: (Q,) int32, inliers of the best-supported candidate minus those of retrieval's first
        candidate that has not failed.
    gated: (Q,) bool, whether the gate kept that first candidate in the first place.
    """

    rank: np.ndarray
    margin: np.ndarray
    gated: np.ndarray


def pair_keys(
    names: pa.Array, first: pa.Array | pa.ChunkedArray, second: pa.Array | pa.ChunkedArray
) -> np.ndarray:
    """One number for each pair of names, the same in both directions: (N,) int64.

    names: all known names. A pair with an unknown name gets −1.
    """
    sides = [
        pc.fill_null(pc.index_in(side, value_set=names), -1).to_numpy().astype(np.int64)
        for side in (first, second)
    ]
    low, high = np.minimum(*sides), np.maximum(*sides)
    return np.where(low < 0, -1, low * len(names) + high)


def pair_scores(matches: pa.Table, names: pa.Array, kind: str) -> pa.Table:
    """Score the pairs of a MATCHES table: columns pair (key), failed, reason, inliers, score.

    names: all known names, see `pair_keys`. kind: one of `Score`.
    Inliers are int32 and scores float32. A pair's score depends on that pair alone, to the last
    bit. Raises ValueError for another kind.
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
    """Look up the result of each candidate.

    pairs: (N,) key of each candidate's pair, −1 for none.
    results: the table of `pair_scores`, or None while there is none.
    """
    unusable = candidates.reason.is_valid().to_numpy(zero_copy_only=False)
    count = len(pairs)
    if results is None:
        known, inliers = np.zeros(count, bool), np.zeros(count, np.int32)
        score = np.zeros(count, np.float32)
        return Support(known, unusable, candidates.reason, inliers, score)
    at = pc.index_in(pa.array(pairs), value_set=results["pair"])
    row = pc.fill_null(at, -1).to_numpy()  # −1 takes the 0 that is appended below
    failed, inliers, score = (
        np.append(results[name].to_numpy(), 0)[row] for name in ("failed", "inliers", "score")
    )
    reason = pc.coalesce(candidates.reason, results["reason"].combine_chunks().take(at))
    failed, inliers = failed.astype(bool) | unusable, inliers.astype(np.int32)
    return Support(row >= 0, failed, reason, inliers, score.astype(np.float32))


def saturated(score: np.ndarray, saturation: float | None) -> np.ndarray:
    """Lower the scores above the saturation to it. None leaves all scores as they are."""
    return score if saturation is None else np.minimum(score, np.float32(saturation))


def order(
    candidates: Candidates, found: Support, saturation: float | None = None, gate: int | None = None
) -> Order:
    """Order the candidates of every query by their support.

    saturation, gate: see the head of this module; the gate is in inliers. None means without, and
        so does a gate of 0: other scores may lead with fewer inliers.
    """
    starts = candidates.starts[:-1]
    query = np.cumsum(candidates.rank == 1) - 1
    score = saturated(found.score, saturation)
    by_support = np.lexsort((candidates.rank, -score, found.failed, query))
    leader, first = by_support[starts], np.lexsort((candidates.rank, found.failed, query))[starts]
    margin = found.inliers[leader] - found.inliers[first]
    gated = (leader != first) & (margin < (gate or -np.inf))
    later = np.ones(len(query), bool)
    later[first[gated]] = False
    by_gate = np.lexsort((candidates.rank, -score, later, found.failed, query))
    rank = np.empty(len(query), np.int32)
    # The ranks of retrieval count from 1 in every query, so they are also the numbers to give out.
    rank[by_gate] = candidates.rank
    return Order(rank, margin.astype(np.int32), gated)


def decided(candidates: Candidates, found: Support, saturation: float, top: int) -> np.ndarray:
    """Whether the first `top` places of each query are final: (Q,) bool.

    They are final when `top` candidates reach the saturation and all candidates before the last of
    them are known. Retrieval's order then decides between candidates of equal support, so later
    candidates cannot change these places.
    """
    starts = candidates.starts[:-1]
    known = found.known | found.failed
    unknown_before = np.cumsum(~known)
    within = unknown_before == np.repeat(
        unknown_before[starts] - ~known[starts], np.diff(candidates.starts)
    )
    certain = within & (found.score >= np.float32(saturation))
    return np.add.reduceat(certain.astype(int), starts) >= top
