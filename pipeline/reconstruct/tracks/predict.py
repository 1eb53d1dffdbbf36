"""Where the points of a reference view lie in another view, and how the image is distorted there.

A point keeps its place in the reference view: its ray meets the plane of the surface. The meeting
point and two points 2 pixels beside it, projected into another view, are a place and an affine map.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.reconstruct.tracks.scene import ModelViews, project

BESIDE = 2.0  # pixels of the reference image as it is measured
WIDEST = np.cos(np.deg2rad(60))  # cosine of the largest angle between the two rays
SEEN = 0.1  # least cosine between the normal and the other ray
LEAST_AREA, LEAST_STRETCH, MOST_STRETCH = 0.15, 0.3, 2.0  # of the affine map


@dataclass(frozen=True)
class Surfaces:
    """The points of one reference view.

    view: its row. xy: (n, 2) observations, pixels. met: (n, 3) where their rays meet the surface.
    beside: (2, n, 3) where the rays `BESIDE` pixels to the right and below do. normal: (n, 3).
    """

    view: int
    xy: np.ndarray
    met: np.ndarray
    beside: np.ndarray
    normal: np.ndarray

    @classmethod
    def of(
        cls,
        views: ModelViews,
        view: int,
        xy: np.ndarray,
        xyz: np.ndarray,
        normal: np.ndarray,
        step: float,
    ) -> Surfaces:
        """Meet the planes through `xyz` (n, 3). step: `BESIDE` in pixels of the stored image."""
        steps = np.array([[0, 0], [step, 0], [0, step]])
        met, *beside = (meet(views, view, xy + away, xyz, normal) for away in steps)
        return cls(view, xy, met, np.array(beside), normal)


def meet(
    views: ModelViews, view: int, xy: np.ndarray, xyz: np.ndarray, normal: np.ndarray
) -> np.ndarray:
    """Where the rays of pixels (n, 2) meet the planes through xyz with these normals: (n, 3).

    NaN behind the view.
    """
    rotation = views.rotation[view]
    centre = -rotation.T @ views.shift[view]
    rays = views.camera_of(view).made().cam_from_img(xy.astype(np.float64))
    ways = np.column_stack([rays, np.ones(len(rays))]) @ rotation
    with np.errstate(divide="ignore", invalid="ignore"):
        far = np.einsum("ni,ni->n", xyz - centre, normal) / np.einsum("ni,ni->n", ways, normal)
    return np.where((np.isfinite(far) & (far > 0))[:, None], centre + far[:, None] * ways, np.nan)


def predict(
    views: ModelViews,
    surfaces: Surfaces,
    view: int,
    scale: np.ndarray,
    margin: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predict the points in a view.

    scale: pixels (x, y) of the measured image of this view by pixels of the stored one.
    margin: pixels of the measured image that must lie around a place.

    Returns the rows (m,) of the points that this view may show, their places (m, 2) in pixels of
    the measured image (COLMAP's origin), and the maps (m, 2, 2) from pixels of the measured
    reference to pixels of the measured image.
    """
    camera = views.camera_of(view)
    place = project(views, view, surfaces.met) * scale
    steps = [project(views, view, beside) * scale - place for beside in surfaces.beside]
    maps = np.stack(steps, axis=2) / BESIDE
    size = np.array([camera.width, camera.height]) * scale
    rays = [
        surfaces.met - (-views.rotation[row].T @ views.shift[row]) for row in (surfaces.view, view)
    ]
    first, second = (ray / np.linalg.norm(ray, axis=1, keepdims=True) for ray in rays)
    with np.errstate(invalid="ignore"):
        good = np.isfinite(maps).all(axis=(1, 2)) & np.isfinite(place).all(axis=1)
        good &= ((place > margin) & (place < size - margin)).all(axis=1)
        good &= np.einsum("ni,ni->n", first, second) > WIDEST
        good &= -np.einsum("ni,ni->n", surfaces.normal, second) > SEEN
    rows = np.flatnonzero(good)
    stretch = np.linalg.svd(maps[rows], compute_uv=False)
    fits = (np.linalg.det(maps[rows]) > LEAST_AREA) & (stretch[:, 1] > LEAST_STRETCH)
    rows = rows[fits & (stretch[:, 0] < MOST_STRETCH)]
    return rows, place[rows], maps[rows]
