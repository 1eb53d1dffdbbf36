"""The sizes of photographs, and the few shapes that they are resized to."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from eloftr.formats.opening import read_header
from pipeline.errors import ArgumentError
from pipeline.photos.exif import HEADER_BYTES


def stored_size(read_bytes: Callable[..., bytes], name: str) -> tuple[int, int] | None:
    """Width and height of a photograph as stored, by its header; None where it does not tell.

    read_bytes: of the folder of the photograph.
    """
    for limit in (HEADER_BYTES, None):  # metadata may be longer
        try:
            return read_header(read_bytes(name, limit=limit), name)[1]
        except Exception:  # Pillow raises arbitrary types for a damaged or cut header
            continue
    return None


def buckets(long_side: int) -> list[tuple[int, int]]:
    """The seven shapes (h, w) that photographs are resized to, with sides divisible by 32.

    The longer side is `long_side`, rounded to a multiple of 32. The shapes are 4:3, 3:2 and 16:9 in
    landscape and portrait, and a square. The square has about as many pixels as 4:3, so that no
    shape costs much more than another. Raises ArgumentError where `long_side` is below 32.
    """
    if long_side < 32:
        raise ArgumentError(f"long_side must be at least 32 pixels, not {long_side}.")
    long = _to_32(long_side)
    lying = [(_to_32(long * ratio), long) for ratio in (3 / 4, 2 / 3, 9 / 16)]
    square = _to_32(long * math.sqrt(3 / 4))
    return [*lying, (square, square), *((w, h) for h, w in lying)]


def bucket(width: int, height: int, long_side: int) -> tuple[int, int]:
    """The shape (h, w) of `buckets(long_side)` whose aspect ratio is nearest to width : height.

    Aspect ratios are compared by their quotient.
    """
    aspect = math.log(width / height)
    return min(buckets(long_side), key=lambda shape: abs(math.log(shape[1] / shape[0]) - aspect))


def _to_32(side: float) -> int:
    return max(32, 32 * math.floor(side / 32 + 0.5))


def resize_factor(width: np.ndarray | int, height: np.ndarray | int, long_side: int) -> np.ndarray:
    """Pixels of the original per pixel of the image that the network saw, at least 1.

    The factor is 1 where the image was enlarged, because enlarging adds no detail.
    """
    return np.maximum(1.0, np.maximum(width, height) / long_side)
