"""One model of several that are placed in one world.

Each image is placed by the piece that it is a core image of. Points that share an observation and
lie at the same place become one, with the observations of both. An observation is in one track.

Pairs of images that are in no block together are missing in such tracks. Once the images are about
where they belong, these pairs complete the tracks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.extras import import_pycolmap
from pipeline.reconstruct.blocks.graph import MOST_IMAGES
from pipeline.reconstruct.joining.piece import SAME, Piece
from pipeline.reconstruct.mapping import remove_strays
from pipeline.reconstruct.similarity import Similarity
from pipeline.reconstruct.tracks.scene import (
    ModelCamera,
    ModelViews,
    made_model,
    reprojection_errors,
    rows_of_groups,
)

LEAST_ANGLE = 1.5  # degrees between two rays of a point, as COLMAP's mapper demands
KEYPOINT = 0xFFFFFFFF  # the part of an observation's key that is the keypoint's row
# An observation may be off by so many times the mapper's largest error before the joined model is
# adjusted.
MOST_OFF = 3.0


def merge(
    pieces: Sequence[Piece], placed: Sequence[Similarity], database: Path, max_error: float
) -> Any:
    """A `pycolmap.Reconstruction` of all pieces, with the keypoints of the database.

    max_error: largest reprojection error in pixels that a mapper leaves.
    """
    views = _views(pieces, placed)
    xyz, key, point = _points(pieces, placed)
    rows = np.searchsorted(views.numbers, key >> 32)
    with import_pycolmap().Database.open(database) as opened:
        keypoints = [
            np.asarray(opened.read_keypoints(int(number))[:, :2], np.float64)
            for number in views.numbers
        ]
    xy = np.empty((len(key), 2))
    for row, mine in enumerate(rows_of_groups(rows, len(views))):
        xy[mine] = keypoints[row][key[mine] & KEYPOINT]
    error = reprojection_errors(views, rows, xyz[point], xy)
    # An observation is at the point that it fits best, and an image sees a point once.
    kept = np.flatnonzero(error < MOST_OFF * max_error)
    kept = _best(kept, error, key)
    kept = _best(kept, error, rows, point)
    kept = kept[np.bincount(point[kept], minlength=len(xyz))[point[kept]] >= 2]
    kept = kept[np.lexsort((key[kept], point[kept]))]
    used, point = np.unique(point[kept], return_inverse=True)
    colour = np.zeros((len(used), 3), np.uint8)
    return made_model(views, keypoints, xyz[used], colour, point, rows[kept], key[kept] & KEYPOINT)


class TrackSource(NamedTuple):
    """A COLMAP database, and the numbers of its pairs that tracks may be made of."""

    database: Path
    pairs: np.ndarray


def complete_tracks(model: Any, source: TrackSource, max_error: float, unite: bool = True) -> None:
    """Bring matches whose two observations are not in one track into the tracks of a model.

    Observations join points, points become one, and new ones are triangulated. What does not fit
    is left out afterwards.

    model: a `pycolmap.Reconstruction` with the keypoints of the database, changed in place.
    max_error: largest reprojection error in pixels that a mapper leaves.
    unite: whether points become one. Exact points do not: each has places of its own in the images.
    """
    pycolmap = import_pycolmap()
    graph = pycolmap.CorrespondenceGraph()
    track = {}
    for number in model.reg_image_ids():
        points = model.images[number].points2D
        graph.add_image(number, len(points))
        track[number] = np.array([p.point3D_id if p.has_point3D() else -1 for p in points], int)
    with pycolmap.Database.open(source.database) as opened:
        for number in sorted(source.pairs.tolist()):
            first, second = divmod(number, MOST_IMAGES)
            if first in track and second in track:
                geometry = opened.read_two_view_geometry(first, second)
                matches = geometry.inlier_matches.astype(np.int64)
                a, b = track[first][matches[:, 0]], track[second][matches[:, 1]]
                geometry.inlier_matches = geometry.inlier_matches[(a != b) | (a < 0)]
                graph.add_two_view_geometry(first, second, geometry)
    graph.finalize()
    options = pycolmap.IncrementalTriangulatorOptions(random_seed=0, min_angle=LEAST_ANGLE)
    options.merge_max_reproj_error = options.complete_max_reproj_error = max_error
    manager = pycolmap.ObservationManager(model, graph)
    triangulator = pycolmap.IncrementalTriangulator(graph, model, manager)
    triangulator.complete_all_tracks(options)
    if unite:
        triangulator.merge_all_tracks(options)
    for number in sorted(model.reg_image_ids()):
        triangulator.triangulate_image(options, number)
    if not unite:  # views of the new points that triangulating left out
        triangulator.complete_all_tracks(options)


def leave_out_misfits(model: Any, max_error: float) -> int:
    """Take observations that do not fit out of a model; returns how many."""
    pycolmap = import_pycolmap()
    left_out: int = pycolmap.ObservationManager(model).filter_all_points3D(max_error, LEAST_ANGLE)
    remove_strays(model)
    return left_out


def _best(rows: np.ndarray, error: np.ndarray, *same: np.ndarray) -> np.ndarray:
    """Of rows that agree in all of `same`, the one with the least error."""
    rows = rows[np.lexsort((error[rows], *(column[rows] for column in same)))]
    first = np.zeros(len(rows), bool)
    first[:1] = True
    for column in same:
        first[1:] |= np.diff(column[rows]) != 0
    return rows[first]


def _views(pieces: Sequence[Piece], placed: Sequence[Similarity]) -> ModelViews:
    """Every image where the piece of its core has it, else the one with most of its points."""
    best: dict[int, tuple[tuple[bool, int, int], int, int]] = {}
    for number, piece in enumerate(pieces):
        numbers = piece.views.numbers
        seen = np.bincount(np.searchsorted(numbers, piece.key >> 32), minlength=len(numbers))
        for row, image in enumerate(numbers.tolist()):
            rank = (bool(piece.is_core[row]), int(seen[row]), -number)
            if image not in best or rank > best[image][0]:
                best[image] = rank, number, row
    images = sorted(best)
    names, rotation, shift, camera = [], [], [], []
    for image in images:
        _, number, row = best[image]
        views, move = pieces[number].views, placed[number]
        turned = views.rotation[row] @ move.rotation.T
        names.append(views.names[row])
        rotation.append(turned)
        shift.append(move.scale * views.shift[row] - turned @ move.shift)
        camera.append(int(views.camera[row]))
    return ModelViews(
        names,
        np.array(images, np.int64),
        np.array(camera, np.int64),
        np.array(rotation),
        np.array(shift),
        {number: _mean_camera(number, pieces) for number in sorted({*camera})},
    )


def _mean_camera(number: int, pieces: Sequence[Piece]) -> ModelCamera:
    """The camera with the middle parameters of all pieces that have it."""
    found = [piece.views.cameras[number] for piece in pieces if number in piece.views.cameras]
    params = np.median([camera.params for camera in found], axis=0)
    return ModelCamera(found[0].model, found[0].width, found[0].height, tuple(params.tolist()))


def _points(
    pieces: Sequence[Piece], placed: Sequence[Similarity]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (P, 3) of all pieces with those that are the same as one, and all observations.

    Returns the points, and of every observation its key and its point.
    """
    starts = np.cumsum([0, *(len(piece.xyz) for piece in pieces)])
    xyz = np.concatenate([move(piece.xyz) for piece, move in zip(pieces, placed, strict=True)])
    distance = np.concatenate(
        [move.scale * piece.distance for piece, move in zip(pieces, placed, strict=True)]
    )
    key = np.concatenate([piece.key for piece in pieces])
    point = np.concatenate(
        [piece.point + start for piece, start in zip(pieces, starts[:-1], strict=True)]
    )
    order = np.argsort(key, kind="stable")
    same = np.flatnonzero(np.diff(key[order]) == 0)
    a, b = point[order[same]], point[order[same + 1]]
    near = np.linalg.norm(xyz[a] - xyz[b], axis=1) < SAME * np.minimum(distance[a], distance[b])
    graph = coo_array((np.ones(near.sum(), np.int8), (a[near], b[near])), shape=(len(xyz),) * 2)
    count, of = connected_components(graph, directed=False)
    own = np.bincount(point, minlength=len(xyz)).astype(np.float64)
    total = np.bincount(of, own, count)
    mean = np.stack([np.bincount(of, own * xyz[:, k], count) for k in range(3)], axis=1)
    couples = np.unique(np.stack([key, of[point]], axis=1), axis=0)
    return mean / np.maximum(total, 1)[:, None], couples[:, 0], couples[:, 1]
