"""Pixels of more than 8 bits, as 8 bits.

A file does not say how many of its bits are used: cameras write 10, 12 or 14 bits into 16. So the
smallest even number of bits (8, 10, 12, …) that holds the maximum is taken for the depth.
"""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image

# Pillow keeps the high byte of a colour of 16 bits. With its bytes swapped it keeps the low one.
SWAPPED = {
    f"{mode};16{order}": f"{mode};16{other}"
    for mode in ("RGB", "RGBA")
    for order, other in (("B", "L"), ("L", "B"), ("N", "B"))
}
HALF = 64  # high bytes below this are of 14 bits or fewer
COUNTS = (16.0, 65_535.0)  # maxima of floating-point pixels that count as integers do
SHARES = (1 / 16, 1.0)  # maxima of floating-point pixels that are shares of 1


def eight_bits(values: np.ndarray) -> np.ndarray:
    """(H, W) integers or floats of any range as uint8, scaled linearly.

    Integers are scaled from the smallest even number of bits that holds their maximum. Floats whose
    maximum is between 1/16 and 1 are scaled from [0, 1], and between 16 and 65535 as integers are.
    Others, and those that are negative by a hundredth of their maximum, are scaled from their
    finite range. What is not finite is black.
    """
    if values.dtype.kind != "f":
        return _scaled(values, 0.0, _full(float(values.max())))
    finite = values[np.isfinite(values)]
    low, top = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if low >= -top / 100:
        if SHARES[0] <= top <= SHARES[1] or top <= 0:
            return _scaled(values, 0.0, 1.0)
        if COUNTS[0] <= top <= COUNTS[1]:
            return _scaled(values, 0.0, _full(top))
    return _scaled(values, low, top)


def _scaled(values: np.ndarray, low: float, top: float) -> np.ndarray:
    """Numbers from `low` to `top` as 0 to 255."""
    values = np.nan_to_num(values.astype(np.float32), nan=low, posinf=low, neginf=low)
    scale = 255 / ((top - low) or 1.0)
    return (np.clip(values - np.float32(low), 0, None) * scale + 0.5).astype(np.uint8)


def _full(top: float) -> int:
    """The largest number of the smallest even number of bits, at least 8, that holds `top`."""
    return int(2 ** max(8, math.ceil(math.log2(max(top, 0) + 1) / 2) * 2) - 1)


def loaded(image: Image.Image, data: bytes) -> Image.Image:
    """An image that was opened from `data`, with its pixels.

    A colour image whose 16 bits use 14 or fewer is scaled from the smallest even number of bits
    that holds its maximum. Pillow alone would keep the high byte of every colour.
    """
    image.load()
    if image.format not in ("PNG", "TIFF") or image.mode not in ("RGB", "RGBA"):
        return image
    high = np.asarray(image)
    if high.max() >= HALF:
        return image
    again = Image.open(io.BytesIO(data), formats=(image.format,))
    tiles = [*again.tile]
    modes = [str(tile.args[0] if isinstance(tile.args, tuple) else tile.args) for tile in tiles]
    if not modes or not all(mode in SWAPPED for mode in modes):
        return image
    swapped = [
        tile._replace(
            args=(SWAPPED[mode], *tile.args[1:]) if isinstance(tile.args, tuple) else SWAPPED[mode]
        )
        for tile, mode in zip(tiles, modes, strict=True)
    ]
    again.tile = swapped
    values = high.astype(np.float32) * 256 + np.asarray(again)
    for channels in (slice(0, 3), slice(3, None)):  # alpha has a range of its own
        if values[..., channels].size:
            values[..., channels] *= 255 / _full(float(values[..., channels].max()))
    return Image.fromarray((values + 0.5).astype(np.uint8), image.mode)
