"""Models of images in common as one model.

The next model is brought onto what is merged so far, by the points of their common images, or by
the centres of these images where few points are common. Its other images and its observations are
added. An image of both stays where the first model has it, with the first model's camera.

Keypoints of an image are the same in two models where they lie at the same place. Two points that
share one, and lie at the same place, become one with the observations of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from pipeline.reconstruct.joining.piece import SAME, robust_similarity
from pipeline.reconstruct.models.align import (
    aligned_by_centres,
    check_common,
    common_rows,
    moved_poses,
)
from pipeline.reconstruct.models.files import MadeModel, ModelFiles
from pipeline.reconstruct.positions.fit import FEWEST_POSITIONS
from pipeline.reconstruct.similarity import Similarity
from pipeline.reconstruct.tracks.scene import ModelViews, made_model, rows_of_groups

SAME_KEYPOINT = 0.01  # pixels between two keypoints that are the same
# Points in common, and the share of them that agrees, with which points align better than centres.
LEAST_POINTS, LEAST_AGREEING = 50, 0.5


@dataclass(frozen=True)
class TrackedModel:
    """V views, P points, O observations and all keypoints of a model.

    keypoints: of each view, (K, 2) pixels. xyz: (P, 3). colour: (P, 3) uint8. point, view,
    keypoint: (O,) rows, sorted by point.
    """

    views: ModelViews
    keypoints: list[np.ndarray]
    xyz: np.ndarray
    colour: np.ndarray
    point: np.ndarray
    view: np.ndarray
    keypoint: np.ndarray

    @classmethod
    def of(cls, model: Any) -> TrackedModel:
        """The arrays of a `pycolmap.Reconstruction`."""
        views = ModelViews.of(model)
        points = [model.points3D[number] for number in sorted(model.point3D_ids())]
        tracks = [point.track.elements for point in points]
        elements = [(e.image_id, e.point2D_idx) for track in tracks for e in track]
        image, keypoint = np.array(elements, np.int64).reshape(-1, 2).T
        return cls(
            views,
            [
                np.array([p.xy for p in model.images[number].points2D]).reshape(-1, 2)
                for number in views.numbers.tolist()
            ],
            np.array([point.xyz for point in points]).reshape(-1, 3),
            np.array([point.color for point in points], np.uint8).reshape(-1, 3),
            np.repeat(np.arange(len(points)), [len(track) for track in tracks]),
            np.searchsorted(views.numbers, image),
            keypoint,
        )

    def made(self) -> Any:
        """The same as a `pycolmap.Reconstruction`: every image is a frame of its own."""
        return made_model(
            *(self.views, self.keypoints, self.xyz, self.colour),
            *(self.point, self.view, self.keypoint),
        )

    def distance(self) -> np.ndarray:
        """From each point to the nearest camera that sees it: (P,)."""
        far = np.linalg.norm(self.views.centres()[self.view] - self.xyz[self.point], axis=1)
        nearest = np.full(len(self.xyz), np.inf)
        np.minimum.at(nearest, self.point, far)
        return nearest


def merged(models: Sequence[Any], files: Sequence[ModelFiles]) -> MadeModel:
    """One `pycolmap.Reconstruction` of several; for COLMAP's process.

    It begins with the first, and goes on with those that have enough images in common with what is
    merged. Images keep the numbers of the first model that has them, where these are free.

    Returns it and sentences on each. Raises ReconstructionError where a model has too few images in
    common with all others.
    """
    made = TrackedModel.of(models[0])
    waiting = [
        (TrackedModel.of(model), one) for model, one in zip(models[1:], files[1:], strict=True)
    ]
    notes: list[str] = []
    shown = files[0].shown if len(files) == 2 else "what is merged before it"
    while waiting:
        counts = [len(common_rows(made.views, model.views)[0]) for model, _ in waiting]
        # The next of the list that fits, so that the order of the arguments decides.
        chosen = next(
            (row for row, count in enumerate(counts) if count >= FEWEST_POSITIONS),
            int(np.argmax(counts)),
        )
        model, one = waiting.pop(chosen)
        check_common(counts[chosen], one.shown, shown)
        made, note = _with(made, model, one.shown, shown)
        notes.append(note)
    return MadeModel(made.made(), notes, files[0].world())


class Placing(NamedTuple):
    """Where views and keypoints of the second model are in both models together.

    view: (V,) rows. places: of each view, (K,) rows of its keypoints. keypoints: of all views of
    both. mine, theirs: rows (n,) of the views that both have.
    """

    view: np.ndarray
    places: list[np.ndarray]
    keypoints: list[np.ndarray]
    mine: np.ndarray
    theirs: np.ndarray


def _with(
    first: TrackedModel, second: TrackedModel, shown: str, other: str
) -> tuple[TrackedModel, str]:
    """The first model with what the second adds, and a sentence on it."""
    placing = _placing(first, second)
    view = placing.view[second.view]
    keypoint = np.empty(len(view), np.int64)
    for row, mine in enumerate(rows_of_groups(second.view, len(second.views))):
        keypoint[mine] = placing.places[row][second.keypoint[mine]]
    owner = _owners(first, view, keypoint)
    shared = owner >= 0
    couples = np.stack([owner[shared], second.point[shared]], axis=1)
    couples = np.unique(couples, axis=0).reshape(-1, 2)
    distance = first.distance()[couples[:, 0]]
    move, how = _similarity(first, second, (couples, distance), (shown, other))

    # A point becomes one with the first of those that it shares a keypoint with.
    xyz, count = move(second.xyz), len(first.xyz)
    apart = np.linalg.norm(first.xyz[couples[:, 0]] - xyz[couples[:, 1]], axis=1)
    near = couples[apart < SAME * distance]
    united, which = np.unique(near[:, 1], return_index=True)
    target = count + np.arange(len(xyz))
    target[united] = near[which, 0]

    point = np.concatenate([first.point, target[second.point[~shared]]])
    view = np.concatenate([first.view, view[~shared]])
    keypoint = np.concatenate([first.keypoint, keypoint[~shared]])
    # An image sees a point once, where the first model has it.
    _, once = np.unique(np.stack([point, view], axis=1), axis=0, return_index=True)
    doubled = len(point) - len(once)
    lengths = np.bincount(point[once], minlength=count + len(xyz))
    once = once[lengths[point[once]] >= 2]
    used, rows = np.unique(point[once], return_inverse=True)
    made = TrackedModel(
        _joined_views(first.views, second.views, placing, move),
        placing.keypoints,
        np.concatenate([_united(first, second, xyz, target), xyz])[used],
        np.concatenate([first.colour, second.colour])[used],
        rows,
        view[once],
        keypoint[once],
    )
    added = len(second.views) - len(placing.theirs)
    return made, (
        f"{shown}: {len(placing.mine)} images in common, aligned by {how}; {added} images and "
        f"{int((used >= count).sum())} points added, {len(united)} points united"
        + (f", {doubled} observations left out: an image sees a point once" if doubled else "")
    )


def _placing(first: TrackedModel, second: TrackedModel) -> Placing:
    """Keypoints of common images are looked up by their places, and added where there are none."""
    mine, theirs = common_rows(first.views, second.views)
    view = np.full(len(second.views), -1)
    view[theirs] = mine
    new = np.flatnonzero(view < 0)
    view[new] = len(first.views) + np.arange(len(new))
    keypoints = [*first.keypoints, *(second.keypoints[row] for row in new)]
    places = [np.arange(len(xy)) for xy in second.keypoints]
    for row, own in zip(theirs.tolist(), mine.tolist(), strict=True):
        old, xy = first.keypoints[own], second.keypoints[row]
        if old.shape == xy.shape and (np.abs(old - xy) < SAME_KEYPOINT).all():
            continue
        found = np.full(len(xy), len(old))
        if len(old) and len(xy):
            _, found = cKDTree(old).query(xy, distance_upper_bound=SAME_KEYPOINT)
        unknown = np.flatnonzero(found == len(old))
        found[unknown] = len(old) + np.arange(len(unknown))
        places[row] = found
        keypoints[own] = np.concatenate([old, xy[unknown]])
    return Placing(view, places, keypoints, mine, theirs)


def _owners(first: TrackedModel, view: np.ndarray, keypoint: np.ndarray) -> np.ndarray:
    """The points (n,) of the first model that have these observations, −1 where none has."""
    key = first.view << 32 | first.keypoint
    order = np.argsort(key)
    key, wanted = key[order], view << 32 | keypoint
    if not len(key):
        return np.full(len(wanted), -1)
    rows = np.searchsorted(key, wanted).clip(max=len(key) - 1)
    return np.where(key[rows] == wanted, first.point[order[rows]], -1)


def _similarity(
    first: TrackedModel,
    second: TrackedModel,
    common: tuple[np.ndarray, np.ndarray],
    shown: tuple[str, str],
) -> tuple[Similarity, str]:
    """What brings the second model onto the first, and by what it was found.

    common: couples (n, 2) of points with a keypoint in common, and their distances (n,) from the
    cameras.
    """
    couples, distance = common
    if len(couples) >= LEAST_POINTS:
        source, target = second.xyz[couples[:, 1]], first.xyz[couples[:, 0]]
        move, good = robust_similarity(source, target, distance)
        if good.mean() >= LEAST_AGREEING:
            return move, f"{int(good.sum())} of {len(good)} points"
    move, _, _ = aligned_by_centres(second.views, first.views, *shown)
    return move, "the centres of their cameras"


def _united(
    first: TrackedModel, second: TrackedModel, xyz: np.ndarray, target: np.ndarray
) -> np.ndarray:
    """The first model's points (P, 3), with those that join them: means by observations."""
    weight = np.bincount(first.point, minlength=len(first.xyz)).astype(np.float64)
    total = weight[:, None] * first.xyz
    joins = target < len(first.xyz)
    own = np.bincount(second.point, minlength=len(xyz))[joins].astype(np.float64)
    np.add.at(weight, target[joins], own)
    np.add.at(total, target[joins], own[:, None] * xyz[joins])
    united: np.ndarray = total / np.maximum(weight, 1)[:, None]
    return united


def _joined_views(
    first: ModelViews, second: ModelViews, placing: Placing, move: Similarity
) -> ModelViews:
    """The first model's views, and those that the second adds.

    A camera of the second is that of the first which took a common image, if both are equal.
    """
    cameras, same = dict(first.cameras), {}
    for own, row in zip(placing.mine.tolist(), placing.theirs.tolist(), strict=True):
        if first.camera_of(own) == second.camera_of(row):
            same[int(second.camera[row])] = int(first.camera[own])
    new = np.flatnonzero(placing.view >= len(first))
    for number in sorted({*second.camera[new].tolist()} - same.keys()):
        same[number] = number if number not in cameras else max(cameras) + 1
        cameras[same[number]] = second.cameras[number]
    numbers = first.numbers.tolist()
    taken = {*numbers}
    for number in second.numbers[new].tolist():
        numbers.append(number if number not in taken else max(taken) + 1)
        taken.add(numbers[-1])
    rotation, shift = moved_poses(second.rotation[new], second.shift[new], move)
    return ModelViews(
        [*first.names, *(second.names[row] for row in new)],
        np.array(numbers, np.int64),
        np.concatenate([first.camera, [same[number] for number in second.camera[new].tolist()]]),
        np.concatenate([first.rotation, rotation]),
        np.concatenate([first.shift, shift]),
        {number: cameras[number] for number in sorted(cameras)},
    )
