"""Images that no block placed, placed against their neighbours in the joined model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.extras import import_pycolmap
from pipeline.reconstruct.blocks.graph import ViewGraph
from pipeline.reconstruct.mapping import LEAST_INLIERS


def resect(model: Any, graph: ViewGraph, database: Path, max_error: float) -> list[int]:
    """Add the missing images whose matches see enough points of the model. Returns their numbers.

    model: a `pycolmap.Reconstruction` whose images have the keypoints of the database.
    max_error: largest reprojection error in pixels that a mapper leaves.
    """
    pycolmap = import_pycolmap()
    adjacency, found = graph.adjacency(), list[int]()
    with pycolmap.Database.open(database) as opened:
        while True:
            there = np.isin(graph.images, [*model.reg_image_ids()])
            ties = adjacency[:, there].sum(axis=1)
            order = np.argsort(-ties, kind="stable")
            added = [
                number
                for number in graph.images[order[(ties > 0)[order] & ~there[order]]].tolist()
                if _placed(model, opened, number, graph, max_error)
            ]
            found += added
            if not added:
                return found


def _placed(model: Any, opened: Any, number: int, graph: ViewGraph, max_error: float) -> bool:
    """Add one image, if its matches tell its place."""
    pycolmap = import_pycolmap()
    couples = _seen_points(model, opened, number, graph)
    if len(couples) < LEAST_INLIERS:
        return False
    described = opened.read_image(number)
    keypoints = np.asarray(opened.read_keypoints(number)[:, :2], np.float64)
    if not model.exists_camera(described.camera_id):
        model.add_camera_with_trivial_rig(opened.read_camera(described.camera_id))
    points = np.array([model.points3D[point].xyz for point in couples[:, 1].tolist()])
    options = pycolmap.AbsolutePoseEstimationOptions()
    options.ransac.max_error = 3 * max_error
    options.ransac.random_seed = 0
    answer = pycolmap.estimate_and_refine_absolute_pose(
        keypoints[couples[:, 0]], points, model.cameras[described.camera_id], options
    )
    if answer is None or answer["num_inliers"] < LEAST_INLIERS:
        return False
    image = pycolmap.Image(described.name, keypoints, described.camera_id, number)
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
