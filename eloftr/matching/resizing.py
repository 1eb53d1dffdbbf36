"""Resizing to the network's shapes, and the exact inverse map of coordinates.

It needs numpy and Pillow only. Sizes and shapes are (height, width). Pixel centres lie at integers,
so a resize maps x_original = (x + 0.5) · s − 0.5 with s = original width / network width, per axis.
"""

from __future__ import annotations

import numpy as np
from PIL import Image


def nearest_shape(height: int, width: int, divisor: int = 32) -> tuple[int, int]:
    """The shape nearest to (height, width) whose sides are positive multiples of `divisor`."""
    return max(divisor, round(height / divisor) * divisor), max(
        divisor, round(width / divisor) * divisor
    )


def resize(gray: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize a grey image, uint8 (H, W), to `shape`.

    Bilinear; the filter is widened when shrinking, so that nothing aliases.
    """
    if gray.shape == tuple(shape):
        return gray
    height, width = shape
    return np.asarray(Image.fromarray(gray).resize((width, height), Image.Resampling.BILINEAR))


def to_original(
    keypoints: np.ndarray, shape: tuple[int, int], original: tuple[int, int]
) -> np.ndarray:
    """(M, 2) float (x, y) in pixels of `shape` → float32 in pixels of `original`."""
    scale = np.array([original[1] / shape[1], original[0] / shape[0]])
    mapped: np.ndarray = ((keypoints + 0.5) * scale - 0.5).astype(np.float32)
    return mapped
