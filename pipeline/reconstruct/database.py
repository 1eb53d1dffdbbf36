"""Import the verified matches of a run into a COLMAP database.

    images/*.parquet   → one row per image, sorted by name: image ids and cameras
    matches/*.parquet  → spool on disk: the inlier matches of the verified pairs
    spool, by image    → merge_keypoints → keypoints of the database, keypoints.parquet
    spool, by pair     → merge_matches   → matches and two-view geometries of the database

Memory does not grow with the number of matches. The database is built in a temporary folder and
renamed when it is whole. Files that were made from an older database are removed first, so the
files beside a database always belong to it. The contents depend on the set of rows only, and not on
shards or their order. Adding pairs later and importing again gives what one run would have given.

COLMAP differs from the tables in two conventions. Its origin (0, 0) is the top-left corner of the
top-left pixel, and it reads files as stored, without their EXIF orientation. The maps of
`StoredImages.to_stored` convert both, and only this module applies them.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import tables
from pipeline.errors import ReconstructionError
from pipeline.extras import import_pycolmap
from pipeline.match.turns.tries import settled_matches
from pipeline.photos.sizes import resize_factor
from pipeline.reconstruct.cameras.assign import AssignedCameras, SharedCamera, assign_cameras
from pipeline.reconstruct.cameras.images import StoredImages, without_mirrored
from pipeline.reconstruct.cameras.options import CameraOptions
from pipeline.reconstruct.keypoints import MergedKeypoints
from pipeline.reconstruct.spool import MatchSpool
from pipeline.store.folder import Folder
from pipeline.vocabulary import VERIFIED, Geometry

# The files and folders beside a database that are made from it.
MADE_FROM_IT = ("report.txt", "points.ply", "sparse", "mapped", "keypoints.parquet")


@dataclass(frozen=True)
class ImportSummary:
    """Counts of one import."""

    images: int
    cameras: int
    pairs: int  # rows of the match tables
    verified: int  # pairs written
    matches: int  # inlier matches of those pairs, before merging
    merged_matches: int  # matches written
    keypoints: int
    duplicate_pairs: int  # pairs left out because the same two images occur again
    mirrored_pairs: int  # pairs left out because COLMAP sees one of the images mirrored
    outside: int  # matches left out because an endpoint lies outside its image
    resize_factor: float  # pixels of an image per pixel of the network's image, median
    shared_cameras: list[SharedCamera] = field(default_factory=list)  # and those that were given
    camera_notes: list[str] = field(default_factory=list)


def import_matches(
    run: Folder,
    database: Path,
    cameras: CameraOptions | None = None,
    *,
    long_side: int,
    radius: float = 2.0,
) -> ImportSummary:
    """Build the COLMAP database of a run, and `keypoints.parquet` (KEYPOINTS) beside it.

    long_side: longer side of the images as the network saw them, pixels.
    radius: distance within which observations become one keypoint, in pixels of the network's
        images.

    An existing database stays as it is until the new one is whole. Then its keypoints, models and
    report are removed before it is replaced. Only verified pairs and their inliers are written,
    with the geometry found in verification. Where the camera given here differs from the one that
    verification assumed, E and the pose are left out and the pair counts as uncalibrated.

    Raises ReconstructionError for tables that are missing, unverified or contradict each other.
    """
    cameras = cameras or CameraOptions()
    if not (np.isfinite(radius) and radius > 0 and long_side > 0):
        raise ReconstructionError(
            "the merge radius and long_side must be positive numbers of pixels."
        )
    images = StoredImages.read(run)
    assigned = assign_cameras(images, cameras)
    database.parent.mkdir(parents=True, exist_ok=True)
    scratch = database.parent / f".{database.name}.importing"
    shutil.rmtree(scratch, ignore_errors=True)  # A killed import may have left it.
    scratch.mkdir()
    try:
        spool = MatchSpool(scratch, images.names, images.width, images.height)
        for name, table in settled_matches(run, MatchSpool.COLUMNS):
            spool.add(table, name)
        pairs = spool.finish()
        pairs, mirrored = without_mirrored(pairs, images)
        radii = radius * resize_factor(images.width, images.height, long_side)
        pycolmap = import_pycolmap()
        with (
            pycolmap.Database.open(scratch / "database.db") as target,
            pq.ParquetWriter(
                scratch / "keypoints.parquet", tables.KEYPOINTS, compression="zstd"
            ) as table,
        ):
            # Every batch is a transaction of its own, because SQLite keeps a second copy of what
            # one transaction writes. Nobody sees a part of the database: the file gets its name
            # when it is whole.
            with pycolmap.DatabaseTransaction(target):
                _write_images(target, images, assigned)
            maps, keypoints, written = images.to_stored(), 0, 0
            for first, merged in spool.merge_images(pairs, radii):
                keypoints += len(merged.xy)
                with pycolmap.DatabaseTransaction(target):
                    table.write_table(_write_keypoints(target, images, maps, first, merged))
            same_camera = assigned.same_as_verified(images)
            for batch, geometries, matches in spool.merge_pairs(pairs):
                written += sum(map(len, matches))
                with pycolmap.DatabaseTransaction(target):
                    _write_pairs(target, batch, geometries, matches, maps, same_camera)
        # The order matters: a process that is killed here leaves files missing, but it never leaves
        # files of another database.
        for name in MADE_FROM_IT:
            remove(database.parent / name)
        # A process that was killed while it read the old database may have left a journal. SQLite
        # would replay that journal on the new database.
        for journal in ("-wal", "-shm"):
            database.with_name(database.name + journal).unlink(missing_ok=True)
        os.replace(scratch / "database.db", database)
        os.replace(scratch / "keypoints.parquet", database.parent / "keypoints.parquet")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return ImportSummary(
        images=len(images.names),
        cameras=len(assigned.rows),
        pairs=spool.pairs,
        verified=len(pairs),
        matches=int(pairs["length"].sum()),
        merged_matches=written,
        keypoints=keypoints,
        duplicate_pairs=spool.duplicates,
        mirrored_pairs=mirrored,
        outside=spool.outside,
        resize_factor=float(np.median(radii) / radius),
        shared_cameras=assigned.shared,
        camera_notes=assigned.notes,
    )


def focal_priors(database: Path) -> dict[int, float]:
    """Focal lengths in pixels that EXIF or the user tells, by the number of the camera."""
    with import_pycolmap().Database.open(database) as opened:
        return {
            camera.camera_id: camera.mean_focal_length()
            for camera in opened.read_all_cameras()
            if camera.has_prior_focal_length
        }


def remove(path: Path) -> None:
    """Remove a file, or a folder with everything in it, if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write_images(target: Any, images: StoredImages, cameras: AssignedCameras) -> None:
    """Write cameras and images.

    The mapper adds rigs and frames itself, a trivial one for every image.
    """
    pycolmap = import_pycolmap()
    for camera in cameras.rows:
        target.write_camera(camera, use_camera_id=True)
    for i, (name, camera) in enumerate(zip(images.names, cameras.of_image, strict=True)):
        image = pycolmap.Image(name=name, camera_id=int(camera) + 1, image_id=i + 1)
        target.write_image(image, use_image_id=True)


def _write_keypoints(
    target: Any, images: StoredImages, maps: np.ndarray, first: int, merged: MergedKeypoints
) -> pa.Table:
    """Write the keypoints of consecutive images from row `first`; returns a KEYPOINTS table.

    maps: (N, 3, 3) of `StoredImages.to_stored`.
    """
    slices = [
        slice(*bounds) for bounds in zip(merged.offsets[:-1], merged.offsets[1:], strict=True)
    ]
    for i, rows in enumerate(slices, first):
        stored = merged.xy[rows].astype(np.float64) @ maps[i, :2, :2].T + maps[i, :2, 2]
        target.write_keypoints(i + 1, stored.astype(np.float32))
    columns = [pa.array(images.names[first : first + len(slices)], pa.string())]
    for name, values in (("keypoints", merged.xy), ("spread", merged.spread)):
        columns.append(
            tables.ragged([values[rows] for rows in slices], tables.KEYPOINTS.field(name).type)
        )
    return pa.table(columns, schema=tables.KEYPOINTS)


def _write_pairs(
    target: Any,
    pairs: np.ndarray,
    geometries: np.ndarray,
    matches: list[np.ndarray],
    maps: np.ndarray,
    same_camera: np.ndarray,
) -> None:
    """Write the matches and two-view geometries of P pairs.

    pairs: (P,) spool.PAIR. geometries: (P,) spool.GEOMETRY. matches: one (m, 2) array per pair.
    maps: (N, 3, 3) of `StoredImages.to_stored`. same_camera: (N,) bool, of
        `AssignedCameras.same_as_verified`.
    """
    pycolmap = import_pycolmap()
    kinds = [getattr(pycolmap.TwoViewGeometryConfiguration, name.upper()) for name in VERIFIED]
    to0, to1 = maps[pairs["image0"]], maps[pairs["image1"]]
    from0, from1 = np.linalg.inv(to0), np.linalg.inv(to1)
    turn0, turn1 = to0.copy(), to1.copy()
    turn0[:, :2, 2] = turn1[:, :2, 2] = 0  # turns of the camera's frame about its axis
    E, F, H = (geometries[name].reshape(-1, 3, 3) for name in ("E", "F", "H"))
    E = turn1 @ E @ turn0.transpose(0, 2, 1)
    F = from1.transpose(0, 2, 1) @ F @ from0
    H = to1 @ H @ from0
    translations = (turn1 @ geometries["pose"][:, 4:, None])[:, :, 0]
    has_E, has_F, has_H = (np.isfinite(matrices).all(axis=(1, 2)) for matrices in (E, F, H))
    has_pose = np.isfinite(geometries["pose"]).all(axis=1)
    known = same_camera[pairs["image0"]] & same_camera[pairs["image1"]]
    for row, (pair, kind, indices) in enumerate(
        zip(pairs, geometries["geometry"], matches, strict=True)
    ):
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
