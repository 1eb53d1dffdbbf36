"""The pose of a query, and perhaps its focal length, from points of the model that it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.extras import import_pycolmap
from pipeline.reconstruct.localize.cameras import QueryCamera
from pipeline.reconstruct.tracks.scene import ModelCamera
from pipeline.vocabulary import CameraSource

# COLMAP's covariance is that of half the angle of a small turn, for residuals of one pixel.
HALVES = np.diag([2.0, 2, 2, 1, 1, 1])
# A trusted camera is taken where it has so many of the inliers, and at most so much of the error,
# of a camera that the query tells.
AS_MANY, AS_EXACT = 0.9, 1.1
MOST_TRIALS = 2000  # of RANSAC; so many find 20 % inliers, whose pose takes three points


@dataclass(frozen=True)
class SeenPoints:
    """Points of the model in a query.

    xy: (n, 2) COLMAP's pixels of the query. xyz: (n, 3). view: (n,) the image of the model that
    told it.
    """

    xy: np.ndarray
    xyz: np.ndarray
    view: np.ndarray

    def __len__(self) -> int:
        return len(self.xy)

    def take(self, rows: np.ndarray) -> SeenPoints:
        """Some of them."""
        return SeenPoints(self.xy[rows], self.xyz[rows], self.view[rows])

    @classmethod
    def joined(cls, parts: Sequence[SeenPoints]) -> SeenPoints:
        """All points of several."""
        none = cls(np.empty((0, 2)), np.empty((0, 3)), np.empty(0, np.int64))
        whole = [none, *parts]
        return cls(
            np.concatenate([part.xy for part in whole]),
            np.concatenate([part.xyz for part in whole]),
            np.concatenate([part.view for part in whole]),
        )


@dataclass(frozen=True)
class QueryPose:
    """Where a query was taken: x_camera = rotation @ x_world + shift.

    free: whether the query told its focal length and distortion.
    covariance: (6, 6), of a small turn about the camera's axes in radians, and of the shift.
    inlier: (n,) bool. error: root mean square of the inliers, pixels.
    """

    rotation: np.ndarray
    shift: np.ndarray
    camera: ModelCamera
    source: CameraSource
    free: bool
    covariance: np.ndarray
    inlier: np.ndarray
    error: float

    @property
    def inliers(self) -> int:
        """The number of inliers."""
        return int(self.inlier.sum())


def accepted_pose(
    seen: SeenPoints, cameras: Sequence[QueryCamera], max_error: float, least: float
) -> QueryPose | None:
    """The pose by the most trusted camera that explains the points as well as the others do.

    cameras: to try, the most trusted first. max_error: pixels. least: inliers of a pose, at least.
    Returns None where no camera has so many.
    """
    poses = [estimated_pose(seen, tried, max_error) for tried in cameras]
    good = [pose for pose in poses if pose is not None and pose.inliers >= least]
    most = max((pose.inliers for pose in good), default=0)
    error = min((pose.error for pose in good), default=0.0)
    fit = (
        pose for pose in good if pose.inliers >= AS_MANY * most and pose.error <= AS_EXACT * error
    )
    return next(fit, good[-1] if good else None)


def estimated_pose(seen: SeenPoints, tried: QueryCamera, max_error: float) -> QueryPose | None:
    """The pose that most points agree on, by COLMAP's LO-RANSAC and refinement.

    max_error: pixels. Returns None where there is none.
    """
    pycolmap = import_pycolmap()
    camera = tried.camera.made()
    estimation = pycolmap.AbsolutePoseEstimationOptions()
    estimation.estimate_focal_length = tried.estimated
    estimation.ransac.max_error = max_error
    estimation.ransac.random_seed = 0
    estimation.ransac.max_num_trials = MOST_TRIALS
    refinement = pycolmap.AbsolutePoseRefinementOptions()
    refinement.refine_focal_length = refinement.refine_extra_params = tried.free
    found = pycolmap.estimate_and_refine_absolute_pose(
        seen.xy, seen.xyz, camera, estimation, refinement, return_covariance=True
    )
    if found is None or found["covariance"] is None:
        return None
    matrix = found["cam_from_world"].matrix()
    rotation, shift = matrix[:, :3].copy(), matrix[:, 3].copy()
    away = residuals(seen, rotation, shift, camera)
    inlier = away < max_error
    if not inlier.any() or not np.isfinite(camera.params).all():
        return None
    square = float((away[inlier] ** 2).mean())
    # There are two coordinates of each point.
    covariance = HALVES @ np.asarray(found["covariance"]) @ HALVES * square / 2
    made = ModelCamera.of(camera)
    return QueryPose(
        rotation, shift, made, tried.source, tried.free, covariance, inlier, square**0.5
    )


def residuals(seen: SeenPoints, rotation: np.ndarray, shift: np.ndarray, camera: Any) -> np.ndarray:
    """Pixels (n,) between where points are seen and where they should be; infinite behind."""
    local = seen.xyz @ rotation.T + shift
    away = np.full(len(seen), np.inf)
    front = local[:, 2] > 1e-9
    away[front] = np.linalg.norm(camera.img_from_cam(local[front]) - seen.xy[front], axis=1)
    return np.where(np.isfinite(away), away, np.inf)


def some_rows(count: int, most: int) -> np.ndarray:
    """At most so many of the rows, ascending, chosen at random and always the same."""
    return np.sort(np.random.default_rng(0).permutation(count)[:most])
