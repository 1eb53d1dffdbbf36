"""Two images side by side and a line for every match. Needs numpy and Pillow only."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from eloftr.errors import ArgumentError

LINE, RADIUS = 3, 2  # pixels


def score_colours(scores: np.ndarray) -> np.ndarray:
    """Red to green by score: scores (M,) → (M, 3) uint8.

    Scores above 1 (raw similarities) are taken relative to the highest.
    """
    relative = np.clip(scores / max(1.0, scores.max(initial=0.0)), 0, 1)
    return np.stack([255 * (1 - relative), 255 * relative, np.zeros_like(relative)], axis=1).astype(
        np.uint8
    )


def draw_matches(
    image0: Image.Image,
    image1: Image.Image,
    keypoints0: np.ndarray,
    keypoints1: np.ndarray,
    scores: np.ndarray,
    most: int | None = None,
) -> Image.Image:
    """A picture of the two images side by side, a line for every match, red to green by score.

    keypoints (M, 2): (x, y) in pixels of each image; row n of one is matched to row n of the other.
    scores (M,).
    most: lines to draw. Of more matches a sample is drawn, the same at every call. The lowest
    scores are drawn first.
    Raises ArgumentError where the three have different numbers of rows.
    """
    if not len(keypoints0) == len(keypoints1) == len(scores):
        raise ArgumentError(
            f"{len(keypoints0)} and {len(keypoints1)} keypoints with {len(scores)} scores: give a "
            "row a match in each."
        )
    canvas = Image.new("RGB", (image0.width + image1.width, max(image0.height, image1.height)))
    canvas.paste(image0, (0, 0))
    canvas.paste(image1, (image0.width, 0))
    draw = ImageDraw.Draw(canvas)
    colours = score_colours(np.asarray(scores, np.float64))
    shifted = np.asarray(keypoints1, np.float64).reshape(-1, 2) + np.array([image0.width, 0])
    ends = np.concatenate([np.asarray(keypoints0, np.float64).reshape(-1, 2), shifted], axis=1)
    order = np.argsort(scores, kind="stable")
    if most is not None and most < len(order):
        order = order[np.sort(np.random.default_rng(0).permutation(len(order))[:most])]
    for n in order:
        x0, y0, x1, y1 = ends[n]
        draw.line((x0, y0, x1, y1), fill=tuple(colours[n].tolist()), width=LINE)
        for x, y in ((x0, y0), (x1, y1)):
            draw.ellipse((x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS), fill="black")
    return canvas
