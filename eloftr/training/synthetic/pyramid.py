"""Photographs as grey pyramids, and their resampling at any points without aliasing."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from eloftr.errors import ImageReadError

Pyramid = list[np.ndarray]  # four grey levels (h, w) uint8, each half the size of the one before


def load_pyramid(path: Path, longest: int) -> Pyramid:
    """The photograph, turned as its EXIF says, its longer side at most `longest` pixels.

    Raises ImageReadError when it is not readable.
    """
    try:
        with Image.open(path) as image:
            image.draft("L", (longest, longest))
            grey = ImageOps.exif_transpose(image).convert("L")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageReadError(
            f"{path}: not a readable photograph ({error}); remove it from the list."
        ) from error
    grey.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    # Sides divisible by 8: halving then keeps the corners of all levels at the same place.
    width, height = (max(8, side // 8 * 8) for side in grey.size)
    levels = [grey.resize((width, height), Image.Resampling.LANCZOS)]
    for _ in range(3):
        levels.append(levels[-1].reduce(2))
    return [np.array(level) for level in levels]


def sample(pyramid: Pyramid, points: Tensor) -> Tensor:
    """The photograph, mirrored at its borders, at `points` (2, H, W) of its [-1, 1]².

    Returns (H, W) float32, without aliasing. A pixel is one tap, or in views with wide pixels the
    mean of 2×2 taps that follow the foreshortening. They come from the pyramid levels that suit the
    pixel's scale.
    """
    height, width = pyramid[0].shape
    dx, dy = steps(points)
    to_pixels = torch.tensor([width, height])[:, None, None] / 2
    lengths = torch.stack([dx[:, ::8, ::8], dy[:, ::8, ::8]]) * to_pixels
    single = bool(lengths.square().sum(1).amax(0).median() < 1.5**2)
    taps = (
        [points] if single else [points + (i * dx + j * dy) / 4 for i in (-1, 1) for j in (-1, 1)]
    )
    area = (dx[0] * dy[1] - dx[1] * dy[0]).abs() * (
        height * width / 4
    )  # photograph pixels in a pixel
    sharp = (
        2**0.5 if single else 2**2.5
    )  # areas the photograph itself serves; a level serves 4 times more
    if float(area.max()) <= sharp:
        return _mean_of_taps(pyramid[0], taps)
    level = (0.5 * torch.log2(area.clamp(min=sharp) / sharp)).clamp(max=len(pyramid) - 1)
    image = torch.zeros_like(level)
    for number in range(int(level.min()), math.ceil(float(level.max())) + 1):
        image += (1 - (level - number).abs()).clamp(min=0) * _mean_of_taps(pyramid[number], taps)
    return image


def steps(values: Tensor) -> tuple[Tensor, Tensor]:
    """Differences to the next column and row of (..., H, W), the last one repeated."""
    dx, dy = values.diff(dim=-1), values.diff(dim=-2)
    return torch.cat([dx, dx[..., -1:]], -1), torch.cat([dy, dy[..., -1:, :]], -2)


def _mean_of_taps(level: np.ndarray, taps: list[Tensor]) -> Tensor:
    """The mean of bilinear samples of `level` (h, w) at each of `taps` (2, H, W)."""
    source = torch.from_numpy(level).float()[None, None]
    grids = (tap.clamp(-9, 9).permute(1, 2, 0)[None] for tap in taps)
    values = [
        F.grid_sample(source, g, padding_mode="reflection", align_corners=False)[0, 0]
        for g in grids
    ]
    return sum(values[1:], values[0]) / len(values)
