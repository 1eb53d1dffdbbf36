"""Verified matches of a run → a COLMAP database: cameras, images, keypoints, matches, two-view geometries.

    images/*.parquet   → one row per image, sorted by name: image ids and cameras follow from the set of names
    matches/*.parquet  → spool on disk: the inlier matches of verified pairs, one after the other
    spool, by image    → merge_keypoints → keypoints of the database, keypoints.parquet
    spool, by pair     → merge_matches   → matches and geometries of the database

Memory does not grow with the number of matches. The database is built in a temporary folder beside its place
and renamed when whole; what was made from the one before is removed first, so that whatever lies beside a database
belongs to it. What is in it depends on the set of rows only, not on shards or their order: adding pairs later and
importing again gives what one run would have given.

COLMAP's conventions differ twice from the tables': the top-left corner of the top-left pixel is (0, 0), and
files are read as stored, without their EXIF orientation. Both are dealt with here and nowhere else.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import schemas
from pipeline.keypoints import MergedKeypoints
from pipeline.spool import MatchSpool
from pipeline.storage import Folder
from pipeline.verification import DEFAULT_FOCAL, GEOMETRIES, import_pycolmap, resize_factor

MAX_IMAGES = 2147483646  # COLMAP's ids end there
MADE_FROM_IT = ("report.txt", "points.ply", "sparse", "keypoints.parquet")  # what lies beside a database


class ColmapError(Exception):
    """The database cannot be made from these tables or options; the message is one sentence for a person."""


@dataclass(frozen=True)
class CameraOptions:
    """How images become cameras.

    model: a COLMAP camera model with a focal length, `SIMPLE_RADIAL`, `PINHOLE`, `OPENCV`, ….
    sharing: `image` (one camera each), `folder` (one per folder) or `single`. Images of different stored
        sizes never share a camera.
    params: known intrinsics in COLMAP's order and origin, for the stored orientation; mapping keeps them
        fixed. None: the focal length from EXIF (the median of those that share), else 1.2 × the longer side;
        mapping refines it.
    """

    model: str = "SIMPLE_RADIAL"
    sharing: str = "image"
    params: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        pycolmap = import_pycolmap()
        models = sorted({*pycolmap.CameraModelId.__members__} - {"INVALID", "EQUIRECTANGULAR"})
        if self.model not in models:
            raise ColmapError(f"camera model {self.model!r} is unknown; give one of {', '.join(models)}.")
        if self.sharing not in ("image", "folder", "single"):
            raise ColmapError(f"camera sharing {self.sharing!r} is unknown; give image, folder or single.")
        names = pycolmap.Camera.create_from_model_name(1, self.model, 1.0, 1, 1).params_info
        if self.params is None:
            return
        if len(self.params) != len(names.split(",")):
            raise ColmapError(f"camera model {self.model} takes {names}: not {len(self.params)} numbers.")
        if not (np.isfinite(self.params).all() and self.params[0] > 0):
            raise ColmapError("camera parameters must be finite numbers with a focal length above zero.")

    @classmethod
    def parse(cls, text: str, sharing: str = "image") -> CameraOptions:
        """`MODEL` or `MODEL:f,cx,cy,…`, as on the command line."""
        model, _, numbers = text.partition(":")
        try:
            params = tuple(float(number) for number in numbers.split(",")) if numbers else None
        except ValueError:
            raise ColmapError(f"camera {text!r}: after the colon give numbers separated by commas.") from None
        return cls(model.upper(), sharing, params)


@dataclass(frozen=True)
class ImportSummary:
    """What one import found and wrote."""

    images: int
    cameras: int
    pairs: int  # rows of the match tables
    verified: int  # pairs written
    matches: int  # inlier matches of those pairs, before merging
    merged_matches: int  # matches written
    keypoints: int
    duplicate_pairs: int  # left out: the same two images again
    mirrored_pairs: int  # left out: COLMAP sees one of the images mirrored
    outside: int  # matches left out: an endpoint outside its image
    resize_factor: float  # pixels of an image per pixel of the network's image, median


def import_matches(
    run: Folder, database: Path, cameras: CameraOptions | None = None, *, long_side: int, radius: float = 2.0
) -> ImportSummary:
    """Build the COLMAP database of a run, and `keypoints.parquet` (KEYPOINTS) beside it.

    long_side: longer side of the images as the network saw them, pixels.
    radius: distance within which observations become one keypoint, in pixels of the network's images.
    An existing database stays as it is until the new one is whole; then its keypoints, models and report go first. Only
    verified pairs and their inliers are written, with the geometry found in verification; where the camera given here
    differs from the one assumed there, E and the pose are left out and the pair counts as uncalibrated.

    Raises ColmapError or SpoolError for tables that are missing, unverified or contradict each other.
    """
    cameras = cameras or CameraOptions()
    if not (np.isfinite(radius) and radius > 0 and long_side > 0):
        raise ColmapError("the merge radius and long_side must be positive numbers of pixels.")
    images = _Images.read(run)
    assigned, camera_rows = _assign_cameras(images, cameras)
    database.parent.mkdir(parents=True, exist_ok=True)
    scratch = database.parent / f".{database.name}.importing"
    shutil.rmtree(scratch, ignore_errors=True)  # of a killed import
    scratch.mkdir()
    try:
        spool = MatchSpool(scratch, images.names, images.width, images.height)
        for name in run.names("matches"):
            spool.add(run.read_table(name, MatchSpool.COLUMNS), name)
        pairs = spool.finish()
        pairs, mirrored = _without_mirrored(pairs, images)
        radii = radius * resize_factor(images.width, images.height, long_side)
        pycolmap = import_pycolmap()
        with (
            pycolmap.Database.open(scratch / "database.db") as target,
            pq.ParquetWriter(scratch / "keypoints.parquet", schemas.KEYPOINTS, compression="zstd") as table,
        ):
            # A transaction a batch: SQLite keeps a second copy of what one transaction writes. A part of the database
            # is never seen, as this file gets its name when it is whole.
            with pycolmap.DatabaseTransaction(target):
                _write_images(target, images, assigned, camera_rows)
            maps, keypoints, written = images.to_stored(), 0, 0
            for first, merged in spool.merge_images(pairs, radii):
                keypoints += len(merged.xy)
                with pycolmap.DatabaseTransaction(target):
                    table.write_table(_write_keypoints(target, images, maps, first, merged))
            same_camera = _same_camera(images, assigned, camera_rows, cameras)
            for batch, geometries, matches in spool.merge_pairs(pairs):
                written += sum(map(len, matches))
                with pycolmap.DatabaseTransaction(target):
                    _write_pairs(target, batch, geometries, matches, maps, same_camera)
        # In this order a process that is killed on its way leaves files missing, but never those of another database.
        for name in MADE_FROM_IT:
            remove(database.parent / name)
        for journal in ("-wal", "-shm"):  # of a process killed while it read: SQLite would replay it on ours
            database.with_name(database.name + journal).unlink(missing_ok=True)
        os.replace(scratch / "database.db", database)
        os.replace(scratch / "keypoints.parquet", database.parent / "keypoints.parquet")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return ImportSummary(
        images=len(images.names),
        cameras=len(camera_rows),
        pairs=spool.pairs,
        verified=len(pairs),
        matches=int(pairs["length"].sum()),
        merged_matches=written,
        keypoints=keypoints,
        duplicate_pairs=spool.duplicates,
        mirrored_pairs=mirrored,
        outside=spool.outside,
        resize_factor=float(np.median(radii) / radius),
    )


def remove(path: Path) -> None:
    """Remove a file or a folder with all in it; nothing happens where there is none."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Images:
    """IMAGES as columns, one row per image, sorted by name; row i has image id i + 1."""

    names: np.ndarray  # (N,) str
    width: np.ndarray
    height: np.ndarray
    stored_width: np.ndarray
    stored_height: np.ndarray
    orientation: np.ndarray
    focal: np.ndarray  # NaN where EXIF gives none

    @classmethod
    def read(cls, run: Folder) -> _Images:
        tables = [run.read_table(name) for name in run.names("images")]
        if not tables:
            raise ColmapError(f"{run.shown}: holds no images/*.parquet; run the matching job first.")
        table = pa.concat_tables(tables)
        names, first, same = np.unique(
            np.array(table["image"].to_pylist(), dtype=object), return_index=True, return_inverse=True
        )
        columns = []
        for name in ("width", "height", "stored_width", "stored_height", "orientation", "focal"):
            column = table[name].to_numpy()
            differs = ~np.isclose(column, column[first][same], equal_nan=True)
            if differs.any():
                image = names[same[differs][0]]
                raise ColmapError(f"{image}: its {name} differs between shards; match again, its file changed.")
            columns.append(column[first])
        if not len(names) or not names[0] or len(names) > MAX_IMAGES:
            raise ColmapError(f"{run.shown}: images/*.parquet names no image, too many, or one without a name.")
        images = cls(names, *columns)
        turned = images.orientation >= 5
        expected = np.where(turned, [images.height, images.width], [images.width, images.height])
        good = (expected == [images.stored_width, images.stored_height]).all(axis=0) & (expected > 0).all(axis=0)
        good &= (images.orientation >= 1) & (images.orientation <= 8)
        if not good.all():
            raise ColmapError(f"{names[~good][0]}: its sizes and orientation in images/*.parquet disagree.")
        images.focal[~((images.focal > 0) & np.isfinite(images.focal))] = np.nan
        return images

    def to_stored(self) -> np.ndarray:
        """(N, 3, 3) maps from the tables' pixels to COLMAP's: stored orientation, and +0.5."""
        linear = STORED_FROM_UPRIGHT[self.orientation - 1].astype(np.float64)
        last = np.stack([self.width - 1, self.height - 1], axis=1)
        maps = np.zeros((len(self.names), 3, 3))
        maps[:, :2, :2] = linear
        # A coordinate that runs backwards starts at the last pixel.
        maps[:, :2, 2] = np.einsum("nij,nj->ni", np.minimum(linear, 0), -last) + 0.5
        maps[:, 2, 2] = 1
        return maps


# Upright pixel offsets (x, y) → stored ones, by EXIF orientation 1…8.
STORED_FROM_UPRIGHT = np.array(
    [
        [[1, 0], [0, 1]],
        [[-1, 0], [0, 1]],
        [[-1, 0], [0, -1]],
        [[1, 0], [0, -1]],
        [[0, 1], [1, 0]],
        [[0, 1], [-1, 0]],
        [[0, -1], [-1, 0]],
        [[0, -1], [1, 0]],
    ]
)


def _without_mirrored(pairs: np.ndarray, images: _Images) -> tuple[np.ndarray, int]:
    """The pairs COLMAP can use, and how many it cannot.

    EXIF can say that a stored image is mirrored. COLMAP takes it for a view of a mirrored scene: such images
    fit together, but not with the others.
    """
    mirrored = np.linalg.det(STORED_FROM_UPRIGHT[images.orientation - 1]) < 0
    mixed = mirrored[pairs["image0"]] != mirrored[pairs["image1"]]
    return pairs[~mixed], int(mixed.sum())


def _assign_cameras(images: _Images, options: CameraOptions) -> tuple[np.ndarray, list[Any]]:
    """(camera row of every image, the cameras); ids follow the first image that uses a camera."""
    pycolmap = import_pycolmap()
    sizes = list(zip(images.stored_width.tolist(), images.stored_height.tolist(), strict=True))
    if options.params is not None and len(set(sizes)) > 1:
        raise ColmapError(
            f"camera parameters fit one image size, but the images have {len(set(sizes))}; "
            "leave the parameters out, or reconstruct each size by itself."
        )
    keys: list[Any] = list(zip(range(len(sizes)), sizes, strict=True))
    if options.sharing == "folder":
        keys = [(str(name).rpartition("/")[0], size) for name, size in zip(images.names, sizes, strict=True)]
    elif options.sharing == "single":
        keys = sizes
    rows: dict[Any, list[int]] = {}
    for i, key in enumerate(keys):
        rows.setdefault(key, []).append(i)
    assigned, cameras = np.empty(len(keys), np.int64), []
    for number, members in enumerate(rows.values()):
        width, height = sizes[members[0]]
        assigned[members] = number
        known = images.focal[members][~np.isnan(images.focal[members])]
        focal = float(np.median(known)) if len(known) else DEFAULT_FOCAL * max(width, height)
        camera = pycolmap.Camera.create_from_model_name(number + 1, options.model, focal, width, height)
        camera.has_prior_focal_length = bool(len(known))
        if options.params is not None:
            camera.params = list(options.params)
            camera.has_prior_focal_length = True
        cameras.append(camera)
    return assigned, cameras


def _same_camera(images: _Images, assigned: np.ndarray, cameras: list[Any], options: CameraOptions) -> np.ndarray:
    """(N,) whether an image's camera is the one its matches were verified with."""
    if options.params is not None:
        return np.zeros(len(images.names), bool)
    default = DEFAULT_FOCAL * np.maximum(images.width, images.height)
    verified = np.where(np.isnan(images.focal), default, images.focal)
    focal = np.array([camera.mean_focal_length() for camera in cameras])
    return np.isclose(focal[assigned], verified, rtol=1e-3)


def _write_images(target: Any, images: _Images, assigned: np.ndarray, cameras: list[Any]) -> None:
    """Rigs and frames are left to the mapper, which makes a trivial one for every image."""
    pycolmap = import_pycolmap()
    for camera in cameras:
        target.write_camera(camera, use_camera_id=True)
    for i, (name, camera) in enumerate(zip(images.names, assigned, strict=True)):
        image = pycolmap.Image(name=name, camera_id=int(camera) + 1, image_id=i + 1)
        target.write_image(image, use_image_id=True)


def _write_keypoints(target: Any, images: _Images, maps: np.ndarray, first: int, merged: MergedKeypoints) -> pa.Table:
    """Write the keypoints of consecutive images from row `first`; returns them as KEYPOINTS."""
    slices = [slice(*bounds) for bounds in zip(merged.offsets[:-1], merged.offsets[1:], strict=True)]
    for i, rows in enumerate(slices, first):
        stored = merged.xy[rows].astype(np.float64) @ maps[i, :2, :2].T + maps[i, :2, 2]
        target.write_keypoints(i + 1, stored.astype(np.float32))
    columns = [pa.array(images.names[first : first + len(slices)], pa.string())]
    for name, values in (("keypoints", merged.xy), ("spread", merged.spread)):
        columns.append(schemas.ragged([values[rows] for rows in slices], schemas.KEYPOINTS.field(name).type))
    return pa.table(columns, schema=schemas.KEYPOINTS)


def _write_pairs(
    target: Any,
    pairs: np.ndarray,
    geometries: np.ndarray,
    matches: list[np.ndarray],
    maps: np.ndarray,
    same_camera: np.ndarray,
) -> None:
    """Write matches and geometries; pairs: (P,) spool.PAIR, geometries: (P,) spool.GEOMETRY, matches: (m, 2) each."""
    pycolmap = import_pycolmap()
    kinds = [getattr(pycolmap.TwoViewGeometryConfiguration, name.upper()) for name in GEOMETRIES]
    to0, to1 = maps[pairs["image0"]], maps[pairs["image1"]]
    from0, from1 = np.linalg.inv(to0), np.linalg.inv(to1)
    turn0, turn1 = to0.copy(), to1.copy()
    turn0[:, :2, 2] = turn1[:, :2, 2] = 0  # of the camera's frame about its axis
    E, F, H = (geometries[name].reshape(-1, 3, 3) for name in ("E", "F", "H"))
    E, F, H = turn1 @ E @ turn0.transpose(0, 2, 1), from1.transpose(0, 2, 1) @ F @ from0, to1 @ H @ from0
    translations = (turn1 @ geometries["pose"][:, 4:, None])[:, :, 0]
    has_E, has_F, has_H = (np.isfinite(matrices).all(axis=(1, 2)) for matrices in (E, F, H))
    has_pose = np.isfinite(geometries["pose"]).all(axis=1)
    known = same_camera[pairs["image0"]] & same_camera[pairs["image1"]]
    for row, (pair, kind, indices) in enumerate(zip(pairs, geometries["geometry"], matches, strict=True)):
        geometry = pycolmap.TwoViewGeometry(config=kinds[kind], inlier_matches=indices)
        if has_F[row]:
            geometry.F = F[row]
        if has_H[row]:
            geometry.H = H[row]
        if known[row]:
            if has_E[row]:
                geometry.E = E[row]
            if has_pose[row]:
                rotation = turn1[row] @ pycolmap.Rotation3d(geometries["pose"][row, :4]).matrix() @ turn0[row].T
                geometry.cam2_from_cam1 = pycolmap.Rigid3d(pycolmap.Rotation3d(rotation), translations[row])
        elif GEOMETRIES[kind] == "calibrated":
            geometry.config = kinds[GEOMETRIES.index("uncalibrated")]
        images = int(pair["image0"]) + 1, int(pair["image1"]) + 1
        target.write_matches(*images, indices)
        target.write_two_view_geometry(*images, geometry)
