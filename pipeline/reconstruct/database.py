"""A COLMAP database and what is made from it: what went into it, and how it is replaced."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.extras import import_pycolmap
from pipeline.match.run import SUMMARY_FILE
from pipeline.reconstruct.cameras.assign import SharedCamera

# The files and folders beside a database that are made from it.
REPORT_FILE = "report.txt"  # the last one
MADE_FROM_IT = (REPORT_FILE, SUMMARY_FILE, "points.ply", "sparse", "mapped", "keypoints.parquet")


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
    masked: int = 0  # matches left out because an endpoint lies in a masked place
    mask_notes: list[str] = field(default_factory=list)  # masks that cannot be used
    panoramas: int = 0  # whose faces are images
    guessed_cameras: tuple[int, ...] = ()  # whose prior focal length is a guess

    @property
    def fixed_cameras(self) -> frozenset[int]:
        """Numbers of the cameras that stay as they were given."""
        return frozenset(camera.camera for camera in self.shared_cameras if camera.fixed)


def replace_database(made: Path, database: Path) -> None:
    """Give a whole database its place, after all files that were made from the one before it.

    The order matters: a process that is killed here leaves files missing, but it never leaves files
    of another database.
    """
    for name in MADE_FROM_IT:
        remove(database.parent / name)
    # A process that was killed while it read the old database may have left a journal. SQLite would
    # replay that journal on the new database.
    for journal in ("-wal", "-shm"):
        database.with_name(database.name + journal).unlink(missing_ok=True)
    os.replace(made, database)


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
