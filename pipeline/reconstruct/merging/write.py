"""Write a COLMAP database part by part. It all runs in the process of COLMAP.

Every part is a transaction of its own, because SQLite keeps a second copy of what one transaction
writes. Nobody sees a part of the database: the file gets its name when it is whole.

COLMAP differs from the tables in two conventions. Its origin (0, 0) is the top-left corner of the
top-left pixel, and it reads files as stored, without their EXIF orientation. The maps of
`StoredImages.to_stored` convert both, and only this module applies them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.extras import import_pycolmap
from pipeline.photos.panoramas.sphere import Face
from pipeline.reconstruct.cameras.assign import SharedCamera, assign_cameras
from pipeline.reconstruct.cameras.images import StoredImages
from pipeline.reconstruct.cameras.options import CameraOptions
from pipeline.reconstruct.cameras.rigs import face_rigs, with_faces, write_rigs
from pipeline.reconstruct.merging.merge import read_arrays
from pipeline.store.folder import Folder
from pipeline.vocabulary import VERIFIED, Geometry


@dataclass(frozen=True)
class WrittenCameras:
    """What is known of the cameras in the database.

    same: (N,) bool, of `AssignedCameras.same_as_verified`. shared, notes: see AssignedCameras.
    """

    count: int
    same: np.ndarray
    shared: list[SharedCamera]
    notes: list[str]
    panoramas: int = 0
    guessed: tuple[int, ...] = ()


def write_images(
    database: Path, images: StoredImages, options: CameraOptions, faces: Mapping[str, Face]
) -> WrittenCameras:
    """Make a database with images and cameras.

    faces: of panoramas, by the names of images. Without any, the mapper adds rigs and frames
        itself, a trivial one for every image.

    Raises ReconstructionError where options do not fit the images.
    """
    names = [str(name) for name in images.names]
    rigs = face_rigs(names, faces)
    assigned = assign_cameras(images, with_faces(options, rigs, names))
    pycolmap = import_pycolmap()
    with _transaction(database) as target:
        for camera in assigned.rows:
            target.write_camera(camera, use_camera_id=True)
        for i, (name, row) in enumerate(zip(images.names, assigned.of_image, strict=True)):
            image = pycolmap.Image(name=name, camera_id=int(row) + 1, image_id=i + 1)
            target.write_image(image, use_image_id=True)
        if rigs:
            write_rigs(target, rigs, assigned.of_image, len(images.names))
    same = assigned.same_as_verified(images)
    panoramas = sum(len(rig.frames) for rig in rigs)
    told = assigned.shared, assigned.notes, panoramas, assigned.guessed
    return WrittenCameras(len(assigned.rows), same, *told)


def write_keypoints(database: Path, folder: Folder, name: str, first: int, maps: np.ndarray) -> int:
    """Write the keypoints of the images from row `first` on; returns their number.

    folder, name: file of MergedImages. maps: of `StoredImages.to_stored`, one for each image.
    """
    found = read_arrays(folder, name)
    of_image = np.split(found["xy"].astype(np.float64), np.cumsum(found["count"])[:-1])
    with _transaction(database) as target:
        for number, (xy, move) in enumerate(zip(of_image, maps, strict=True), first + 1):
            stored = xy @ move[:2, :2].T + move[:2, 2]
            target.write_keypoints(number, stored.astype(np.float32))
    return len(found["xy"])


def write_pairs(
    database: Path, folder: Folder, name: str, to0: np.ndarray, to1: np.ndarray, known: np.ndarray
) -> None:
    """Write the matches and two-view geometries of P pairs.

    folder, name: file of MergedPairs. to0, to1: (P, 3, 3) of `StoredImages.to_stored`. known: (P,)
    bool, whether both images have the cameras that verification assumed.
    """
    pycolmap = import_pycolmap()
    found = read_arrays(folder, name)
    pairs, geometries = found["pairs"], found["geometries"]
    matches = np.split(found["matches"], np.cumsum(found["count"])[:-1]) if len(pairs) else []
    kinds = [getattr(pycolmap.TwoViewGeometryConfiguration, kind.upper()) for kind in VERIFIED]
    from0, from1 = np.linalg.inv(to0), np.linalg.inv(to1)
    turn0, turn1 = to0.copy(), to1.copy()
    turn0[:, :2, 2] = turn1[:, :2, 2] = 0  # turns of the camera's frame about its axis
    E, F, H = (geometries[kind].reshape(-1, 3, 3) for kind in ("E", "F", "H"))
    E = turn1 @ E @ turn0.transpose(0, 2, 1)
    F = from1.transpose(0, 2, 1) @ F @ from0
    H = to1 @ H @ from0
    translations = (turn1 @ geometries["pose"][:, 4:, None])[:, :, 0]
    has_E, has_F, has_H = (np.isfinite(matrices).all(axis=(1, 2)) for matrices in (E, F, H))
    has_pose = np.isfinite(geometries["pose"]).all(axis=1)
    with _transaction(database) as target:
        for row, (pair, kind, indices) in enumerate(
            zip(pairs, geometries["geometry"], matches, strict=True)
        ):
            if not len(indices):  # all of its matches lie in masked places
                continue
            geometry = pycolmap.TwoViewGeometry(config=kinds[kind], inlier_matches=indices)
            if has_F[row]:
                geometry.F = F[row]
            if has_H[row]:
                geometry.H = H[row]
            if known[row]:
                if has_E[row]:
                    geometry.E = E[row]
                if has_pose[row]:
                    rotation = (
                        turn1[row]
                        @ pycolmap.Rotation3d(geometries["pose"][row, :4]).matrix()
                        @ turn0[row].T
                    )
                    geometry.cam2_from_cam1 = pycolmap.Rigid3d(
                        pycolmap.Rotation3d(rotation), translations[row]
                    )
            elif VERIFIED[kind] == Geometry.CALIBRATED:
                geometry.config = kinds[VERIFIED.index(Geometry.UNCALIBRATED)]
            images = int(pair["image0"]) + 1, int(pair["image1"]) + 1
            target.write_matches(*images, indices)
            target.write_two_view_geometry(*images, geometry)


@contextmanager
def _transaction(database: Path) -> Iterator[Any]:
    """The database, opened for one part."""
    pycolmap = import_pycolmap()
    with pycolmap.Database.open(database) as target, pycolmap.DatabaseTransaction(target):
        yield target
