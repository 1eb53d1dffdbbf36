"""The axes in which a page shows a model, and which way up its photographs are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from pipeline.photos.cameras.stored import STORED_FROM_UPRIGHT
from pipeline.reconstruct.tracks.scene import ModelViews

MIDDLE = (4.0, 96.0)  # percentiles of points between which the view looks
ALIKE = 0.5  # length of the mean of directions from which they count as one


class Axes(NamedTuple):
    """The axes of the view in the model: x to the right, y ahead, z up.

    rotation: (3, 3), its rows are the axes. centre: (3,), the origin of the view. radius: of a
    ball around it that most of the scene is in. frustum: length of a drawn camera.
    """

    rotation: np.ndarray
    centre: np.ndarray
    radius: float
    frustum: float

    @classmethod
    def of(cls, xyz: np.ndarray, views: ModelViews, upright: Upright) -> Axes:
        """Axes in which a person looks at points (P, 3) and the views that see them.

        The mean up direction of the photographs is up. Of a flight back and forth, whose
        photographs have none in common, up is away from what they look at. The origin is the middle
        of most points and the cameras.
        """
        rotation = _directions(views, upright)
        centres = views.centres() @ rotation.T
        both = np.concatenate([xyz @ rotation.T, centres])
        if not len(both):
            return cls(rotation, np.zeros(3), 1.0, 0.05)
        low, high = np.percentile(both, MIDDLE, axis=0)
        if len(centres):
            cameras = np.percentile(centres, [2.0, 98.0], axis=0)
            low, high = np.minimum(low, cameras[0]), np.maximum(high, cameras[1])
        radius = 0.5 * float(np.linalg.norm(high - low)) or 1.0
        apart = radius
        if len(centres) > 1:
            apart = float(np.median(cKDTree(centres).query(centres, 2)[0][:, 1]))
        frustum = float(np.clip(0.5 * apart, 0.02 * radius, 0.1 * radius))
        return cls(rotation, rotation.T @ (0.5 * (low + high)), radius, frustum)

    def __call__(self, xyz: np.ndarray) -> np.ndarray:
        """Points (…, 3) of the model as those of the view."""
        seen: np.ndarray = (xyz - self.centre) @ self.rotation.T
        return seen


class Upright(NamedTuple):
    """How the photographs of views are turned.

    orientation: (V,) EXIF, 1…8. size: (V, 2) upright width and height in pixels.
    """

    orientation: np.ndarray
    size: np.ndarray

    @classmethod
    def of(cls, views: ModelViews, orientation: Mapping[str, int]) -> Upright:
        """Of views. orientation: by the names of images; 1 for those that are absent."""
        turns = np.array([orientation.get(name, 1) for name in views.names], np.int64)
        cameras = [views.camera_of(row) for row in range(len(views))]
        size = np.array([(one.width, one.height) for one in cameras], np.int64).reshape(-1, 2)
        turned = turns >= 5
        size[turned] = size[turned, ::-1]
        return cls(turns, size)

    def linear(self) -> np.ndarray:
        """From upright to stored offsets in pixels: (V, 2, 2)."""
        turns: np.ndarray = STORED_FROM_UPRIGHT[self.orientation - 1].astype(float)
        return turns


def _directions(views: ModelViews, upright: Upright) -> np.ndarray:
    """Rows to the right, ahead and up: (3, 3)."""
    if not len(views):
        return np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    ahead = views.rotation[:, 2].mean(axis=0)
    ups = np.einsum("vk,vkj->vj", -upright.linear()[:, :, 1], views.rotation[:, :2])
    up = ups.mean(axis=0)
    if np.linalg.norm(up) < ALIKE:
        up = -ahead if np.linalg.norm(ahead) > ALIKE else ups[0]
    up /= np.linalg.norm(up)
    across = (one - up * (up @ one) for one in (ahead, views.rotation[0, 2], *np.eye(3)))
    flat = next(one for one in across if np.linalg.norm(one) > 0.05)
    flat /= np.linalg.norm(flat)
    return np.stack([np.cross(flat, up), flat, up])
