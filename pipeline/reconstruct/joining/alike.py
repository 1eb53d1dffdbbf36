"""Pairs of places that look alike, found by what they do not share.

Two photographs of one place share all that both show. Two buildings that look the same share their
façades, and nothing of what stands around them. So the matches of a wrong pair lie in a part of the
images, while keypoints around them are matched with other images only.

This is asked where joins contradict each other, and nowhere else: a true pair may also match in a
part, as where a car stands in the way. Jiang et al., "Seeing double without confusion", 2012, judge
whole reconstructions by missing matches in the same way.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.extras import import_pycolmap
from pipeline.reconstruct.blocks.graph import ViewGraph

GRID = 8  # cells along each side of an image
LEAST_EXPECTED = 4  # keypoints of a cell that the other image should show too
LEAST_CELLS = 6  # such cells, for a judgement
LEAST_SHARE = 0.65  # of these cells that have a match


def pairs_alike(database: Path, graph: ViewGraph, images: np.ndarray) -> np.ndarray:
    """COLMAP's numbers of the pairs that match in a part of what both images show.

    images: numbers of those that are looked at.
    """
    inside = np.isin(graph.images, images)
    rows = np.flatnonzero(inside[graph.first] & inside[graph.second])
    numbers = np.stack([graph.images[graph.first], graph.images[graph.second]], axis=1)
    with import_pycolmap().Database.open(database) as opened:
        matches = {row: _matches(opened, *numbers[row].tolist()) for row in rows.tolist()}
        keypoints = {
            number: np.asarray(opened.read_keypoints(number)[:, :2], np.float64)
            for number in np.unique(numbers[rows]).tolist()
        }
        cameras = {camera.camera_id: camera for camera in opened.read_all_cameras()}
        sizes = {
            image.image_id: (cameras[image.camera_id].width, cameras[image.camera_id].height)
            for image in opened.read_all_images()
        }
    used: dict[int, list[np.ndarray]] = {}
    for row, found in matches.items():
        for number, side in zip(numbers[row].tolist(), found.T, strict=True):
            used.setdefault(number, []).append(side)
    matched = {number: np.unique(np.concatenate(sides)) for number, sides in used.items()}
    alike = []
    for row, found in matches.items():
        both = numbers[row].tolist()
        shares = [
            _share(
                keypoints[both[k]],
                keypoints[both[1 - k]],
                found[:, [k, 1 - k]],
                matched[both[k]],
                np.array([sizes[both[k]], sizes[both[1 - k]]], np.float64),
            )
            for k in (0, 1)
        ]
        if min(shares) < LEAST_SHARE:
            alike.append(row)
    return graph.pair_numbers()[alike]


def _matches(opened: Any, first: int, second: int) -> np.ndarray:
    found: np.ndarray = opened.read_two_view_geometry(first, second).inlier_matches
    return found.astype(np.int64)


def _share(
    mine: np.ndarray,
    theirs: np.ndarray,
    matches: np.ndarray,
    matched: np.ndarray,
    sizes: np.ndarray,
) -> float:
    """Share of the cells of one image that have a match, among those that the other shows too.

    mine, theirs: keypoints (n, 2) in pixels. matched: rows of mine that have a match anywhere.
    sizes: (2, 2) width and height of both. 1 where too few cells can be judged.
    """
    here, there = mine[matches[:, 0]], theirs[matches[:, 1]]
    affine = _affine(here, there)
    expected = np.column_stack([mine[matched], np.ones(len(matched))]) @ affine
    shown = matched[((expected >= 0) & (expected <= sizes[1])).all(axis=1)]
    cells = np.minimum(mine * GRID / sizes[0], GRID - 1).astype(np.int64) @ [1, GRID]
    should = np.bincount(cells[shown], minlength=GRID * GRID) >= LEAST_EXPECTED
    does = np.bincount(cells[matches[:, 0]], minlength=GRID * GRID) > 0
    return float(does[should].mean()) if should.sum() >= LEAST_CELLS else 1.0


def _affine(here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """(3, 2): the affine map between matched pixels, without the worst ones."""
    rows = np.column_stack([here, np.ones(len(here))])
    used = np.ones(len(here), bool)
    for _ in range(3):
        affine, *_ = np.linalg.lstsq(rows[used], there[used], rcond=None)
        off = np.linalg.norm(rows @ affine - there, axis=1)
        used = off <= 3 * np.median(off) + 1e-9
    result: np.ndarray = affine
    return result
