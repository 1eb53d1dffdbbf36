"""Views of a photograph: pixels of the network turned about their centre, and the exact way back.

A view is a photograph at a turn and a scale. A turn is in whole degrees, clockwise as one looks at
the picture. A multiple of 90 moves pixels to other places and changes none. Any other turn needs a
square canvas: it has the longer side of the pixels, so that no resolution is lost, and the corners
that do not fit are cut off.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image


class View(NamedTuple):
    """How a photograph is shown to the network.

    turn: degrees clockwise. scale: a factor on the longer side in pixels that the network sees. The
    photograph is decoded at that size, so a view at a scale of 2 has details that the photograph
    has and the view at 1 has not.
    """

    turn: int = 0
    scale: float = 1.0


def views_between(views: Sequence[View], pairs: np.ndarray) -> np.ndarray:
    """How the two views of pairs differ.

    pairs: (N, 2) indices of views. Returns (N, 2) float64: the turn in degrees of the second view
    against the first, and the logarithm of base 2 of the scale of the first against the second.
    """
    turns, scales = np.array(views, np.float64).reshape(-1, 2).T
    first, second = pairs.T
    difference: np.ndarray = np.stack(
        [turns[second] - turns[first], np.log2(scales[first] / scales[second])], axis=1
    )
    return difference


def turned(pixels: np.ndarray, turn: int) -> np.ndarray:
    """Turn pixels (h, w) uint8; the canvas outside of them has their mean."""
    if turn % 90 == 0:
        return np.ascontiguousarray(np.rot90(pixels, -(turn // 90) % 4))
    shape = canvas(pixels.shape, turn)
    # Pillow wants the way back, in coordinates that begin at the corner of the first pixel.
    back = _rotation(turn).T
    shift = np.array(pixels.shape[::-1]) / 2 - back @ (np.array(shape[::-1]) / 2)
    data = (*back[0], shift[0], *back[1], shift[1])
    picture = Image.fromarray(pixels).transform(
        shape[::-1],
        Image.Transform.AFFINE,
        data,
        Image.Resampling.BICUBIC,
        fillcolor=round(float(pixels.mean())),
    )
    return np.asarray(picture)


def canvas(shape: tuple[int, ...], turn: int) -> tuple[int, int]:
    """The shape (h, w) that pixels of a shape have when they are turned."""
    height, width = shape
    if turn % 180 == 0:
        return height, width
    return (width, height) if turn % 90 == 0 else (max(shape), max(shape))


def unturned(keypoints: np.ndarray, turn: int, shape: tuple[int, ...]) -> np.ndarray:
    """(M, 2) float (x, y) on the canvas → the same points in pixels of `shape`, before the turn.

    The centre of the top-left pixel is (0, 0) on both. Points beyond the pixels are not left out.
    """
    if turn % 360 == 0:
        return keypoints
    there, here = (
        (np.array(size[::-1]) - 1) / 2 for size in (canvas(shape, turn), np.array(shape))
    )
    points: np.ndarray = (keypoints - there) @ _rotation(turn) + here
    return points


def onto_canvas(keypoints: np.ndarray, turn: int, shape: tuple[int, ...]) -> np.ndarray:
    """Invert `unturned`: points (M, 2) in pixels of `shape` → the same points on the canvas."""
    there, here = (
        (np.array(size[::-1]) - 1) / 2 for size in (canvas(shape, turn), np.array(shape))
    )
    points: np.ndarray = (keypoints - here) @ _rotation(turn).T + there
    return points


def canvas_from_original(
    view: View, shape: tuple[int, int], original: Mapping[str, Any]
) -> np.ndarray:
    """(3, 3): pixels of the original → of the canvas of a view, both homogeneous.

    shape: (h, w) of the network's pixels before they are turned. original: a row of IMAGES.
    """
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    scale = np.array([shape[1] / original["width"], shape[0] / original["height"]])
    zero, right, down = onto_canvas((corners + 0.5) * scale - 0.5, view.turn, shape)
    affine = np.stack([right - zero, down - zero, zero], axis=1)
    return np.concatenate([affine, [[0.0, 0.0, 1.0]]])


def _rotation(turn: int) -> np.ndarray:
    """(2, 2): where offsets (x right, y down) go when a picture turns clockwise."""
    angle = math.radians(turn)
    exact = {0: (1.0, 0.0), 90: (0.0, 1.0), 180: (-1.0, 0.0), 270: (0.0, -1.0)}
    cosine, sine = exact.get(turn % 360, (math.cos(angle), math.sin(angle)))
    return np.array([[cosine, -sine], [sine, cosine]])
