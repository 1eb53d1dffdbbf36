"""Recall and average precision of rankings, with bootstrap intervals over the queries.

recall@k  1 where any of the first k candidates is true, else 0. It is the measure of place
          recognition.
mAP       The mean over the queries of the average precision, as trec_eval computes it. A query's
          average precision is the mean over all its true images of the precision at the rank of
          each. A true image that is not a candidate counts 0, so no order of 20 candidates
          reaches 1 where 50 images are true.

Queries without a true image are left out, and so are queries without candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CUTS = (1, 5, 10, 20)
MEASURES = (*(f"recall@{cut}" for cut in CUTS), "mAP")
RESAMPLES = 2000
LEVEL = 95  # per cent of the resamples that lie in an interval


@dataclass(frozen=True)
class Judged:
    """Measures of Q queries.

    values: (Q, len(MEASURES)) float64; NaN for queries without a true image.
    positive: (Q,) int32 rank of the first true candidate, 0 where there is none.
    """

    values: np.ndarray
    positive: np.ndarray


def judge(query: np.ndarray, rank: np.ndarray, true: np.ndarray, positives: np.ndarray) -> Judged:
    """Measure every query.

    query, rank, true: (N,), one value per candidate: the number of its query from 0 to Q − 1, its
    rank from 1 within the query, and whether it is true.
    positives: (Q,) how many images are true for each query, candidates or not.
    """
    count = len(positives)
    by_rank = np.lexsort((rank, query))
    query, rank, true = query[by_rank], rank[by_rank], true[by_rank]
    before = np.cumsum(true)
    # `hits` counts over all queries. Subtracting the hits of earlier queries makes it start at 1 in
    # each query.
    hits = before[true]
    of, at = query[true], rank[true]
    found = np.bincount(of, minlength=count)
    hits = hits - (np.cumsum(found) - found)[of]
    precision = np.bincount(of, hits / at, minlength=count) / np.maximum(positives, 1)
    first = np.zeros(count, np.int32)
    leading = hits == 1
    first[of[leading]] = at[leading]
    recalls = [(first > 0) & (first <= cut) for cut in CUTS]
    values = np.stack([*recalls, precision], axis=1).astype(np.float64)
    values[positives == 0] = np.nan
    return Judged(values, first)


def intervals(values: np.ndarray, seed: int = 0, resamples: int = RESAMPLES) -> np.ndarray:
    """Mean and bootstrap interval of M measures over Q queries: (M, 3) mean, low, high.

    values: (Q, M). Queries are drawn with replacement, with all measures of a query together. The
    same seed gives the same intervals. Rows with a NaN are left out; if no row is left, the result
    is NaN.
    """
    values = values[~np.isnan(values).any(axis=1)]
    count = len(values)
    if not count:
        return np.full((values.shape[1], 3), np.nan)
    rng = np.random.default_rng(seed)
    means = np.stack(
        [
            np.bincount(rng.integers(count, size=count), minlength=count) @ values / count
            for _ in range(resamples)
        ]
    )
    low, high = np.percentile(means, [50 - LEVEL / 2, 50 + LEVEL / 2], axis=0)
    return np.stack([values.mean(axis=0), low, high], axis=1)


def measured(values: np.ndarray, seed: int = 0) -> dict[str, dict[str, float]]:
    """The result of `intervals` by the name of the measure, ready for JSON."""
    rows = intervals(values, seed)
    return {
        name: {"mean": float(mean), "low": float(low), "high": float(high)}
        for name, (mean, low, high) in zip(MEASURES, rows, strict=True)
    }


def table_text(rankings: dict[str, dict[str, dict[str, float]]]) -> str:
    """Format the measures of several rankings, in per cent with intervals, as aligned lines."""
    width = max(map(len, rankings)) + 2
    lines = [" " * width + "".join(f"{name:>20}" for name in MEASURES)]
    for label, measures in rankings.items():
        cells = [
            f"{100 * m['mean']:5.1f} [{100 * m['low']:5.1f} {100 * m['high']:5.1f}]"
            for m in measures.values()
        ]
        lines.append(f"{label:{width}}" + "".join(f"{cell:>20}" for cell in cells))
    return "\n".join(lines) + "\n"
