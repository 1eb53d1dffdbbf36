"""From matches with images of a model to points of its surface.

The matcher proposes keypoints of its own, which are no observations of the model. The ray of such a
keypoint meets the plane of the surface at the nearest observation of its image, and the meeting
point is what the query sees.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.spatial import cKDTree

from pipeline.errors import ReconstructionError
from pipeline.reconstruct.models.files import ModelFiles
from pipeline.reconstruct.refine.job import FILES_OF_A_MODEL
from pipeline.reconstruct.tracks.predict import meet
from pipeline.reconstruct.tracks.scene import ModelViews, SparseModel, rows_of_groups
from pipeline.reconstruct.tracks.surface import normals, references

NEAR = 1 / 160  # of the longer side: an observation so near tells the surface at a keypoint


@dataclass(frozen=True)
class KnownSurface:
    """A model with the planes of its surface.

    scene: the model. normal: (P, 3) of every point, towards the images that see it.
    """

    scene: SparseModel
    normal: np.ndarray

    @classmethod
    def of(cls, scene: SparseModel) -> KnownSurface:
        """The surface of a model."""
        return cls(scene, normals(scene, references(scene)))

    @property
    def views(self) -> ModelViews:
        """The images of the model."""
        return self.scene.views

    @cached_property
    def observations(self) -> list[np.ndarray]:
        """The rows of the observations of each view."""
        return rows_of_groups(self.scene.view, len(self.views))

    @cached_property
    def trees(self) -> dict[int, cKDTree]:
        """The observations of the views that were asked for."""
        return {}

    def at(self, view: int, xy: np.ndarray) -> np.ndarray:
        """The points (n, 3) of the surface that pixels (n, 2) of a view show.

        xy: COLMAP's pixels. NaN where no observation is near.
        """
        found = np.full((len(xy), 3), np.nan)
        mine = self.observations[view]
        if not len(mine) or not len(xy):
            return found
        if view not in self.trees:
            self.trees[view] = cKDTree(self.scene.xy[mine])
        camera = self.views.camera_of(view)
        reach = NEAR * max(camera.width, camera.height)
        away, nearest = self.trees[view].query(xy, distance_upper_bound=reach)
        near = np.flatnonzero(np.isfinite(away))
        point = self.scene.point[mine[nearest[near]]]
        planes = self.scene.xyz[point], self.normal[point]
        found[near] = meet(self.views, view, xy[near], *planes)
        return found


def known_surface(files: ModelFiles) -> tuple[KnownSurface, str]:
    """The surface of a model and the SHA-256 of its files; for COLMAP's process.

    Raises ReconstructionError where COLMAP cannot read it, or where it has no points.
    """
    scene = SparseModel.of(files.read())
    if not len(scene.xyz):
        raise ReconstructionError(
            f"{files.shown}: has {len(scene.views)} images and no points; localizing needs points "
            "that images see."
        )
    digest = hashlib.sha256()
    for name in FILES_OF_A_MODEL:
        if (files.folder / name).is_file():
            digest.update((files.folder / name).read_bytes())
    return KnownSurface.of(scene), digest.hexdigest()
