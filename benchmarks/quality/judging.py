"""How right the matches of a pair are, and what a set of pairs comes to; see quality.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.quality.datasets import Pair, View

POINT_PIXELS = 3.0  # homography and marked points: pixels of the original images
POSE_PIXELS = 2.0  # poses, and
RANSAC_PIXELS = 0.5  # their estimates: pixels of the evaluated size or of the original images
RANSAC_RUNS = 5
AUC_DEGREES = (5, 10, 20)

Keypoints = tuple[np.ndarray, np.ndarray]  # (M, 2) and (M, 2), pixels of the two views
Record = dict[str, Any]


def pose_auc(errors: list[float], threshold: float) -> float:
    """Area under recall over pose error from 0 to `threshold` degrees, over `threshold`: 0 to 1.

    Recall is joined by straight lines between the sorted errors and stays level after the last one
    within the threshold, as in the evaluations of SuperGlue and LoFTR. Infinite errors count as
    pairs that failed.
    """
    ordered = np.sort(np.asarray(errors, np.float64))
    within = ordered[ordered < threshold]
    if len(within) == 0:
        return 0.0
    recall = np.arange(len(within) + 1) / len(ordered)
    x = np.concatenate([[0.0], within, [threshold]])
    y = np.append(recall, recall[-1])
    return float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum() / threshold)


def judge(
    pair: Pair, views: tuple[View, View], keypoints: Keypoints, pixel: float, ransac: float
) -> Record:
    """The record of one method on one pair.

    Args:
        keypoints: in pixels of `views`.
        pixel: pixels of the original images per pixel that poses are judged in.
        ransac: threshold of RANSAC in focal lengths.
    """
    points0, points1 = (view.to_original(k) for view, k in zip(views, keypoints, strict=True))
    errors = pair.errors(points0, points1)
    limit = POINT_PIXELS if pair.cameras is None else POSE_PIXELS * pixel
    right = int((errors <= limit).sum())
    record: Record = {
        "matches": len(errors),
        "right": right,
        "share": right / max(len(errors), 1),
        "median_error_px": float(np.median(errors)) if len(errors) else None,
    }
    if pair.cameras is not None:
        orders = (np.random.default_rng(run).permutation(len(errors)) for run in range(RANSAC_RUNS))
        record["rotation_translation_errors_deg"] = [
            pair.cameras.pose_errors(points0[order], points1[order], ransac) for order in orders
        ]
    return record


def intervals(records: list[Record], samples: int = 1000) -> dict[str, list[float]]:
    """95 % bootstrap intervals, [low, high], of what `summarise` tells, over the pairs of a set."""
    random = np.random.default_rng(0)
    found = [
        summarise([records[row] for row in random.integers(len(records), size=len(records))])
        for _ in range(samples)
    ]
    return {
        name: np.percentile([one[name] for one in found], [2.5, 97.5]).tolist() for name in found[0]
    }


def summarise(records: list[Record]) -> dict[str, float]:
    """Means over the pairs of a set, and the pose AUC where the set has poses."""
    summary: dict[str, float] = {
        name: float(np.mean([record[name] for record in records]))
        for name in ("matches", "right", "share")
    }
    if "rotation_translation_errors_deg" in records[0]:
        runs = [
            angles for record in records for angles in record["rotation_translation_errors_deg"]
        ]
        errors = [np.inf if angles is None else max(angles) for angles in runs]
        summary |= {f"auc{degrees}": pose_auc(errors, degrees) for degrees in AUC_DEGREES}
    return summary
