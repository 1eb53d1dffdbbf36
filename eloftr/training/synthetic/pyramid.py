"""Photographs as grey pyramids, and their resampling at any points without aliasing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from eloftr.errors import ImageReadError

DETAIL = 32  # a side of the map of a photograph's texture
LEVELS = 4  # of a pyramid, each half the size of the one before
WIDE = 1.5  # photograph pixels: from this length on, a pixel is the mean of 2×2 taps


class Photographs:
    """Grey photographs on a device, each as a pyramid.

    `levels`: LEVELS tensors (N, h, w) uint8. All photographs are stretched to one size, and points
    on them are of [-1, 1]². `sizes`: (N, 2) the widths and heights that they have. `detail`: (N,
    DETAIL, DETAIL) float32, the mean step between neighbouring pixels of each part.
    """

    def __init__(self, levels: list[Tensor], sizes: Tensor, detail: Tensor) -> None:
        self.levels = levels
        self.sizes = sizes
        self.detail = detail

    def to(self, device: torch.device) -> Photographs:
        """The same on another device; these where they are there already."""
        if device == self.sizes.device:
            return self
        levels = [level.to(device) for level in self.levels]
        return Photographs(levels, self.sizes.to(device), self.detail.to(device))


def load_photographs(paths: Sequence[Path], longest: int) -> Photographs:
    """The photographs, turned as their EXIF says, longer sides at most `longest` pixels.

    Raises ImageReadError for one that is not readable.
    """
    pictures = [_load(path, longest) for path in paths]
    sizes = np.array([picture.size for picture in pictures], dtype=np.float32)
    # Sides divisible by 8: halving then keeps the corners of all levels at the same place.
    width, height = (int(side + 7) // 8 * 8 for side in sizes.max(0))
    levels = [
        torch.empty(len(paths), height >> number, width >> number, dtype=torch.uint8)
        for number in range(LEVELS)
    ]
    for index, picture in enumerate(pictures):
        level = picture.resize((width, height), Image.Resampling.LANCZOS)
        for number in range(LEVELS):
            levels[number][index] = torch.from_numpy(np.array(level))
            level = level.reduce(2)
    detail = np.stack([_detail(picture) for picture in pictures])
    return Photographs(levels, torch.from_numpy(sizes), torch.from_numpy(detail))


def _load(path: Path, longest: int) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.draft("L", (longest, longest))
            grey = ImageOps.exif_transpose(image).convert("L")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageReadError(
            f"{path}: not a readable photograph ({error}); remove it from the list."
        ) from error
    grey.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return grey


def _detail(picture: Image.Image) -> np.ndarray:
    grey = np.asarray(picture, dtype=np.float32)
    steps_right = np.abs(np.diff(grey, axis=1, prepend=grey[:, :1]))
    return np.array(Image.fromarray(steps_right).resize((DETAIL, DETAIL), Image.Resampling.BOX))


def mean_detail(photographs: Photographs, index: Tensor, points: Tensor) -> Tensor:
    """The mean texture (B,), in grey levels, of photographs at `points` as `sample` takes them."""
    maps = photographs.detail[index][:, None]
    grid = points.clamp(-9, 9).permute(0, 2, 3, 1)
    seen = F.grid_sample(maps, grid, padding_mode="reflection", align_corners=False)
    return seen.mean((1, 2, 3))


def sample(photographs: Photographs, index: Tensor, points: Tensor) -> Tensor:
    """Photographs `index` (B,), mirrored at their borders, at `points` (B, 2, H, W) of [-1, 1]².

    Returns (B, H, W) float32, without aliasing. A pixel is one tap, or in views with wide pixels
    the mean of 2×2 taps that follow the foreshortening. They come from the pyramid levels that suit
    the pixel's scale.
    """
    points = points.clamp(-9, 9)
    sizes = photographs.sizes[index]
    dx, dy = steps(points)
    lengths = torch.stack([dx[..., ::8, ::8], dy[..., ::8, ::8]], 1) * sizes[:, None, :, None, None]
    longer = lengths.square().sum(2).amax(1).sqrt() / 2  # photograph pixels
    wide = longer.flatten(1).median(1).values >= WIDE
    area = (dx[:, 0] * dy[:, 1] - dx[:, 1] * dy[:, 0]).abs()
    # In units of the area that the photograph itself serves; each level serves 4 times more.
    unit_area = torch.where(wide, 2**2.5, 2**0.5) / (sizes.prod(1) / 4)
    level = (0.5 * torch.log2((area / unit_area[:, None, None]).clamp(min=1))).clamp(max=LEVELS - 1)
    lowest, highest = level.floor().amin((1, 2)), level.ceil().amax((1, 2))
    image = torch.zeros_like(level)
    needs = torch.stack([wide.float(), lowest, highest], 1).tolist()
    for kind in (False, True):
        for number, source in enumerate(photographs.levels):
            needing = [
                pair
                for pair, (is_wide, low, high) in enumerate(needs)
                if bool(is_wide) == kind and low <= number <= high
            ]
            if needing:
                at = torch.tensor(needing, device=index.device)
                taps = _four_taps(points[at], dx[at], dy[at]) if kind else [points[at]]
                weight = (1 - (level[at] - number).abs()).clamp(min=0)
                image[at] += weight * _mean_of_taps(source[index[at]], taps)
    return image


def steps(values: Tensor) -> tuple[Tensor, Tensor]:
    """Differences to the next column and row of (..., H, W), the last one repeated."""
    dx, dy = values.diff(dim=-1), values.diff(dim=-2)
    return torch.cat([dx, dx[..., -1:]], -1), torch.cat([dy, dy[..., -1:, :]], -2)


def _four_taps(points: Tensor, dx: Tensor, dy: Tensor) -> list[Tensor]:
    """The centres of the four quarters of pixels at `points`."""
    along, across = (dx + dy) / 4, (dx - dy) / 4
    return [points + along, points - along, points + across, points - across]


def _mean_of_taps(levels: Tensor, taps: list[Tensor]) -> Tensor:
    """The mean of bilinear samples of `levels` (B, h, w) at each of `taps` (B, 2, H, W)."""
    source = levels.float()[:, None]
    values = [
        F.grid_sample(
            source, tap.permute(0, 2, 3, 1), padding_mode="reflection", align_corners=False
        )[:, 0]
        for tap in taps
    ]
    return sum(values[1:], values[0]) / len(values)
