"""A sparse model as arrays, without COLMAP's objects: picklable, and quick to compute with.

V views (registered images), P points, O observations. Pixels are COLMAP's: of the stored image,
without its EXIF orientation, and with (0, 0) at the corner of the top-left pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.extras import import_pycolmap
from pipeline.reconstruct.tracks.rigs import ModelRig, add_frames, add_rig, rigs_of


@dataclass(frozen=True)
class ModelCamera:
    """A COLMAP camera."""

    model: str
    width: int
    height: int
    params: tuple[float, ...]

    @classmethod
    def of(cls, camera: Any) -> ModelCamera:
        """The values of a `pycolmap.Camera`."""
        params = tuple(float(value) for value in camera.params)
        return cls(camera.model_name, camera.width, camera.height, params)

    def made(self, number: int = 1) -> Any:
        """The same as a `pycolmap.Camera` with this number."""
        pycolmap = import_pycolmap()
        camera = pycolmap.Camera.create_from_model_name(
            number, self.model, self.params[0], self.width, self.height
        )
        camera.params = list(self.params)
        return camera


@dataclass(frozen=True)
class ModelViews:
    """Registered images, in the order of their COLMAP numbers.

    names: (V,) of the files. numbers, camera: (V,) COLMAP's numbers of the image and its camera.
    rotation: (V, 3, 3) and shift: (V, 3), world to camera. cameras: by their numbers.
    rigs: of several cameras. frame: (V,) which views were taken at once, None without rigs.
    """

    names: list[str]
    numbers: np.ndarray
    camera: np.ndarray
    rotation: np.ndarray
    shift: np.ndarray
    cameras: dict[int, ModelCamera]
    rigs: tuple[ModelRig, ...] = ()
    frame: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of(cls, model: Any) -> ModelViews:
        """The registered images of a `pycolmap.Reconstruction`."""
        images = [model.images[number] for number in sorted(model.reg_image_ids())]
        poses = np.array([image.cam_from_world().matrix() for image in images]).reshape(-1, 3, 4)
        used = sorted({image.camera_id for image in images})
        rigs = rigs_of(model)
        frame = np.array([image.frame_id for image in images], np.int64) if rigs else None
        return cls(
            [image.name for image in images],
            np.array([image.image_id for image in images], np.int64),
            np.array([image.camera_id for image in images], np.int64),
            poses[:, :, :3].copy(),
            poses[:, :, 3].copy(),
            {number: ModelCamera.of(model.cameras[number]) for number in used},
            tuple(rigs),
            frame,
        )

    def camera_of(self, view: int) -> ModelCamera:
        """The camera of one view."""
        return self.cameras[int(self.camera[view])]

    def taken_by(self) -> dict[str, ModelCamera]:
        """The camera of every image, by its name."""
        return {name: self.camera_of(view) for view, name in enumerate(self.names)}

    def centres(self) -> np.ndarray:
        """Where the views were taken: (V, 3)."""
        centres: np.ndarray = -np.einsum("vji,vj->vi", self.rotation, self.shift)
        return centres

    def focal(self) -> np.ndarray:
        """Focal lengths in pixels: (V,)."""
        focal = {
            number: camera.made().mean_focal_length() for number, camera in self.cameras.items()
        }
        return np.array([focal[number] for number in self.camera.tolist()])


@dataclass(frozen=True)
class SparseModel:
    """Views, points and observations.

    xyz: (P, 3). colour: (P, 3) uint8. point, view: (O,) the point and the view of each observation.
    xy: (O, 2) pixels. Observations are sorted by point, then view.
    """

    views: ModelViews
    xyz: np.ndarray
    colour: np.ndarray
    point: np.ndarray
    view: np.ndarray
    xy: np.ndarray

    @classmethod
    def of(cls, model: Any) -> SparseModel:
        """The registered images of a `pycolmap.Reconstruction` with their points."""
        views = ModelViews.of(model)
        numbers = np.array(sorted(model.point3D_ids()), np.int64)
        points = [model.points3D[int(number)] for number in numbers]
        point, view, xy = [], [], []
        for row, image in enumerate(model.images[number] for number in views.numbers.tolist()):
            seen = [p for p in image.points2D if p.has_point3D()]
            point.append(np.array([p.point3D_id for p in seen], np.int64))
            xy.append(np.array([p.xy for p in seen]).reshape(-1, 2))
            view.append(np.full(len(seen), row))
        rows = np.searchsorted(numbers, np.concatenate([np.empty(0, np.int64), *point]))
        scene = cls(
            views,
            np.array([p.xyz for p in points]).reshape(-1, 3),
            np.array([p.color for p in points], np.uint8).reshape(-1, 3),
            rows,
            np.concatenate([np.empty(0, np.int64), *view]),
            np.concatenate([np.empty((0, 2)), *xy]),
        )
        return scene.sorted()

    def sorted(self) -> SparseModel:
        """The same with observations sorted by point, then view."""
        order = np.lexsort((self.view, self.point))
        return replace(self, point=self.point[order], view=self.view[order], xy=self.xy[order])

    def keep(self, good: np.ndarray) -> SparseModel:
        """Only the good observations, (O,) bool, and points that two views or more still see."""
        lengths = np.bincount(self.point[good], minlength=len(self.xyz))
        stays = lengths >= 2
        good = good & stays[self.point]
        return replace(
            self,
            xyz=self.xyz[stays],
            colour=self.colour[stays],
            point=(np.cumsum(stays) - 1)[self.point[good]],
            view=self.view[good],
            xy=self.xy[good],
        )

    def made(self) -> Any:
        """The same as a `pycolmap.Reconstruction`; see `made_model`."""
        keypoints = [self.xy[mine] for mine in rows_of_groups(self.view, len(self.views))]
        return made_model(
            *(self.views, keypoints, self.xyz, self.colour, self.point, self.view),
            self.keypoint_rows(),
        )

    def keypoint_rows(self) -> np.ndarray:
        """The number of every observation among those of its view, from 0: (O,)."""
        rows = np.empty(len(self.view), np.int64)
        for mine in rows_of_groups(self.view, len(self.views)):
            rows[mine] = np.arange(len(mine))
        return rows

    def errors(self) -> np.ndarray:
        """Reprojection errors of all observations in pixels: (O,). Infinite behind the camera."""
        return reprojection_errors(self.views, self.view, self.xyz[self.point], self.xy)

    def mean_error(self) -> float:
        """The mean reprojection error in pixels; see `mean_of_points`."""
        return mean_of_points(self.point, self.errors())

    def angles(self) -> np.ndarray:
        """The largest angle between two rays of each point, radians: (P,).

        Of long tracks, rays are compared with the first and with the one that is farthest from it.
        """
        rays = self.views.centres()[self.view] - self.xyz[self.point]
        rays /= np.maximum(np.linalg.norm(rays, axis=1, keepdims=True), 1e-300)
        first = np.searchsorted(self.point, np.arange(len(self.xyz)))
        largest = np.zeros(len(self.xyz))
        for _ in range(2):
            cosine = np.einsum("oi,oi->o", rays, rays[first[self.point]]).clip(-1, 1)
            angle = np.arccos(cosine)
            np.maximum.at(largest, self.point, angle)
            order = np.lexsort((-angle, self.point))
            first = order[np.searchsorted(self.point[order], np.arange(len(self.xyz)))]
        return largest


def mean_of_points(point: np.ndarray, errors: np.ndarray) -> float:
    """The mean of errors (O,) as COLMAP means it: first of each point, then of all points.

    point: (O,) that each is of. Errors that are not finite, as behind the camera, do not count. NaN
    where there are no others.
    """
    front = np.isfinite(errors)
    seen = np.bincount(point[front])
    total = np.bincount(point[front], errors[front])[seen > 0]
    return float((total / seen[seen > 0]).mean()) if len(seen) else float("nan")


def rows_of_groups(group: np.ndarray, count: int) -> list[np.ndarray]:
    """The rows of each of `count` groups, ascending. group: (n,) the group of every row."""
    order = np.argsort(group, kind="stable")
    bounds = np.searchsorted(group[order], np.arange(count + 1))
    return [order[bounds[number] : bounds[number + 1]] for number in range(count)]


def made_model(
    views: ModelViews,
    keypoints: Sequence[np.ndarray],
    xyz: np.ndarray,
    colour: np.ndarray,
    point: np.ndarray,
    view: np.ndarray,
    keypoint: np.ndarray,
) -> Any:
    """A `pycolmap.Reconstruction`. An image of no rig is a frame of its own.

    keypoints: of each view, (K, 2) pixels. xyz: (P, 3). colour: (P, 3) uint8. point, view,
    keypoint: (O,) rows of the point, the view and its keypoint of each observation, sorted by
    point. Every point has one.
    """
    pycolmap = import_pycolmap()
    model = pycolmap.Reconstruction()
    cameras = {number: camera.made(number) for number, camera in views.cameras.items()}
    rig_of = {number: rig for rig in views.rigs for number in rig.cameras()}
    for number, camera in cameras.items():
        if number not in rig_of:
            model.add_camera_with_trivial_rig(camera)
    images, poses = [], []
    for row, name in enumerate(views.names):
        number = int(views.numbers[row])
        images.append(pycolmap.Image(name, keypoints[row], int(views.camera[row]), number))
        rotation = pycolmap.Rotation3d(views.rotation[row])
        poses.append(pycolmap.Rigid3d(rotation, views.shift[row]))
        if int(views.camera[row]) not in rig_of:
            model.add_image_with_trivial_frame(images[row], poses[row])
    for rig in views.rigs:
        add_rig(model, rig, cameras)
        rows = np.flatnonzero(np.isin(views.camera, [*rig.cameras()]))
        if views.frame is not None:
            some = [images[row] for row in rows], [poses[row] for row in rows]
            add_frames(model, rig, views.frame[rows], *some)
    starts = np.searchsorted(point, np.arange(len(xyz) + 1))
    elements = list(zip(views.numbers[view].tolist(), keypoint.tolist(), strict=True))
    for row, (place, paint) in enumerate(zip(xyz, colour, strict=True)):
        track = pycolmap.Track()
        for number, index in elements[starts[row] : starts[row + 1]]:
            track.add_element(number, index)
        model.add_point3D(place, track, paint)
    model.update_point_3d_errors()
    return model


def reprojection_errors(
    views: ModelViews, view: np.ndarray, xyz: np.ndarray, xy: np.ndarray
) -> np.ndarray:
    """Pixels between where points are seen and where they should be: (O,).

    view: (O,) rows. xyz: (O, 3) points. xy: (O, 2) pixels. Infinite behind the camera.
    """
    found = np.full(len(view), np.inf)
    for row, mine in enumerate(rows_of_groups(view, len(views))):
        found[mine] = np.linalg.norm(project(views, row, xyz[mine]) - xy[mine], axis=1)
    return np.where(np.isfinite(found), found, np.inf)


def project(views: ModelViews, view: int, xyz: np.ndarray) -> np.ndarray:
    """Pixels (n, 2) of points (n, 3) in a view. NaN behind the camera, or where the lens folds."""
    seen = xyz @ views.rotation[view].T + views.shift[view]
    camera = views.camera_of(view).made()
    places = np.full((len(xyz), 2), np.nan)
    front = np.flatnonzero(seen[:, 2] > 1e-9)
    if not len(front):
        return places
    found = camera.img_from_cam(seen[front])
    # A polynomial of distortion maps some far rays back into the image.
    again = camera.cam_from_img(found)
    rays = seen[front, :2] / seen[front, 2:]
    good = np.abs(again - rays).max(axis=1) < 1e-3 * (1 + np.abs(rays).max(axis=1))
    places[front[good]] = found[good]
    return places
