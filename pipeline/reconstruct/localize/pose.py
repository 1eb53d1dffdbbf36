"""The pose of a query and its camera, from points of the model that it shows.

The camera is given, one of the model, of its EXIF data, or to be estimated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.extras import import_pycolmap
from pipeline.photos.cameras.intrinsics import Intrinsics, camera_by_name
from pipeline.photos.cameras.stored import STORED_FROM_UPRIGHT
from pipeline.photos.exif import DEFAULT_FOCAL
from pipeline.reconstruct.cameras.assign import MAPPING_MODEL
from pipeline.reconstruct.cameras.sharing import SAME_FOCAL_RATIO
from pipeline.reconstruct.tracks.scene import ModelCamera
from pipeline.vocabulary import CameraSource

# COLMAP's covariance is that of half the angle of a small turn, for residuals of one pixel.
HALVES = np.diag([2.0, 2, 2, 1, 1, 1])
# A trusted camera is taken where it has so many of the inliers, and at most so much of the error,
# of a camera that the query tells.
AS_MANY, AS_EXACT = 0.9, 1.1
QUARTER = np.array([[0, -1], [1, 0]])
# Parameters of camera models that are known to be turned: the others are of thin prisms.
TURNABLE = {"f", "fx", "fy", "cx", "cy", "p1", "p2", "omega", "k", *(f"k{k}" for k in range(1, 7))}
MOST_TRIALS = 2000  # of RANSAC; so many find 20 % inliers, whose pose takes three points


@dataclass(frozen=True)
class FileFacts:
    """What a file tells of its camera.

    size: stored width and height. focal: pixels, NaN where EXIF gives none. maker: make and model
    by EXIF, or "". orientation: EXIF, 1…8.
    """

    size: tuple[int, int]
    focal: float
    maker: str
    orientation: int = 1

    def same_camera(self, other: FileFacts) -> bool:
        """Whether EXIF says that one camera took both, at one focal length."""
        if not self.maker or self.maker != other.maker or self.size != other.size:
            return False
        low, high = sorted((self.focal, other.focal))
        return bool(high <= low * SAME_FOCAL_RATIO)


@dataclass(frozen=True)
class QueryCamera:
    """A camera that may have taken a query.

    free: whether the focal length and the distortion follow from the query itself.
    estimated: whether the focal length is not even a start.
    """

    camera: ModelCamera
    source: CameraSource
    free: bool
    estimated: bool = False


def cameras_of_query(
    name: str,
    facts: FileFacts,
    given: tuple[Intrinsics, ...],
    images: list[tuple[FileFacts, ModelCamera]],
) -> list[QueryCamera]:
    """The cameras to try, the most trusted first.

    name: of the query in its folder. given: known cameras. images: of the model, those that match
    the query best first.
    """
    entry = camera_by_name(given, name, facts.size)
    if entry is not None:
        camera = ModelCamera(entry.model, *facts.size, entry.params)
        return [QueryCamera(camera, CameraSource.GIVEN, free=not entry.fixed)]
    for other, camera in images:
        if facts.same_camera(other):
            return [QueryCamera(camera, CameraSource.MODEL, free=False)]
    if np.isfinite(facts.focal):
        return [QueryCamera(_plain(facts, facts.focal), CameraSource.EXIF, free=True)]
    start = DEFAULT_FOCAL * max(facts.size)
    free = QueryCamera(_plain(facts, start), CameraSource.ESTIMATED, free=True, estimated=True)
    # Files of one size without a focal length may be of one camera, also where it was held or
    # stored turned. The query tells, see `accepted_pose`.
    for other, camera in sorted(images, key=lambda image: image[0].size != facts.size):
        alike = [] if np.isfinite(other.focal) else _alike(facts, other, camera)
        if alike:
            return [*(QueryCamera(one, CameraSource.MODEL, free=False) for one in alike), free]
    return [free]


def _alike(facts: FileFacts, other: FileFacts, camera: ModelCamera) -> list[ModelCamera]:
    """The camera of another file as this file may have it, turned by a quarter where sides differ.

    Where the orientations of the two files do not tell the turn, both are returned.
    """
    if facts.size == other.size:
        return [camera]
    if facts.size != other.size[::-1]:
        return []
    stored = STORED_FROM_UPRIGHT[[facts.orientation - 1, other.orientation - 1]]
    turn = stored[0] @ stored[1].T
    turns = [QUARTER, QUARTER.T] if turn[0, 0] else [turn]
    return [made for one in turns if (made := turned_camera(camera, one)) is not None]


def turned_camera(camera: ModelCamera, turn: np.ndarray) -> ModelCamera | None:
    """The camera of a picture that is stored turned by a quarter, as COLMAP defines its parameters.

    turn: (2, 2) from offsets in pixels (x, y) of the camera to those of the turned one. Returns
    None for a mirrored picture, and for models that have parameters of another kind.
    """
    words = camera.made().params_info.replace(" ", "").split(",")
    if np.linalg.det(turn) < 0 or not set(words) <= TURNABLE:
        return None
    of = dict(zip(words, camera.params, strict=True))
    size = np.array([camera.width, camera.height])
    # A coordinate that runs backwards starts at the far side.
    middle = turn @ [of["cx"], of["cy"]] - np.minimum(turn, 0) @ size
    changed = dict(zip(("cx", "cy"), map(float, middle), strict=True))
    if "fx" in of:
        changed |= {"fx": of["fy"], "fy": of["fx"]}
    if "p1" in of:  # (p2, p1) is a direction in the picture
        tangential = turn @ [of["p2"], of["p1"]]
        changed |= dict(zip(("p2", "p1"), map(float, tangential), strict=True))
    params = tuple((of | changed)[word] for word in words)
    return ModelCamera(camera.model, camera.height, camera.width, params)


def _plain(facts: FileFacts, focal: float) -> ModelCamera:
    width, height = facts.size
    return ModelCamera(MAPPING_MODEL, width, height, (focal, width / 2, height / 2, 0.0))


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
    fit = [
        pose for pose in good if pose.inliers >= AS_MANY * most and pose.error <= AS_EXACT * error
    ] or good[-1:]
    # Cameras of one source are trusted alike.
    equal = [pose for pose in fit if pose.source == fit[0].source]
    return min(equal, key=lambda pose: pose.error, default=None)


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
    away = _residuals(seen, rotation, shift, camera)
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


def _residuals(
    seen: SeenPoints, rotation: np.ndarray, shift: np.ndarray, camera: Any
) -> np.ndarray:
    """Pixels (n,) between where points are seen and where they should be; infinite behind."""
    local = seen.xyz @ rotation.T + shift
    away = np.full(len(seen), np.inf)
    front = local[:, 2] > 1e-9
    away[front] = np.linalg.norm(camera.img_from_cam(local[front]) - seen.xy[front], axis=1)
    return np.where(np.isfinite(away), away, np.inf)


def some_rows(count: int, most: int) -> np.ndarray:
    """At most so many of the rows, ascending, chosen at random and always the same."""
    return np.sort(np.random.default_rng(0).permutation(count)[:most])
