"""A model of a block as arrays, and the similarity that brings one onto another."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.reconstruct.similarity import Similarity, umeyama
from pipeline.reconstruct.tracks.scene import ModelViews

# Two points are the same where they lie within this share of their distance to the cameras.
SAME = 0.05
SAMPLES = 200  # of three points each, to find a similarity among outliers
MOST_POINTS = 3000  # that a similarity is found with


@dataclass(frozen=True)
class Piece:
    """V views, P points and O observations of one model of a block.

    name: block and number of the model. is_core: (V,) bool, whether the image is the block's own.
    xyz: (P, 3). key: (O,) image << 32 | keypoint, sorted. point: (O,) row.
    """

    name: str
    views: ModelViews
    is_core: np.ndarray
    xyz: np.ndarray
    key: np.ndarray
    point: np.ndarray

    @classmethod
    def of(cls, name: str, model: Any, core: np.ndarray) -> Piece:
        """The arrays of a `pycolmap.Reconstruction`. core: numbers of the block's own images."""
        views = ModelViews.of(model)
        points = [model.points3D[number] for number in sorted(model.point3D_ids())]
        tracks = [point.track.elements for point in points]
        key = np.array(
            [element.image_id << 32 | element.point2D_idx for track in tracks for element in track],
            np.int64,
        )
        rows = np.repeat(np.arange(len(points)), [len(track) for track in tracks])
        order = np.argsort(key)
        return cls(
            name,
            views,
            np.isin(views.numbers, core),
            np.array([point.xyz for point in points]).reshape(-1, 3),
            key[order],
            rows[order],
        )

    @cached_property
    def distance(self) -> np.ndarray:
        """Mean distance of each point to the cameras that see it: (P,)."""
        rows = np.searchsorted(self.views.numbers, self.key >> 32)
        far = np.linalg.norm(self.views.centres()[rows] - self.xyz[self.point], axis=1)
        total = np.bincount(self.point, far, len(self.xyz))
        return total / np.maximum(np.bincount(self.point, minlength=len(self.xyz)), 1)


def common_points(first: Piece, second: Piece) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n,) of the points of both that share an observation, each couple once."""
    _, mine, theirs = np.intersect1d(first.key, second.key, assume_unique=True, return_indices=True)
    couples = np.unique(np.stack([first.point[mine], second.point[theirs]], axis=1), axis=0)
    return couples[:, 0], couples[:, 1]


def robust_similarity(
    source: np.ndarray, target: np.ndarray, distance: np.ndarray
) -> tuple[Similarity, np.ndarray]:
    """The similarity that most couples of points agree on, and which do, (n,) bool.

    source, target: (n, 3), at least 3 each. distance: (n,) of the target's points to its cameras.
    """
    rng = np.random.default_rng(0)
    some = rng.permutation(len(source))[:MOST_POINTS]
    best, most = Similarity.identity(), -1
    for _ in range(SAMPLES):
        rows = some[rng.choice(len(some), 3, replace=False)]
        found = Similarity(*umeyama(source[rows], target[rows]))
        count = int(agreeing(found, source[some], target[some], distance[some]).sum())
        if count > most:
            best, most = found, count
    for _ in range(5):
        good = agreeing(best, source, target, distance)
        if good.sum() < 3:
            break
        off = np.linalg.norm(best(source) - target, axis=1) / distance
        good &= off <= 3 * np.median(off[good])
        best = Similarity(*umeyama(source[good], target[good]))
    return best, agreeing(best, source, target, distance)


def agreeing(
    similarity: Similarity, source: np.ndarray, target: np.ndarray, distance: np.ndarray
) -> np.ndarray:
    """Which couples of points are the same after the similarity: (n,) bool."""
    good: np.ndarray = np.linalg.norm(similarity(source) - target, axis=1) < SAME * distance
    return good
