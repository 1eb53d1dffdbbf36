"""Which view a point is measured against, and how the surface around the point lies."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from pipeline.reconstruct.tracks.scene import SparseModel

NEIGHBOURS = 12  # points that tell how the surface lies
FLAT = 0.1  # of the least to the next variance of these points, at most
FACING = 0.2  # least cosine between the normal and the way to the view


def references(scene: SparseModel) -> np.ndarray:
    """The view of the middle scale (distance by focal length) of every point's track: (P,).

    Windows of it are neither coarser nor finer than most of the others.
    """
    views = scene.views
    distance = np.linalg.norm(views.centres()[scene.view] - scene.xyz[scene.point], axis=1)
    order = np.lexsort((scene.view, distance / views.focal()[scene.view], scene.point))
    starts = np.searchsorted(scene.point, np.arange(len(scene.xyz) + 1))
    middle: np.ndarray = scene.view[order[starts[:-1] + (np.diff(starts) - 1) // 2]]
    return middle


def normals(scene: SparseModel, reference: np.ndarray) -> np.ndarray:
    """Unit normals of the surface at every point, towards its reference view (P,): (P, 3).

    A normal is the least principal axis of the nearest points. Where these do not lie flat, or show
    the view their back, the surface is taken to face the view.
    """
    ways = scene.views.centres()[reference] - scene.xyz
    ways /= np.maximum(np.linalg.norm(ways, axis=1, keepdims=True), 1e-300)
    if len(scene.xyz) <= NEIGHBOURS:
        return np.asarray(ways)
    _, nearest = cKDTree(scene.xyz).query(scene.xyz, NEIGHBOURS + 1)
    around = scene.xyz[nearest] - scene.xyz[nearest].mean(axis=1, keepdims=True)
    variances, axes = np.linalg.eigh(np.einsum("pni,pnj->pij", around, around))
    found = axes[:, :, 0]
    cosine = np.einsum("pi,pi->p", found, ways)
    found = found * np.where(cosine < 0, -1, 1)[:, None]
    good = (variances[:, 0] <= FLAT * variances[:, 1]) & (np.abs(cosine) >= FACING)
    chosen: np.ndarray = np.where(good[:, None], found, ways)
    return chosen


def tied_views(scene: SparseModel, most: int) -> list[np.ndarray]:
    """The views that may see what each view sees, at most so many, in ascending order.

    Views that share points come first, by their number. Views that share points with these follow.
    """
    seen = csr_matrix(
        (np.ones(len(scene.point), np.int64), (scene.view, scene.point)),
        shape=(len(scene.views), len(scene.xyz)),
    )
    shared = (seen @ seen.T).tocsr()
    twice = (shared @ shared).tocsr()
    tied = []
    for row in range(len(scene.views)):
        of_two, of_one = twice.getrow(row), shared.getrow(row)
        direct = dict(zip(of_one.indices.tolist(), of_one.data.tolist(), strict=True))
        ranked = sorted(
            (-direct.get(view, 0), -count, view)
            for view, count in zip(of_two.indices.tolist(), of_two.data.tolist(), strict=True)
            if view != row
        )
        tied.append(np.array(sorted(view for *_, view in ranked[:most]), np.int64))
    return tied
