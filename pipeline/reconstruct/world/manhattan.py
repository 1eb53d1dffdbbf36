"""The Manhattan frame of a model: the three directions at right angles that its surfaces face.

Normals are those of the nearest points. The frame is that of two normals which most normals agree
with, after Straub et al., "A mixture of Manhattan frames", 2014, for a single frame.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from pipeline.reconstruct.world.up import Up

NEIGHBOURS = 12  # points that tell how the surface lies
FLAT = 0.05  # of the least to the next variance of these points, at most
ROUND = 0.1  # of the next to the largest, at least: a line of points is no surface
MOST_NORMALS = 20_000  # points whose normals are looked at
SAMPLES = 500  # of two normals each
CLOSE = 10.0  # degrees from an axis
# Of normals in random directions, 4.6 % are so close to one of three axes.
LEAST_SHARE = 0.3
LEAST_OF_AXIS = 0.05  # of the normals, along each of two axes
FEWEST = 200  # normals
NEAR_UP = 0.8  # cosine between the axis that is up and the cameras' up, at least


def surface_normals(xyz: np.ndarray) -> np.ndarray:
    """Unit normals (n, 3), of either sign, where points (P, 3) lie on a surface."""
    if len(xyz) <= NEIGHBOURS:
        return np.empty((0, 3))
    rows = np.random.default_rng(0).permutation(len(xyz))[:MOST_NORMALS]
    _, nearest = cKDTree(xyz).query(xyz[rows], NEIGHBOURS + 1)
    around = xyz[nearest] - xyz[nearest].mean(axis=1, keepdims=True)
    variances, axes = np.linalg.eigh(np.einsum("pni,pnj->pij", around, around))
    flat = variances[:, 0] <= FLAT * variances[:, 1]
    flat &= variances[:, 1] >= ROUND * variances[:, 2]
    found: np.ndarray = axes[flat, :, 0]
    return found


def manhattan_frame(normals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Three axes (3, 3), a row each, that most normals (n, 3) are along; and the shares of each."""
    rng, best, most = np.random.default_rng(0), np.eye(3), -1
    for first, second in normals[rng.integers(0, len(normals), (SAMPLES, 2))]:
        across = second - first * (first @ second)
        if np.linalg.norm(across) < 0.9:
            continue
        across /= np.linalg.norm(across)
        axes = np.stack([first, across, np.cross(first, across)])
        count = int((np.abs(normals @ axes.T) >= np.cos(np.radians(CLOSE))).sum())
        if count > most:
            best, most = axes, count
    for _ in range(10):
        cosine = normals @ best.T
        near = np.abs(cosine).max(axis=1) >= np.cos(np.radians(CLOSE))
        axis = np.abs(cosine).argmax(axis=1)[near]
        signed = normals[near] * np.sign(cosine[near, axis])[:, None]
        sums = np.stack([signed[axis == k].sum(axis=0) for k in range(3)])
        left, _, right = np.linalg.svd(sums)
        best = left @ right
    cosine = np.abs(normals @ best.T)
    shares: np.ndarray = (cosine >= np.cos(np.radians(CLOSE))).mean(axis=0)
    return best, shares


def up_by_surfaces(xyz: np.ndarray, cameras: np.ndarray | None) -> tuple[Up, np.ndarray] | str:
    """Up by the surfaces of points (P, 3), with another of their axes (3,); or why not.

    cameras: (3,) roughly up, which tells which of the axes it is.
    """
    normals = surface_normals(xyz)
    if len(normals) < FEWEST:
        return f"{len(normals)} of its points lie on surfaces, and {FEWEST} are needed"
    axes, shares = manhattan_frame(normals)
    if shares.sum() < LEAST_SHARE or np.sort(shares)[1] < LEAST_OF_AXIS:
        told = ", ".join(f"{share:.0%}" for share in np.sort(shares)[::-1])
        return (
            f"its surfaces face no two directions at right angles: {told} of the normals are "
            f"within {CLOSE:.0f}° of the three best axes"
        )
    if cameras is None:
        return "cameras look in all directions, and nothing tells which of three axes is up"
    cosine = axes @ cameras
    chosen = int(np.abs(cosine).argmax())
    if abs(cosine[chosen]) < NEAR_UP:
        return (
            f"none of the three axes is near to the up of the cameras: the nearest is "
            f"{np.degrees(np.arccos(abs(cosine[chosen]))):.0f}° off"
        )
    up = axes[chosen] * np.sign(cosine[chosen])
    beside = np.argsort(-shares)
    other = next(int(k) for k in beside if k != chosen)
    text = (
        f"up by the surfaces of {len(normals)} points, of which {shares.sum():.0%} face along "
        f"three axes within {CLOSE:.0f}°; the cameras' own up is "
        f"{np.degrees(np.arccos(abs(cosine[chosen]))):.1f}° off"
    )
    return Up(up, text), axes[other]
