"""Adaptive least-squares matching: the last tenth of a pixel, from the grey values themselves.

A patch around the keypoint of image 0 is laid over image 1 under an affine map; Gauss-Newton steps
find the map that leaves the smallest squared difference of grey values, up to gain and offset (A.
Gruen, "Adaptive least squares correlation", 1985; in the inverse compositional form of Baker and
Matthews, IJCV 2004, which builds the normal matrix once). The network's keypoint and an undistorted
patch are its prior, so what a patch cannot tell, an edge the way along itself, stays as it was. It
is no part of the paper; `fine_matching_least_squares_radius` turns it on.

B pairs, M matches, P pixels of a patch.
    images (B, 1, H, W) ×2, keypoints (M, 2) ×2 → keypoints of image 1 (M, 2)
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

STEPS = 4
# Standard deviations: of a grey value (0…1) around what the map explains, of the network's keypoint
# (pixels), and of the numbers of the map's 2×2 matrix. Gain and offset are free.
NOISE, SHIFT, STRETCH, FREE = 3 / 255, 0.5, 0.3, 1e3
FARTHEST = 1.5  # pixels: whoever went farther has found another place
# Matches at a time: bounds memory (M·P·8 floats), and on a CPU stays in cache.
MOVED_AT_ONCE = {"cpu": 1 << 10, "cuda": 1 << 13}


def least_squares(
    images0: Tensor,
    images1: Tensor,
    pair: Tensor,
    keypoints0: Tensor,
    keypoints1: Tensor,
    radius: int,
) -> Tensor:
    """keypoints1 (M, 2), moved to where image 1 looks most like image 0 around keypoints0 (M, 2).

    A keypoint stays where it was if the patches do not correlate better at the new place, or if it
    would move by FARTHEST or more.
    images: (B, 1, H, W), values 0…1. pair (M,) says which of the B each match is of. keypoints: (x,
    y), pixels, centre of the top-left pixel at (0, 0). radius: pixels from the centre of a patch to
    its edge; the weights fall off as a Gaussian of two thirds of it.
    """
    size = MOVED_AT_ONCE.get(pair.device.type, MOVED_AT_ONCE["cpu"])
    chunks = zip(pair.split(size), keypoints0.split(size), keypoints1.split(size), strict=True)
    images0, images1 = images0.float(), images1.float()
    return torch.cat(
        [keypoints1[:0], *(_moved(images0, images1, *chunk, radius) for chunk in chunks)]
    )


def _moved(
    images0: Tensor,
    images1: Tensor,
    pair: Tensor,
    keypoints0: Tensor,
    keypoints1: Tensor,
    radius: int,
) -> Tensor:
    windows = cut_windows(images0, pair, keypoints0, radius, Deviations(SHIFT, STRETCH))
    centre = keypoints1.round()
    start = keypoints1 - centre
    around = cut_patches(images1, pair, centre.long(), 2 * radius)
    still = torch.eye(2, device=pair.device).expand(len(pair), 2, 2)
    found = align(windows, around, start, still, STEPS)
    better = windows.correlation(found.seen) > windows.correlation(found.before)
    better &= (found.shift - start).norm(dim=1) < FARTHEST
    return torch.where(better[:, None], centre + found.shift, keypoints1)


class Deviations(NamedTuple):
    """Standard deviations of the prior: of the shift, in pixels, and of the matrix."""

    shift: float
    stretch: float


class Aligned(NamedTuple):
    """Where windows came to lie, and the grey values (M, P) that they saw before and after.

    shift: (M, 2) of their centres, in pixels from the centre of the patch. matrix: (M, 2, 2).
    """

    shift: Tensor
    matrix: Tensor
    before: Tensor
    seen: Tensor


class Windows(NamedTuple):
    """Windows of an image, with everything that does not depend on the other image.

    grid: (P, 2) pixels from the centre. weights: (P,). template: (M, P) grey values. weighted: (M,
    P, 8) their derivatives times the weights. inverse: (M, 8, 8) of the normal matrix, not finite
    where there is none. prior: (8,) what the prior adds to its diagonal.
    """

    grid: Tensor
    weights: Tensor
    template: Tensor
    weighted: Tensor
    inverse: Tensor
    prior: Tensor

    def of(self, rows: Tensor) -> Windows:
        """The windows of some rows (m,), in their order."""
        return self._replace(
            template=self.template[rows], weighted=self.weighted[rows], inverse=self.inverse[rows]
        )

    def correlation(self, seen: Tensor) -> Tensor:
        """Correlation (M,), −1 to 1, with the grey values `seen` (M, P)."""
        return correlation(self.template, seen, self.weights)


def cut_windows(
    images: Tensor, pair: Tensor, keypoints: Tensor, radius: int, spread: Deviations
) -> Windows:
    """The windows around keypoints (M, 2) of images (B, 1, H, W). pair (M,): which of the B."""
    grid = square(radius, keypoints.device)
    weights = (-1.125 * (grid / radius).square().sum(1)).exp()
    template, jacobian = template_and_jacobian(images, pair, keypoints, radius)
    weighted = jacobian * weights[:, None]
    deviations = jacobian.new_tensor([spread.shift] * 2 + [spread.stretch] * 4 + [FREE] * 2)
    prior = (NOISE / deviations) ** 2
    inverse = torch.linalg.inv_ex(weighted.mT @ jacobian + prior.diag())[0]
    return Windows(grid, weights, template, weighted, inverse, prior)


def align(windows: Windows, around: Tensor, start: Tensor, first: Tensor, steps: int) -> Aligned:
    """Move windows over another image to where it looks most like them.

    around: (M, 1, S, S), patches of the other image by `cut_patches`. start: (M, 2) where the
    centres of the windows begin, in pixels from the centre of their patch. first: (M, 2, 2) the
    matrices that the windows begin with. They are the prior too.
    """
    still = torch.eye(2, device=around.device).expand(len(around), 2, 2)
    shift, matrix = start, first
    before = seen = sample_patches(around, windows.grid @ matrix.mT + shift[:, None])
    for _ in range(steps):
        slope = ((seen - windows.template)[:, None] @ windows.weighted)[:, 0]
        way = (torch.linalg.inv_ex(matrix)[0] @ (shift - start)[:, :, None])[:, :, 0]
        gone = torch.cat([way, (matrix - first).flatten(1), torch.zeros_like(way)], dim=1)
        step = (windows.inverse @ (slope + windows.prior * gone)[:, :, None])[:, :, 0]
        # The step was found in image 0: its inverse goes before the map.
        matrix = matrix @ torch.linalg.inv_ex(still + step[:, 2:6].unflatten(1, (2, 2)))[0]
        shift = shift - (matrix @ step[:, :2, None])[:, :, 0]
        seen = sample_patches(around, windows.grid @ matrix.mT + shift[:, None])
    return Aligned(shift, matrix, before, seen)


def template_and_jacobian(
    images: Tensor, pair: Tensor, keypoints: Tensor, radius: int
) -> tuple[Tensor, Tensor]:
    """Grey values (M, P) around the keypoints (M, 2), and their derivatives (M, P, 8).

    The derivatives are by shift x and y, by the matrix row by row, by gain and by offset.
    """
    centre = keypoints.floor()
    wide = cut_patches(images, pair, centre.long(), radius + 3)
    values = sample_patches(
        wide, (keypoints - centre)[:, None] + square(radius + 2, keypoints.device)
    )
    values = values.unflatten(1, (2 * radius + 5, -1))
    by_x, by_y = (
        derivative(v, dim).flatten(1) for v, dim in ((values[:, 2:-2], 2), (values[:, :, 2:-2], 1))
    )
    template = values[:, 2:-2, 2:-2].flatten(1)
    x, y = square(radius, keypoints.device).unbind(1)
    columns = [
        by_x,
        by_y,
        by_x * x,
        by_x * y,
        by_y * x,
        by_y * y,
        template,
        torch.ones_like(template),
    ]
    return template, torch.stack(columns, dim=-1)


def derivative(values: Tensor, dim: int) -> Tensor:
    """The derivative along `dim`, of fourth order, because plain differences see too little slope.

    The dimension loses two values at either end.
    """
    before2, before1, _, after1, after2 = (
        values.narrow(dim, n, values.shape[dim] - 4) for n in range(5)
    )
    return (after1 - before1) * (2 / 3) - (after2 - before2) / 12


def square(radius: int, device: torch.device) -> Tensor:
    """(x, y) of the pixels of a patch from its centre, row by row: ((2·radius + 1)², 2) float32."""
    steps = torch.arange(-radius, radius + 1, dtype=torch.float32, device=device)
    return torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1).flatten(0, 1)


def cut_patches(images: Tensor, pair: Tensor, centre: Tensor, reach: int) -> Tensor:
    """Squares of images (B, 1, H, W) around the pixels `centre` (M, 2), two samples a pixel.

    Returns (M, 1, S, S) with S = 4·reach + 1. Edges repeat.
    """
    height, width = images.shape[2:]
    steps = torch.arange(-reach, reach + 1, device=images.device)
    columns, rows = (centre[:, :, None] + steps).unbind(1)
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    double = doubling(2 * reach + 1, images.device)
    return (
        double @ images[pair[:, None, None], 0, rows[:, :, None], columns[:, None, :]] @ double.T
    )[:, None]


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def doubling(count: int, device: torch.device) -> Tensor:
    """Matrix (2·count − 1, count) of the values on and half-way between `count` others.

    Half-way values come from the polynomial through the six values around. Bilinear sampling would
    blur half-way, and pull matches to whole pixels.
    """
    between = torch.tensor([3, -25, 150, 150, -25, 3], dtype=torch.float32) / 256
    matrix = torch.zeros(2 * count - 1, count)
    matrix[::2] = torch.eye(count)
    for row in range(count - 1):
        for at, weight in enumerate(between, row - 2):
            matrix[2 * row + 1, min(max(at, 0), count - 1)] += weight
    return matrix.to(device)


def sample_patches(patches: Tensor, offsets: Tensor) -> Tensor:
    """Grey values (M, P) of patches of `cut_patches`, (M, 1, S, S).

    offsets (M, P, 2): (x, y) in pixels from the centre of the patch.
    """
    reach = (patches.shape[-1] - 1) / 4
    values = F.grid_sample(
        patches, offsets[:, None] / reach, padding_mode="border", align_corners=True
    )
    return values[:, 0, 0]


def correlation(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """Correlation (M,), −1 to 1, of a and b (M, P) under weights (P,); 0 where one is flat."""
    weights = weights / weights.sum()
    a, b = a - (a @ weights)[:, None], b - (b @ weights)[:, None]
    return (a * b) @ weights / ((a.square() @ weights) * (b.square() @ weights) + 1e-12).sqrt()
