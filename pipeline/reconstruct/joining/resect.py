"""Images that no block placed, placed against their neighbours in the joined model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.extras import import_pycolmap
from pipeline.reconstruct.blocks.graph import ViewGraph
from pipeline.reconstruct.mapping import LEAST_INLIERS


def resect(
    model: Any,
    graph: ViewGraph,
    database: Path,
    max_error: float,
    cameras: Mapping[int, int] | None = None,
) -> list[int]:
    """Add the missing images whose matches see enough points of the model. Returns their numbers.

    model: a `pycolmap.Reconstruction` whose images have the keypoints of the database, and perhaps
        more behind them.
    max_error: largest reprojection error in pixels that a mapper leaves.
    cameras: the numbers of the cameras of the model that took images, by the images' numbers. None:
        those of the database. With them, the focal length of a camera that the model does not have
        and of which EXIF tells nothing is found with the place.
    """
    pycolmap = import_pycolmap()
    adjacency, found = graph.adjacency(), list[int]()
    with pycolmap.Database.open(database) as opened:
        while True:
            there = np.isin(graph.images, [*model.reg_image_ids()])
            absent = ~np.isin(graph.images, [*model.images])  # others were taken out, and stay so
            ties = adjacency[:, there].sum(axis=1)
            order = np.argsort(-ties, kind="stable")
            added = [
                number
                for number in graph.images[order[(ties > 0)[order] & absent[order]]].tolist()
                if _placed(model, opened, number, graph, max_error, cameras)
            ]
            found += added
            if not added:
                return found


def _placed(
    model: Any,
    opened: Any,
    number: int,
    graph: ViewGraph,
    max_error: float,
    cameras: Mapping[int, int] | None,
) -> bool:
    """Add one image, if its matches tell its place."""
    pycolmap = import_pycolmap()
    couples = _seen_points(model, opened, number, graph)
    if len(couples) < LEAST_INLIERS:
        return False
    described = opened.read_image(number)
    camera = (cameras or {}).get(number, described.camera_id)
    keypoints = np.asarray(opened.read_keypoints(number)[:, :2], np.float64)
    found = None if model.exists_camera(camera) else opened.read_camera(camera)
    points = np.array([model.points3D[point].xyz for point in couples[:, 1].tolist()])
    options = pycolmap.AbsolutePoseEstimationOptions()
    options.ransac.max_error = 3 * max_error
    options.ransac.random_seed = 0
    refinement = pycolmap.AbsolutePoseRefinementOptions()
    if cameras is not None and found is not None and not found.has_prior_focal_length:
        options.estimate_focal_length = refinement.refine_focal_length = True
    answer = pycolmap.estimate_and_refine_absolute_pose(
        keypoints[couples[:, 0]], points, found or model.cameras[camera], options, refinement
    )
    if answer is None or answer["num_inliers"] < LEAST_INLIERS:
        return False
    if found is not None:
        model.add_camera_with_trivial_rig(found)
    image = pycolmap.Image(described.name, keypoints, camera, number)
    model.add_image_with_trivial_frame(image, answer["cam_from_world"])
    used = couples[answer["inlier_mask"]]
    for keypoint, point in used[np.unique(used[:, 0], return_index=True)[1]].tolist():
        model.add_observation(point, pycolmap.TrackElement(number, keypoint))
    return True


def _seen_points(model: Any, opened: Any, number: int, graph: ViewGraph) -> np.ndarray:
    """Keypoints of an image and the points that registered images match them with: (n, 2).

    A point is there once.
    """
    couples = []
    row = int(np.searchsorted(graph.images, number))
    others = [*graph.second[graph.first == row], *graph.first[graph.second == row]]
    for other in graph.images[others].tolist():
        if not model.exists_image(other):
            continue
        first, second = sorted((number, other))
        matches = opened.read_two_view_geometry(first, second).inlier_matches.astype(np.int64)
        mine, theirs = matches.T if first == number else matches.T[::-1]
        points2D = model.images[other].points2D
        couples += [
            (keypoint, points2D[seen].point3D_id)
            for keypoint, seen in zip(mine.tolist(), theirs.tolist(), strict=True)
            if points2D[seen].has_point3D()
        ]
    found = np.array(couples, np.int64).reshape(-1, 2)
    once: np.ndarray = found[np.unique(found[:, 1], return_index=True)[1]]
    return once
