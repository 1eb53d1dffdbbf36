"""How good rankings are, given the truth: recall and average precision, with bootstrap intervals
over the queries.

recall@k  1 where any of the first k candidates is true, else 0: the measure of place recognition
mAP       the mean of the queries' average precision: over all true images, the precision at the
rank of each, 0 for
          those that are not candidates. No order of 20 candidates reaches 1 where 50 images are
          true. As trec_eval's.

Queries without a true image are left out, and so are those without candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CUTS = (1, 5, 10, 20)
MEASURES = (*(f"recall@{cut}" for cut in CUTS), "mAP")
RESAMPLES = 2000
LEVEL = 95  # per cent of the resamples that an interval holds


@dataclass(frozen=True)
class Judged:
    """values: (Q, len(MEASURES)) float64 of every query; NaN for queries without a true image.

    positive: (Q,) int32 rank of the first true candidate, 0 where there is none.
    """

    values: np.ndarray
    positive: np.ndarray


def judge(query: np.ndarray, rank: np.ndarray, true: np.ndarray, positives: np.ndarray) -> Judged:
    """Measures of every query.

    query: (N,) int from 0 to Q − 1 of every candidate; rank: (N,) from 1 within its query; true:
    (N,) bool.
    positives: (Q,) how many images are true for each query, candidates or not.
    """
    count = len(positives)
    by_rank = np.lexsort((rank, query))
    query, rank, true = query[by_rank], rank[by_rank], true[by_rank]
    before = np.cumsum(true)
    # of all queries; less those of the queries before, it counts within the query
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
    """Means of the queries' values (Q, M), and the bootstrap interval of each: (M, 3) mean, low,
    high.

    Queries are drawn with replacement, all measures of one together. The same seed gives the same
    intervals; rows of NaN are left out; without another row all is NaN.
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
    """The means of `intervals` by measure, for JSON."""
    rows = intervals(values, seed)
    return {
        name: {"mean": float(mean), "low": float(low), "high": float(high)}
        for name, (mean, low, high) in zip(MEASURES, rows, strict=True)
    }


def table_text(rankings: dict[str, dict[str, dict[str, float]]]) -> str:
    """Measures of several rankings as aligned lines, per cent, each with its interval."""
    width = max(map(len, rankings)) + 2
    lines = [" " * width + "".join(f"{name:>20}" for name in MEASURES)]
    for label, measures in rankings.items():
        cells = [
            f"{100 * m['mean']:5.1f} [{100 * m['low']:5.1f} {100 * m['high']:5.1f}]"
            for m in measures.values()
        ]
        lines.append(f"{label:{width}}" + "".join(f"{cell:>20}" for cell in cells))
    return "\n".join(lines) + "\n"
