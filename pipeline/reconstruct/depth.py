"""Whether a model has depth: views show it where the camera moved, and not where it only turned.

inlier matches of the database → pairs without depth → what each model is

Parts of one photograph, or views of a camera that turned on the spot, fit together with any depth
at all. A mapper can still make a model of them, with points and small errors.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.extras import import_pycolmap
from pipeline.vocabulary import Word

# A pair has no depth where a turn of the camera, or a shift and scale of the image, explains its
# matches nearly as well as any homography does: medians, as a factor, and between these shares of
# the longer side.
AS_GOOD = 2.0
LEAST, SAME_PLACE = 0.0005, 0.004
JUDGED = 2000  # pairs of a database, and points of a pair, which are enough to tell
POINTS = 100
# Of a model's pairs, so many have to be without depth that it has none.
MOST_WITHOUT = 0.9
FEWEST_POINTS = 15  # of a model with depth
# A plane: distance of the points from it as a share of their distance from its middle, medians.
FLAT = 0.01
SHOWN = 3  # pairs, or images, in a sentence
# Focal lengths that are tried where none is known, times the longer side.
FOCALS = np.geomspace(0.4, 4.0, 24)
NEAR = np.linspace(0.9, 1.1, 5)  # times those of EXIF

NamePair = tuple[str, str]


class Depth(Word):
    """What a model is."""

    SCENE = "scene"
    PLANE = "plane"  # its points lie on one, and the cameras moved
    NONE = "none"


@dataclass(frozen=True)
class PairDepths:
    """Verified pairs that were judged, by the names of their images; and those without depth."""

    judged: list[NamePair]
    without: list[NamePair]


def pair_depths(database: Path) -> PairDepths:
    """Judge the verified pairs of a database by their inlier matches; of many, every k-th."""
    pycolmap = import_pycolmap()
    judged, without = [], []
    with pycolmap.Database.open(database) as opened:
        images = {image.image_id: image for image in opened.read_all_images()}
        cameras = {camera.camera_id: camera for camera in opened.read_all_cameras()}
        pairs = opened.read_two_view_geometry_num_inliers()[0]
        for pair in pairs[:: -(-len(pairs) // JUDGED) or 1]:
            sides = [images[k] for k in pycolmap.pair_id_to_image_pair(pair)]
            numbers = [side.image_id for side in sides]
            matches = opened.read_two_view_geometry(*numbers).inlier_matches
            matches = matches[:: -(-len(matches) // POINTS) or 1]
            points = [
                opened.read_keypoints(number)[matches[:, k], :2].astype(np.float64)
                for k, number in enumerate(numbers)
            ]
            judged.append((sides[0].name, sides[1].name))
            if is_same_place(*points, *(cameras[side.camera_id] for side in sides)):
                without.append(judged[-1])
    return PairDepths(judged, without)


def is_same_place(points0: np.ndarray, points1: np.ndarray, camera0: Any, camera1: Any) -> bool:
    """Whether a camera only turned between two images, or both are parts of one image.

    points: (M, 2) each, matched pixels with the origin at the corner of the first pixel.
    cameras: `pycolmap.Camera`s. Where one has no prior focal length, all that a camera may have are
        tried; otherwise those near the priors.
    """
    if len(points0) < 8:
        return False
    longer = max(camera1.width, camera1.height)
    plane = _least_off(_off_homography, points0, points1)
    tolerance = min(max(AS_GOOD * plane, LEAST * longer), SAME_PLACE * longer)
    if plane > tolerance:  # they have parallax
        return False
    if _least_off(_off_similarity, points0, points1) < tolerance:
        return True
    middles = _from_middle(points0, points1, camera0, camera1)
    return any(
        _least_off(partial(_off_turn, *focals), *middles) < tolerance
        for focals in _focals(camera0, camera1)
    )


def _least_off(
    off: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    points0: np.ndarray,
    points1: np.ndarray,
) -> float:
    """Median distance in pixels after a least-squares fit without the worst points.

    off: distances (M,) of all points, after a fit to those of a mask (M,).
    """
    used = np.ones(len(points0), bool)
    for _ in range(3):
        distances = off(points0, points1, used)
        used = distances <= 3 * np.median(distances)
    return float(np.median(distances))


def _off_similarity(points0: np.ndarray, points1: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Of the best shift, scale and turn of the image, in complex numbers."""
    here, there = (points[:, 0] + 1j * points[:, 1] for points in (points0, points1))
    here, there = here - here[used].mean(), there - there[used].mean()
    similarity = np.vdot(here[used], there[used]) / max(np.vdot(here[used], here[used]).real, 1e-12)
    distances: np.ndarray = np.abs(there - similarity * here)
    return distances


def _off_turn(
    focal0: float, focal1: float, points0: np.ndarray, points1: np.ndarray, used: np.ndarray
) -> np.ndarray:
    """Of the best turn of the camera. Points count from the principal point."""
    rays0, rays1 = (
        np.column_stack([points, np.full(len(points), focal)])
        for points, focal in ((points0, focal0), (points1, focal1))
    )
    rays0, rays1 = (rays / np.linalg.norm(rays, axis=1)[:, None] for rays in (rays0, rays1))
    left, _, right = np.linalg.svd(rays1[used].T @ rays0[used])
    left[:, 2] *= np.linalg.det(left @ right)
    seen = rays0 @ (left @ right).T
    distances: np.ndarray = np.linalg.norm(
        seen[:, :2] / np.maximum(seen[:, 2:], 1e-6) * focal1 - points1, axis=1
    )
    return distances


def _off_homography(points0: np.ndarray, points1: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Of the least-squares homography."""
    scale, shift = points0.std() + 1e-12, points0.mean(axis=0)
    scale1, shift1 = points1.std() + 1e-12, points1.mean(axis=0)
    a = np.column_stack([(points0 - shift) / scale, np.ones(len(points0))])
    u, v = ((points1 - shift1) / scale1).T[:, :, None]
    zero = np.zeros_like(a)
    rows = np.stack([np.hstack([a, zero, -u * a]), np.hstack([zero, a, -v * a])])
    equations = rows[:, used].reshape(-1, 9)
    _, columns = np.linalg.eigh(equations.T @ equations)
    there = a @ columns[:, 0].reshape(3, 3).T
    depth = np.where(np.abs(there[:, 2:]) < 1e-9, 1e-9, there[:, 2:])
    distances: np.ndarray = np.linalg.norm(there[:, :2] / depth * scale1 + shift1 - points1, axis=1)
    return distances


def _from_middle(
    points0: np.ndarray, points1: np.ndarray, camera0: Any, camera1: Any
) -> tuple[np.ndarray, np.ndarray]:
    return (
        points0 - np.array([camera0.width, camera0.height]) / 2,
        points1 - np.array([camera1.width, camera1.height]) / 2,
    )


def _focals(camera0: Any, camera1: Any) -> list[tuple[float, float]]:
    """Focal lengths in pixels that the two cameras may have."""
    cameras = (camera0, camera1)
    if all(camera.has_prior_focal_length for camera in cameras):
        first, second = (camera.mean_focal_length() for camera in cameras)
        return [(factor * first, factor * second) for factor in NEAR]
    first, second = (max(camera.width, camera.height) for camera in cameras)
    return [(factor * first, factor * second) for factor in FOCALS]


def model_depth(model: Any, pairs: PairDepths) -> tuple[Depth, list[NamePair], int]:
    """Returns what a `pycolmap.Reconstruction` is, its pairs without depth, and how many it has."""
    images = {model.images[image].name for image in model.reg_image_ids()}
    inside = sum(pair[0] in images and pair[1] in images for pair in pairs.judged)
    without = [pair for pair in pairs.without if pair[0] in images and pair[1] in images]
    points = np.array([point.xyz for point in model.points3D.values()]).reshape(-1, 3)
    if len(points) < FEWEST_POINTS or (without and len(without) >= MOST_WITHOUT * inside):
        return Depth.NONE, without, inside
    return (Depth.PLANE if _is_plane(points) else Depth.SCENE), without, inside


def depth_notes(models: Sequence[Any], pairs: PairDepths) -> list[str]:
    """Sentences on models without depth and on planes; and on the pairs where there is no model."""
    notes = []
    for number, model in enumerate(models):
        kind, without, inside = model_depth(model, pairs)
        if len(pairs.without) >= MOST_WITHOUT * len(pairs.judged):  # also outside of the model
            without, inside = pairs.without, len(pairs.judged)
        if kind is Depth.NONE and without:
            notes.append(f"model {number} has no depth: {_same_place(without, inside)}")
        elif kind is Depth.NONE:
            notes.append(
                f"model {number} has no depth: it has {model.num_points3D()} points; take "
                "photographs from more and different places."
            )
        elif kind is Depth.PLANE:
            notes.append(
                f"model {number} is a plane: its points lie on one, and a plane tells little of "
                "the focal length; check it, or give a known camera by --intrinsics."
            )
    if not models and pairs.without:
        notes.append(_same_place(pairs.without, len(pairs.judged)))
    return notes


def _same_place(without: Sequence[NamePair], of: int) -> str:
    shown = listed([f"{first} – {second}" for first, second in without])
    return (
        f"the camera only turned, or the images are parts of one photograph, in {len(without)} of "
        f"{of} verified pairs ({shown}); take photographs from different places."
    )


def listed(names: Collection[str], shown: int = SHOWN) -> str:
    """The first names, and a sign that there are more."""
    first: Iterable[str] = list(names)[:shown]
    return ", ".join([*first, *(["…"] if len(names) > shown else [])])


def _is_plane(points: np.ndarray) -> bool:
    """Whether most of the points (N, 3) lie on one plane."""
    middle = np.median(points, axis=0)
    far = np.linalg.norm(points - middle, axis=1)
    near = points[far <= np.quantile(far, 0.9)] - middle  # single points are often far off
    *_, axes = np.linalg.svd(near - near.mean(axis=0), full_matrices=False)
    off = np.abs((near - near.mean(axis=0)) @ axes[2])
    return bool(np.median(off) < FLAT * np.median(far))
