"""The pixels of a face, resampled from its panorama without aliasing."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from pipeline.photos.panoramas.sphere import Face

AT_ONCE = 64  # of a face that are sampled at once
FINER = 1.1  # times that a picture may be finer than the face before it is reduced


def face_pixels(picture: np.ndarray, face: Face, side: int | None = None) -> np.ndarray:
    """A face of a panorama, (side, side) or (side, side, 3) uint8.

    picture: the pixels of the panorama, (h, w) or (h, w, 3) uint8, at any size.
    side: pixels; None for those of the face.

    A picture that is finer than the face is reduced first, by a filter that leaves nothing to
    alias. Samples are cubic (Catmull-Rom). Columns run on across the seam. Edges are repeated.
    """
    side = side or face.side
    panorama = face.panorama
    shape = np.array(picture.shape[1::-1])
    scale = shape / [panorama.width, panorama.height]
    shift = 0
    if panorama.around:
        # The seam lies behind the face then, and no filter or sample meets it.
        shift = round(shape[0] * -face.yaw / 360)
        picture = np.roll(picture, shift, axis=1)
    less = math.pi * side / (panorama.full_width * scale[0])  # as in the middle of the face
    if less * FINER < 1:
        small = np.maximum(1, np.round(shape * less)).astype(int)
        reduced = Image.fromarray(picture).resize(tuple(small), Image.Resampling.BICUBIC)
        picture = np.asarray(reduced)
    again = np.array(picture.shape[1::-1]) / shape
    steps = (np.arange(side) + 0.5) * (face.side / side) - 0.5
    parts = []
    for top in range(0, side, AT_ONCE):
        grid = np.stack(np.meshgrid(steps, steps[top : top + AT_ONCE]), axis=-1)
        places = (face.to_panorama(grid.reshape(-1, 2)) + 0.5) * scale
        places[:, 0] += shift
        if panorama.around:
            places[:, 0] %= shape[0]
        found = sampled(picture, places * again - 0.5)
        parts.append(found.reshape(*grid.shape[:2], *picture.shape[2:]))
    return np.concatenate(parts)


def sampled(picture: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Values of a picture (h, w) or (h, w, 3) at places (n, 2), as (n,) or (n, 3) uint8."""
    height, width = picture.shape[:2]
    flat = picture.reshape(height * width, -1)
    corner = np.floor(places).astype(np.int64)
    columns, rows = (
        [(corner[:, k] + step).clip(0, size - 1) for step in (-1, 0, 1, 2)]
        for k, size in ((0, width), (1, height))
    )
    across, down = (_weights(part.astype(np.float32)) for part in (places - corner).T)
    total = np.zeros((len(places), flat.shape[1]), np.float32)
    for row, of_row in zip(rows, down, strict=True):
        line = np.zeros_like(total)
        for column, of_column in zip(columns, across, strict=True):
            line += of_column[:, None] * flat[row * width + column]
        total += of_row[:, None] * line
    found = (total + 0.5).clip(0, 255).astype(np.uint8)
    return found if picture.ndim == 3 else found[:, 0]


def _weights(t: np.ndarray) -> list[np.ndarray]:
    """Of the four samples around a place, `t` (n,) behind the second one; Catmull and Rom 1974."""
    return [
        ((-0.5 * t + 1) * t - 0.5) * t,
        (1.5 * t - 2.5) * t * t + 1,
        ((-1.5 * t + 2) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
    ]
