"""SIFT, the baseline every table of match quality is read against (OpenCV's detector with its
defaults).

Nearest neighbours are mutual and pass Lowe's ratio test at 0.8.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

RATIO = 0.8
ROWS_AT_ONCE = 2048  # bounds the distance matrix: a full-size photograph has over 10,000 features


class SiftFeatures(NamedTuple):
    keypoints: (
        np.ndarray
    )  # (N, 2) float32, x and y in pixels, centre of the top-left pixel at (0, 0)
    descriptors: np.ndarray  # (N, 128) float32, whole numbers


def detect_sift(grey: np.ndarray) -> SiftFeatures:
    """Features of a uint8 (H, W) image; none (N = 0) where it has no texture."""
    keypoints, descriptors = cv2.SIFT.create().detectAndCompute(grey, None)
    if descriptors is None:
        return SiftFeatures(np.zeros((0, 2), np.float32), np.zeros((0, 128), np.float32))
    return SiftFeatures(np.array([k.pt for k in keypoints], np.float32), descriptors)


def match_sift(features0: SiftFeatures, features1: SiftFeatures) -> tuple[np.ndarray, np.ndarray]:
    """Mutual nearest neighbours that pass the ratio test in image 0 → 1.

    Returns:
        keypoints0, keypoints1: (M, 2) float32 each.
    """
    descriptors0, descriptors1 = features0.descriptors, features1.descriptors
    count0, count1 = len(descriptors0), len(descriptors1)
    if count0 < 1 or count1 < 2:
        empty = np.zeros((0, 2), np.float32)
        return empty, empty
    # Descriptors are whole numbers below 256, so these float32 products and sums are exact.
    squared1 = (descriptors1**2).sum(1)
    nearest = np.empty(count0, np.int64)
    distinct = np.empty(count0, bool)
    best_row = np.zeros(count1, np.int64)
    best_distance = np.full(count1, np.inf, np.float32)
    for start in range(0, count0, ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        chunk = descriptors0[rows]
        distance = squared1 + (chunk**2).sum(1)[:, None] - 2 * chunk @ descriptors1.T

        column_row, column_distance = distance.argmin(0), distance.min(0)
        closer = column_distance < best_distance
        best_row[closer] = column_row[closer] + start
        best_distance[closer] = column_distance[closer]

        nearest[rows] = distance.argmin(1)
        two = np.partition(distance, 1, axis=1)
        distinct[rows] = two[:, 0] < RATIO**2 * two[:, 1]
    index0 = np.flatnonzero(distinct & (best_row[nearest] == np.arange(count0)))
    return features0.keypoints[index0], features1.keypoints[nearest[index0]]
