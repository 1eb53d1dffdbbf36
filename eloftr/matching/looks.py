"""Further looks at a pair: image 1 as image 0 sees it.

Views from far apart show one place slanted and at other sizes, and the network was trained on what
looks more alike. The matches of a first look tell a homography. Image 1 is warped by it and matched
again, and the matches are taken back to where they lie in image 1. A scene need not be flat: a
plane through most of it takes the greater part of the difference away.

Rectification before matching goes back to view synthesis (Morel and Yu, ASIFT, 2009; Mishkin et
al., MODS, 2015). Here the view is not searched for, because the first look tells it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_MATCHES = 12  # of a look, below which they tell nothing
SEEN_WELL = 1 / 5  # of image 0's cells have a match: such a pair is not looked at again
CHANGED = 1 / 10  # of a view, below which it is too like a shift for a look to find more
AGREEMENT = 1 / 64  # of image 0's longer side, from where the homography takes a match that agrees
DRAWS, HYPOTHESES = 8000, 1500  # most samples of four matches, and how many good ones are tried
AT_ONCE = 250  # of the samples
POLISHED = 3  # of the hypotheses at once, the best ones
MISSED = 1e-6  # chance that no sample had four right matches, at which the search ends
SCORED = 200  # matches by which they are compared, evenly taken
REFITS = 4  # by all matches that agree, at the end
MOST_STRETCH = 5.0  # a view that is larger or smaller by more shows nothing the network knows
SAMPLE = 4


@dataclass(frozen=True)
class Rectification:
    """How image 1 is taken into the view of image 0.

    to0, to1: (3, 3) of homogeneous pixels, from image 1 to image 0 and back. stretch: pixels of
    image 1 for one of image 0, the greater of both directions. agreeing: matches within reach.
    change: how far it is from a shift. Without their means, the points of the agreeing matches lie
    in image 1 off those in image 0 by this share of their spread, root mean square. It is 1 where
    no matches tell it.
    """

    to0: np.ndarray
    to1: np.ndarray
    stretch: float
    agreeing: int
    change: float


def rectification(points0: np.ndarray, points1: np.ndarray, reach: float) -> Rectification | None:
    """The homography that most matches agree with, or None where they tell none that is sane.

    points0, points1: (M, 2) pixels. reach: pixels in image 0 from where the homography takes a
    match that agrees. The result depends on the matches and their order alone.
    """
    if len(points0) < LEAST_MATCHES:
        return None
    points0, points1 = np.asarray(points0, np.float64), np.asarray(points1, np.float64)
    best = _best_of_samples(points0, points1, reach)
    if best is None:
        return None
    best, _ = _refitted(best, points0, points1, reach, REFITS)
    near = _off(best, points0, points1) < reach
    if near.sum() < LEAST_MATCHES or not np.linalg.det(best):
        return None
    to1, centre0 = np.linalg.inv(best), points0[near].mean(axis=0)
    stretch = _stretch(to1, centre0)
    if stretch is None:
        return None
    spread0, spread1 = points0[near] - centre0, points1[near] - points1[near].mean(axis=0)
    change = np.sqrt(((spread1 - spread0) ** 2).sum() / max((spread0**2).sum(), 1e-9))
    return Rectification(best, to1, stretch, int(near.sum()), float(change))


def guided(guide: np.ndarray, shape: tuple[int, int]) -> Rectification | None:
    """A homography (3, 3) that is told beforehand, or None where it is not sane.

    guide: from image 0 to image 1, of either sign. shape: (H, W) of image 0, around whose centre it
        has to be sane.
    """
    centre = (np.array(shape[::-1]) - 1) / 2
    to1 = guide * np.sign(guide[2] @ np.append(centre, 1))
    stretch = _stretch(to1, centre) if np.linalg.det(to1) else None
    return None if stretch is None else Rectification(np.linalg.inv(to1), to1, stretch, 0, 1.0)


def mapped(homography: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(..., M, 2): points (M, 2) by homographies (..., 3, 3); NaN where they lie behind a view."""
    x, y, depth = _moved(homography, points)
    with np.errstate(divide="ignore", invalid="ignore"):
        both = np.stack([x / depth, y / depth], axis=-1)
    found: np.ndarray = np.where(depth[..., None] > 0, both, np.nan)
    return found


def _moved(homography: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(3, ..., M): homogeneous coordinates, by one product for all homographies."""
    product = homography[..., :2].reshape(-1, 2) @ points.T + homography[..., 2].reshape(-1, 1)
    apart: np.ndarray = np.moveaxis(product.reshape(*homography.shape[:-1], -1), -2, 0)
    return apart


def warped(image1: Tensor, view: Rectification, shape: tuple[int, int]) -> Tensor:
    """Image 1 (H, W), values 0…1, in the view of image 0 of this shape; black outside."""
    device, image = image1.device, image1.float()[None, None]
    height, width = shape
    x = torch.arange(width, dtype=torch.float64, device=device)
    y = torch.arange(height, dtype=torch.float64, device=device)[:, None]
    to1 = torch.from_numpy(view.to1).to(device)
    u, v, w = (row[0] * x + (row[1] * y + row[2]) for row in to1)
    behind = w <= 0
    u, v = u / w, v / w
    for _ in range(round(np.log2(max(view.stretch, 1.0)))):  # so that nothing aliases
        if min(image.shape[2:]) < 2:
            break
        image = F.avg_pool2d(image, 2)
        u, v = (u - 0.5) / 2, (v - 0.5) / 2
    rows, columns = image.shape[2:]
    sides = u / max(columns - 1, 1), v / max(rows - 1, 1)
    grid = torch.stack([torch.where(behind, -9.0, 2 * side - 1).clamp(-9, 9) for side in sides], -1)
    found: Tensor = F.grid_sample(image, grid.float()[None], align_corners=True)[0, 0]
    return found


def _best_of_samples(points0: np.ndarray, points1: np.ndarray, reach: float) -> np.ndarray | None:
    """The homography, image 1 to image 0, that most matches agree with.

    It is one through four matches, or fitted to what agrees with one of the best of these (locally
    optimised RANSAC, Chum, Matas and Kittler 2003).
    """
    few = np.linspace(0, len(points0) - 1, min(len(points0), SCORED)).round().astype(int)
    few0, few1 = points0[few], points1[few]
    random = np.random.default_rng(0)
    best, most, tried = None, 0.0, 0
    for drawn in range(AT_ONCE, DRAWS + 1, AT_ONCE):
        draw = random.integers(len(points0), size=(AT_ONCE, SAMPLE))
        candidates = _hypotheses(points0, points1, draw)
        if not len(candidates):
            continue
        tried += len(candidates)
        worth = _worth(candidates, few0, few1, reach)
        for candidate in candidates[np.argsort(-worth)[:POLISHED]]:
            refitted, agreeing = _refitted(candidate, few0, few1, reach, 1)
            if agreeing > most:
                best, most = refitted, agreeing
        right = 0.0 if best is None else np.mean(_off(best, few0, few1) < reach)
        if tried >= HYPOTHESES or (1 - right**SAMPLE) ** drawn <= MISSED:
            break
    return best


def _refitted(
    homography: np.ndarray, points0: np.ndarray, points1: np.ndarray, reach: float, times: int
) -> tuple[np.ndarray, float]:
    """The homography fitted to what agrees with it, so often or while more agrees; its worth."""
    most = float(_worth(homography, points0, points1, reach))
    for _ in range(times):
        near = _off(homography, points0, points1) < reach
        if near.sum() <= SAMPLE:
            break
        fitted = _fit(points0[near], points1[near])
        worth = float(_worth(fitted, points0, points1, reach))
        if worth <= most:
            break
        homography, most = fitted, worth
    return homography, most


def _hypotheses(points0: np.ndarray, points1: np.ndarray, draw: np.ndarray) -> np.ndarray:
    """(N, 3, 3): homographies, image 1 to image 0, through samples (M, 4) of matches."""
    one, other = points1[draw], points0[draw]
    # Corners of three must turn alike in both images, and not lie on a line.
    turns = [_corners(side) for side in (one, other)]
    good = (turns[0] * turns[1] > 0).all(axis=1) & (np.abs(turns).min(axis=(0, 2)) > 1)
    draw = draw[good]
    move0, move1 = _normal(points0), _normal(points1)
    x, y = np.moveaxis(mapped(move1, points1)[draw], 2, 0)
    u, v = np.moveaxis(mapped(move0, points0)[draw], 2, 0)
    system = np.zeros((len(draw), 2 * SAMPLE, 8))
    system[:, 0::2, 0], system[:, 0::2, 1], system[:, 0::2, 2] = x, y, 1
    system[:, 1::2, 3], system[:, 1::2, 4], system[:, 1::2, 5] = x, y, 1
    system[:, 0::2, 6], system[:, 0::2, 7] = -u * x, -u * y
    system[:, 1::2, 6], system[:, 1::2, 7] = -v * x, -v * y
    right = np.stack([u, v], axis=2).reshape(len(draw), 2 * SAMPLE, 1)
    regular = np.abs(np.linalg.det(system)) > 1e-12
    solved = np.linalg.solve(system[regular], right[regular])[:, :, 0]
    whole = np.concatenate([solved, np.ones((len(solved), 1))], axis=1).reshape(-1, 3, 3)
    found: np.ndarray = np.linalg.inv(move0) @ whole @ move1
    return found


def _corners(four: np.ndarray) -> np.ndarray:
    """(N, 4): twice the signed areas of the triangles of four points (N, 4, 2)."""
    areas = []
    for left_out in range(SAMPLE):
        a, b, c = (four[:, k] for k in range(SAMPLE) if k != left_out)
        (ux, uy), (vx, vy) = (b - a).T, (c - a).T
        areas.append(ux * vy - uy * vx)
    return np.stack(areas, axis=1)


def _normal(points: np.ndarray) -> np.ndarray:
    """(3, 3): moves points to a mean of zero and a mean distance of one."""
    middle = points.mean(axis=0)
    scale = 1 / max(np.linalg.norm(points - middle, axis=1).mean(), 1e-9)
    return np.array([[scale, 0, -scale * middle[0]], [0, scale, -scale * middle[1]], [0, 0, 1]])


def _fit(points0: np.ndarray, points1: np.ndarray) -> np.ndarray:
    """The homography of least squares, image 1 to image 0, of the algebraic error (Hartley)."""
    move0, move1 = _normal(points0), _normal(points1)
    (x, y), (u, v) = mapped(move1, points1).T, mapped(move0, points0).T
    nothing, one = np.zeros_like(x), np.ones_like(x)
    rows = np.concatenate(
        [
            np.stack([x, y, one, nothing, nothing, nothing, -u * x, -u * y, -u], axis=1),
            np.stack([nothing, nothing, nothing, x, y, one, -v * x, -v * y, -v], axis=1),
        ]
    )
    whole = np.linalg.eigh(rows.T @ rows)[1][:, 0].reshape(3, 3)
    either = np.linalg.inv(move0) @ whole @ move1
    # Of the two signs the one with which matches lie before the view.
    found: np.ndarray = either * np.sign(either[2] @ np.append(points1.mean(axis=0), 1))
    return found


def _off(homography: np.ndarray, points0: np.ndarray, points1: np.ndarray) -> np.ndarray:
    """(..., M): pixels in image 0 from where homographies take the points of image 1."""
    x, y, depth = _moved(homography, points1)
    with np.errstate(divide="ignore", invalid="ignore"):
        off = np.sqrt((x / depth - points0[:, 0]) ** 2 + (y / depth - points0[:, 1]) ** 2)
    found: np.ndarray = np.where(depth > 0, off, np.inf)
    return found


def _worth(
    homography: np.ndarray, points0: np.ndarray, points1: np.ndarray, reach: float
) -> np.ndarray:
    """(...): how many matches agree with homographies, near ones counting more."""
    off = _off(homography, points0, points1) / reach
    worth: np.ndarray = np.maximum(1 - off**2, 0).sum(axis=-1)
    return worth


def _stretch(to1: np.ndarray, centre: np.ndarray) -> float | None:
    """Pixels of image 1 for one of image 0 around a point; None where the view is no sane one."""
    around = mapped(to1, centre + np.array([[1, 0], [-1, 0], [0, 1], [0, -1]]))
    if not np.isfinite(around).all():
        return None
    steps = np.stack([around[0] - around[1], around[2] - around[3]], axis=1) / 2
    most, least = np.linalg.svd(steps, compute_uv=False)
    if np.linalg.det(steps) <= 0 or most > MOST_STRETCH or least < 1 / MOST_STRETCH:
        return None
    return float(most)
