"""A COLMAP database that somebody else made, as of SIFT, in place of a run."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import numpy as np

from pipeline.errors import ImageError, ReconstructionError
from pipeline.extras import import_pycolmap
from pipeline.masks.folder import Masks
from pipeline.reconstruct.blocks.graph import MOST_IMAGES, ViewGraph, address
from pipeline.reconstruct.database import ImportSummary, replace_database
from pipeline.store.folder import Folder


def take_database(
    given: Path,
    database: Path,
    masks: Masks | None = None,
    photographs: Folder | None = None,
) -> ImportSummary:
    """Copy a COLMAP database with verified pairs, and count what it holds.

    given: stays as it is. database: where the copy goes. Files that were made of an older one there
        are removed first.
    masks: of the images. Matches that begin or end in a masked place are left out, and all of an
        image whose mask cannot be used. photographs: their folder, or None.

    Raises ReconstructionError where there is no such file, or it is no database of COLMAP.
    """
    check_database(given)
    database.parent.mkdir(parents=True, exist_ok=True)
    scratch = database.parent / f".{database.name}.taking"
    scratch.unlink(missing_ok=True)
    with (
        closing(sqlite3.connect(address(given), uri=True)) as source,
        closing(sqlite3.connect(scratch)) as target,
    ):
        source.backup(target)
        masked, notes = _leave_out_masked(target, masks, photographs) if masks else (0, [])
    replace_database(scratch, database)
    pycolmap = import_pycolmap()
    with pycolmap.Database.open(database) as opened:  # brings an older one up to date
        keypoints, cameras = opened.num_keypoints(), opened.num_cameras()
        pairs = opened.num_matched_image_pairs()
    graph = ViewGraph.read(database)
    matches = int(graph.inliers.sum())
    return ImportSummary(
        images=len(graph),
        cameras=cameras,
        pairs=max(pairs, len(graph.inliers)),
        verified=len(graph.inliers),
        matches=matches,
        merged_matches=matches,
        keypoints=keypoints,
        duplicate_pairs=0,
        mirrored_pairs=0,
        outside=0,
        resize_factor=1.0,
        masked=masked,
        mask_notes=notes,
    )


def _leave_out_masked(
    database: sqlite3.Connection, masks: Masks, photographs: Folder | None
) -> tuple[int, list[str]]:
    """Remove matches that begin or end in masked places; keypoints keep their numbers.

    A pair without matches is removed. Returns how many inliers were left out, and sentences about
    masks that cannot be used.
    """
    kept: dict[int, np.ndarray] = {}
    notes: list[str] = []
    images = "SELECT image_id, name, width, height FROM images JOIN cameras USING (camera_id)"
    for image, name, width, height in database.execute(f"{images} ORDER BY image_id").fetchall():
        if name not in masks.of:
            continue
        points = "SELECT cols, data FROM keypoints WHERE image_id = ?"
        cols, data = database.execute(points, (image,)).fetchone() or (2, b"")
        xy = np.frombuffer(data or b"", "<f4").reshape(-1, cols)[:, :2]
        try:
            mask = masks.stored(name, (width, height), photographs)
        except ImageError as error:
            notes.append(f"{name}: {error}")
            kept[image] = np.zeros(len(xy), bool)
            continue
        if mask is not None:
            kept[image] = mask.keeps(xy.astype(np.float64) - 0.5)
    inliers = _filter_matches(database, "two_view_geometries", kept)
    _filter_matches(database, "matches", kept)
    database.commit()
    return inliers, notes


def _filter_matches(
    database: sqlite3.Connection, table: str, kept: Mapping[int, np.ndarray]
) -> int:
    """Keep the rows of matches whose two keypoints are kept; returns how many were removed.

    kept: (K,) bool of the keypoints of images; of others all are kept.
    """
    removed = 0
    for (pair,) in database.execute(f"SELECT pair_id FROM {table}").fetchall():
        sides = divmod(pair, MOST_IMAGES)
        if kept.keys().isdisjoint(sides):
            continue
        (data,) = database.execute(
            f"SELECT data FROM {table} WHERE pair_id = ?", (pair,)
        ).fetchone()
        matches = np.frombuffer(data or b"", "<u4").reshape(-1, 2)
        good = np.ones(len(matches), bool)
        for image, column in zip(sides, matches.T, strict=True):
            if image in kept:
                good &= kept[image][column]
        if good.all():
            continue
        removed += int((~good).sum())
        left = matches[good]
        if len(left):
            change = f"UPDATE {table} SET rows = ?, data = ? WHERE pair_id = ?"
            database.execute(change, (len(left), left.tobytes(), pair))
        else:
            database.execute(f"DELETE FROM {table} WHERE pair_id = ?", (pair,))
    return removed


def check_database(given: Path) -> None:
    """Raise ReconstructionError where a file is no database of COLMAP."""
    if not given.is_file():
        cause = "is a folder" if given.is_dir() else "there is no such file"
        raise ReconstructionError(f"{given}: {cause}; give a COLMAP database.")
    try:
        with closing(sqlite3.connect(address(given), uri=True)) as opened:
            opened.execute("SELECT pair_id, rows, config FROM two_view_geometries LIMIT 1")
            opened.execute("SELECT image_id, name FROM images LIMIT 1")
    except sqlite3.DatabaseError as error:
        raise ReconstructionError(
            f"{given}: is no COLMAP database with verified pairs ({error}); give the database.db "
            "that COLMAP or eloftr reconstruct wrote."
        ) from error
