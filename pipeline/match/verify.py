"""Two-view geometry of every matched pair: the matches that agree with one motion of the camera.

    matches of one pair → E, F or H by RANSAC (pycolmap) → inliers, relative pose

Cameras follow the tables: the centre of the top-left pixel is (0, 0). The principal point of an
image of `w × h` pixels is therefore at ((w − 1) / 2, (h − 1) / 2), and F and H are in that frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import tables
from pipeline.extras import import_pycolmap
from pipeline.match.options import VerificationOptions
from pipeline.match.turns.between import scale_between, turn_between, wrapped
from pipeline.photos.cameras.intrinsics import Intrinsics, camera_by_name
from pipeline.photos.cameras.stored import maps_to_stored
from pipeline.photos.exif import DEFAULT_FOCAL
from pipeline.photos.sizes import resize_factor
from pipeline.vocabulary import VERIFIED, Geometry, GeometryModel, Reason, Status

PINHOLES = ("SIMPLE_PINHOLE", "PINHOLE")
FEW_INLIERS = 15  # are enough for a pair that was tried in views which its matches confirm
# Between the views and what the matches say. Of chance, one pair in nine is within this turn.
CONFIRMED_TURN = 20.0  # degrees
CONFIRMED_SIZE = 0.45  # logarithm of base 2
# The scores of the inliers together, times the share of the matches that they are, by
# `min_num_inliers`: what a pair needs that is tried again. 25 inliers of score 0.3 may be of 46
# matches. Many tries make many chances, and a view that wrong matches tell shows more of them. Of
# 820 pairs of 41 photographs by a kite, 121 were verified wrongly by such tries, with 15 to 40
# inliers, a fifth to two fifths of their matches; this leaves none of them, and all right ones.
EVIDENCE = 0.16


class VerifyShard:
    """Estimate the two-view geometry of every matched pair of a shard. CPU only, one thread."""

    def __init__(
        self,
        options: VerificationOptions | None = None,
        intrinsics: Sequence[Intrinsics] = (),
    ) -> None:
        """intrinsics: known cameras. Two images that have one each are verified by their rays."""
        self.intrinsics = intrinsics
        self.options = options or VerificationOptions()
        least = min(self.options.min_num_inliers, FEW_INLIERS)
        self.fewer = replace(self.options, min_num_inliers=least)

    def __call__(
        self,
        matches: pa.Table,
        images: pa.Table,
        again: bool = False,
        views: np.ndarray | None = None,
    ) -> pa.Table:
        """Fill the columns of MATCHES from `geometry` on.

        images: rows of IMAGES for all images that `matches` name.
        again: the pairs were tried before; see EVIDENCE.
        views: (N, 2) for pairs whose views other verified pairs tell: the turn in degrees of image
            1 against image 0, and the logarithm of base 2 of the scale of image 0 against image 1.
            FEW_INLIERS are then enough where they agree with it.

        Rows keep their order. A pair that is not `matched` gets geometry `none`. A pair whose
        numbers allow no geometry (not finite, or lists of different lengths) becomes `failed` with
        reason `bad_numbers`. `inliers` has one value per match, and all are false unless the
        geometry is one of VERIFIED. A pair's result depends on nothing but that pair. The `pose` of
        an uncalibrated pair assumes the default focal length.

        Raises ValueError where a matched image is missing from `images`.
        """
        cameras = _cameras(images, self.intrinsics)
        status = matches["status"].to_pylist()
        reason = matches["reason"].to_pylist()
        names = zip(matches["image0"].to_pylist(), matches["image1"].to_pylist(), strict=True)
        points = zip(
            *(tables.unragged(matches[name]) for name in ("keypoints0", "keypoints1", "scores")),
            strict=True,
        )
        found = []
        for row, ((name0, name1), (points0, points1, scores)) in enumerate(
            zip(names, points, strict=True)
        ):
            geometry = _Geometry(Geometry.NONE, np.zeros(len(points0), bool))
            if status[row] == Status.MATCHED and not _good_numbers(points0, points1, scores):
                status[row], reason[row] = Status.FAILED.value, Reason.BAD_NUMBERS.value
            elif status[row] == Status.MATCHED:
                missing = [name for name in (name0, name1) if name not in cameras]
                if missing:
                    raise ValueError(
                        f"VerifyShard: matches name {missing[0]!r}, "
                        "which is not in the images table."
                    )
                view = None if views is None else views[row]
                both = cameras[name0], cameras[name1]
                geometry = self._verify(points0, points1, scores if again else None, *both, view)
            found.append(geometry)
        columns = {
            name: matches[name]
            for name in ("image0", "image1", "keypoints0", "keypoints1", "scores")
        }
        columns |= {
            "status": pa.array(status, pa.string()),
            "reason": pa.array(reason, pa.string()),
        }
        columns["geometry"] = pa.array([g.name for g in found], pa.string())
        columns["inliers"] = tables.ragged([g.inliers for g in found], pa.list_(pa.bool_()))
        columns["num_inliers"] = pa.array([int(g.inliers.sum()) for g in found], pa.int32())
        for name in ("E", "F", "H", "pose"):
            kind = tables.MATCHES.field(name).type
            columns[name] = pa.array([getattr(g, name) for g in found], kind)
        return pa.table([columns[name] for name in tables.MATCHES.names], schema=tables.MATCHES)

    def _verify(
        self,
        points0: np.ndarray,
        points1: np.ndarray,
        scores: np.ndarray | None,
        camera0: _Camera,
        camera1: _Camera,
        view: np.ndarray | None,
    ) -> _Geometry:
        """scores: (M,) of a pair that is tried again. view: see `__call__`."""
        options = self.options if view is None else self.fewer
        found = two_view_geometry(options, points0, points1, camera0, camera1)
        count, least = int(found.inliers.sum()), self.options.min_num_inliers
        if not count:
            return found
        needed = EVIDENCE * least * len(points0)
        wrong = scores is not None and scores[found.inliers].sum() * count < needed
        if view is not None and count < least and not wrong:
            sides = points0[found.inliers], points1[found.inliers]
            wrong = not _confirmed(*sides, camera0, camera1, view)
        if wrong:
            return _Geometry(Geometry.DEGENERATE, np.zeros(len(points0), bool))
        return found


@dataclass(frozen=True)
class _Geometry:
    name: str
    inliers: np.ndarray  # (M,) bool
    E: np.ndarray | None = None  # (9,) row-major
    F: np.ndarray | None = None
    H: np.ndarray | None = None
    pose: np.ndarray | None = None  # (7,) qx qy qz qw tx ty tz


@dataclass(frozen=True)
class _Camera:
    width: int
    height: int
    focal: float | None  # pixels; None where EXIF gives none
    known: Intrinsics | None = None
    to_stored: np.ndarray | None = None  # (3, 3), of a known camera: to pixels of the stored file

    def pycolmap(self, number: int) -> object:
        """The camera for COLMAP.

        number: must differ between the two images of a pair. COLMAP takes two cameras of one number
            for one camera. Where EXIF gives no focal length, COLMAP then searches for one that both
            share, which costs nine times as much. Two photographs need not share it.
        """
        focal = self.focal or DEFAULT_FOCAL * max(self.width, self.height)
        camera = import_pycolmap().Camera(
            camera_id=number,
            model="SIMPLE_PINHOLE",
            width=self.width,
            height=self.height,
            params=[focal, (self.width - 1) / 2, (self.height - 1) / 2],
        )
        camera.has_prior_focal_length = self.focal is not None
        return camera

    def stored(self, number: int) -> Any:
        """The known camera for COLMAP, of the stored file."""
        if self.known is None or self.to_stored is None:
            raise ValueError("the camera is not known")
        width, height = np.abs(self.to_stored[:2, :2] @ [self.width, self.height])
        camera = import_pycolmap().Camera.create_from_model_name(
            number, self.known.model, 1.0, round(width), round(height)
        )
        camera.params = list(self.known.params)
        return camera


def two_view_geometry(
    options: VerificationOptions,
    points0: np.ndarray,
    points1: np.ndarray,
    camera0: _Camera,
    camera1: _Camera,
) -> _Geometry:
    """The geometry of the matches (M, 2) of one pair, verified by the minima of the options."""
    if len(points0) < options.min_num_inliers:
        return _Geometry(Geometry.DEGENERATE, np.zeros(len(points0), bool))
    pycolmap = import_pycolmap()
    estimation = pycolmap.TwoViewGeometryOptions(compute_relative_pose=True)
    estimation.min_num_inliers = options.min_num_inliers
    estimation.min_inlier_ratio = options.min_inlier_ratio
    estimation.ransac.min_inlier_ratio = options.min_inlier_ratio
    factors = [resize_factor(c.width, c.height, options.long_side) for c in (camera0, camera1)]
    estimation.ransac.max_error = options.max_error * float(np.mean(factors))
    estimation.ransac.max_num_trials = options.trials(len(points0))
    estimation.ransac.min_num_trials = min(estimation.ransac.min_num_trials, options.max_num_trials)
    estimation.ransac.confidence = options.confidence
    estimation.ransac.random_seed = options.random_seed
    if options.model != GeometryModel.ANY:
        points = points0.astype(np.float64), points1.astype(np.float64)
        return _single(options, *points, estimation)
    indices = np.repeat(np.arange(len(points0), dtype=np.uint32)[:, None], 2, axis=1)
    if camera0.known and camera1.known and camera0.to_stored is not None:
        return known_geometry(points0, points1, camera0, camera1, indices, estimation)
    result = pycolmap.estimate_two_view_geometry(
        camera0.pycolmap(1),
        points0.astype(np.float64),
        camera1.pycolmap(2),
        points1.astype(np.float64),
        indices,
        estimation,
    )
    name = pycolmap.TwoViewGeometryConfiguration(result.config).name.lower()
    inliers = np.zeros(len(points0), bool)
    if name in VERIFIED:
        inliers[np.asarray(result.inlier_matches)[:, 0]] = True
    E, F, H = (
        None if matrix is None else np.ravel(matrix) for matrix in (result.E, result.F, result.H)
    )
    pose = result.cam2_from_cam1
    vector = None if pose is None else np.concatenate([pose.rotation.quat, pose.translation])
    return _Geometry(name, inliers, E, F, H, vector)


def known_geometry(
    points0: np.ndarray,
    points1: np.ndarray,
    camera0: _Camera,
    camera1: _Camera,
    indices: np.ndarray,
    estimation: Any,
) -> _Geometry:
    """The geometry of two known cameras of any lens, by the rays of the matches (M, 2).

    Only pinholes have F and H, because no other lens maps lines to lines.
    """
    pycolmap = import_pycolmap()
    both = camera0, camera1
    maps = [np.asarray(camera.to_stored) for camera in both]
    points = [
        side.astype(np.float64) @ move[:2, :2].T + move[:2, 2]
        for side, move in zip((points0, points1), maps, strict=True)
    ]
    estimation.min_E_F_inlier_ratio = 0  # a fundamental matrix means nothing for bent rays
    made = [camera.stored(number) for number, camera in enumerate(both, 1)]
    result = pycolmap.estimate_calibrated_two_view_geometry(
        made[0], points[0], made[1], points[1], indices, estimation
    )
    name = pycolmap.TwoViewGeometryConfiguration(result.config).name.lower()
    inliers = np.zeros(len(points0), bool)
    if name in VERIFIED:
        inliers[np.asarray(result.inlier_matches)[:, 0]] = True
    turn0, turn1 = (np.block([[move[:2, :2], np.zeros((2, 1))], [0, 0, 1]]) for move in maps)
    pinholes = all(camera.known and camera.known.model in PINHOLES for camera in both)
    E = None if result.E is None else np.ravel(turn1.T @ result.E @ turn0)
    F = H = vector = None
    if pinholes and result.F is not None:
        F = np.ravel(maps[1].T @ result.F @ maps[0])
    if pinholes and result.H is not None:
        H = np.ravel(np.linalg.inv(maps[1]) @ result.H @ maps[0])
    pose = result.cam2_from_cam1
    rotation = None if pose is None else turn1.T @ pose.rotation.matrix() @ turn0
    if rotation is not None and np.linalg.det(rotation) > 0:  # not of a mirrored file with another
        turned = pycolmap.Rotation3d(rotation)
        vector = np.concatenate([turned.quat, turn1.T @ pose.translation])
    return _Geometry(name, inliers, E, F, H, vector)


def _single(
    options: VerificationOptions,
    points0: np.ndarray,
    points1: np.ndarray,
    estimation: Any,
) -> _Geometry:
    """Verify a pair of points (M, 2) by one fundamental matrix or one homography.

    The minima are those of any other geometry.
    """
    if options.model == GeometryModel.HOMOGRAPHY:
        found = import_pycolmap().estimate_homography_matrix(points0, points1, estimation.ransac)
        name, matrix = Geometry.PLANAR_OR_PANORAMIC, "H"
    else:
        found = import_pycolmap().estimate_fundamental_matrix(points0, points1, estimation.ransac)
        name, matrix = Geometry.UNCALIBRATED, "F"
    if found is None:
        return _Geometry(Geometry.UNDEFINED, np.zeros(len(points0), bool))
    inliers = np.asarray(found["inlier_mask"], bool)
    if inliers.sum() < max(options.min_num_inliers, options.min_inlier_ratio * len(inliers)):
        return _Geometry(Geometry.DEGENERATE, np.zeros(len(points0), bool))
    return _Geometry(name, inliers, **{matrix: np.ravel(found[matrix])})


def _confirmed(
    points0: np.ndarray, points1: np.ndarray, camera0: _Camera, camera1: _Camera, view: np.ndarray
) -> bool:
    """Whether the inliers (M, 2) of a pair have the turn and size of the views it was tried in."""
    turn, size = view
    found = scale_between(points0, points1)
    if found is None or abs(wrapped(turn_between(points0, points1) - turn)) > CONFIRMED_TURN:
        return False
    # The network saw both images at one longer side, times their scales.
    sides = (max(camera.width, camera.height) for camera in (camera0, camera1))
    seen = found * next(sides) / next(sides)
    return bool(abs(np.log2(seen) - size) <= CONFIRMED_SIZE)


def _cameras(images: pa.Table, intrinsics: Sequence[Intrinsics]) -> dict[str, _Camera]:
    columns = (images[name].to_pylist() for name in ("image", "width", "height", "focal"))
    cameras = {
        name: _Camera(width, height, focal if focal is not None and 0 < focal < np.inf else None)
        for name, width, height, focal in zip(*columns, strict=True)
    }
    if not intrinsics:
        return cameras
    sizes = (images[name].to_numpy() for name in ("width", "height", "orientation"))
    maps = maps_to_stored(*sizes)
    stored = (images[name].to_pylist() for name in ("image", "stored_width", "stored_height"))
    for move, (name, *size) in zip(maps, zip(*stored, strict=True), strict=True):
        known = camera_by_name(intrinsics, name, (size[0], size[1]))
        if known:
            cameras[name] = replace(cameras[name], known=known, to_stored=move)
    return cameras


def _good_numbers(*rows: np.ndarray) -> bool:
    return len({len(row) for row in rows}) == 1 and all(np.isfinite(row).all() for row in rows)
