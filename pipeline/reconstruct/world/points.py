"""Where a model has control points: triangulated from their marks, some of which are wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from pipeline.reconstruct.tracks.scene import ModelViews
from pipeline.reconstruct.world.control import ControlPoints, Mark

# Of the longer side of a photograph: what a mark may be off. It is 8 px of 1,600.
MARK_ERROR = 0.005
BEHIND = 1e6  # pixels that a mark is off whose point is behind its camera


@dataclass(frozen=True)
class SeenPoint:
    """A control point in the world of a model.

    row: of the control points. place: (3,). marks: that agree on it. off: pixels, of each.
    """

    row: int
    place: np.ndarray
    marks: list[Mark]
    off: np.ndarray


@dataclass(frozen=True)
class ProjectingView:
    """What projects into one image. scale: pixels that a mark may be off."""

    camera: Any
    rotation: np.ndarray
    shift: np.ndarray
    scale: float

    def off(self, place: np.ndarray, xy: Sequence[float]) -> np.ndarray:
        """Pixels (2,) from a mark to where a place (3,) of the model is seen."""
        local = self.rotation @ place + self.shift
        if local[2] <= 0:
            return np.full(2, BEHIND)
        seen = np.asarray(self.camera.img_from_cam(local[None]), float).reshape(2)
        return np.where(np.isfinite(seen), seen - np.asarray(xy), BEHIND)


def views_by_name(views: ModelViews) -> dict[str, ProjectingView]:
    """The registered images of a model; for COLMAP's process."""
    made = {number: camera.made(number) for number, camera in views.cameras.items()}
    found = {}
    for row, name in enumerate(views.names):
        camera = made[int(views.camera[row])]
        side = max(camera.width, camera.height)
        pose = views.rotation[row], views.shift[row]
        found[name] = ProjectingView(camera, *pose, MARK_ERROR * side)
    return found


def seen_points(
    control: ControlPoints, views: dict[str, ProjectingView]
) -> tuple[list[SeenPoint], list[str]]:
    """Control points that two registered images show, and sentences on marks that do not count."""
    found, notes = [], []
    elsewhere = [mark for mark in control.marks if mark.image not in views]
    if elsewhere:
        images = sorted({mark.image for mark in elsewhere})
        notes.append(
            f"{len(elsewhere)} of {len(control.marks)} marks left out, in images that the model "
            f"lacks, as {images[0]}"
        )
    for row, name in enumerate(control.names):
        marks = [mark for mark in control.marks if mark.point == name and mark.image in views]
        outside = [mark for mark in marks if not _inside(views[mark.image].camera, mark)]
        notes += [
            f"the mark of {name} at {mark.xy[0]:g}, {mark.xy[1]:g} lies outside of {mark.image}, "
            f"which has {views[mark.image].camera.width}×{views[mark.image].camera.height} px"
            for mark in outside
        ]
        marks = [mark for mark in marks if mark not in outside]
        if len(marks) < 2:
            notes.append(
                f"{name} left out: {len(marks)} of its marks can be used, and 2 are needed"
            )
            continue
        place = triangulated(marks, views)
        if place is None:
            notes.append(f"{name} left out: its marks agree on no point of the model")
            continue
        off = marks_off(place, marks, views)
        good = off <= [views[mark.image].scale for mark in marks]
        kept = [mark for mark, right in zip(marks, good, strict=True) if right]
        notes += [
            f"the mark of {name} in {mark.image} is wrong: it is {pixels:.0f} px from where the "
            "others see the point"
            for mark, pixels, right in zip(marks, off, good, strict=True)
            if not right
        ]
        found.append(SeenPoint(row, place, kept, off[good]))
    return found, notes


def _inside(camera: Any, mark: Mark) -> bool:
    return bool(0 <= mark.xy[0] <= camera.width and 0 <= mark.xy[1] <= camera.height)


def marks_off(
    place: np.ndarray, marks: Sequence[Mark], views: dict[str, ProjectingView]
) -> np.ndarray:
    """Pixels between marks and a place (3,) of the model: (n,)."""
    return np.array([np.hypot(*views[mark.image].off(place, mark.xy)) for mark in marks])


def triangulated(marks: Sequence[Mark], views: dict[str, ProjectingView]) -> np.ndarray | None:
    """The place (3,) that most marks agree on, and of these with the least squares of pixels.

    Two marks begin. None where no two agree.
    """
    best, fewest = None, np.inf
    limits = np.array([views[mark.image].scale for mark in marks])
    for pair in combinations(marks, 2):
        place = _least_squares(pair, views)
        if place is None:
            continue
        shares = marks_off(place, marks, views) / limits
        cost = float(np.minimum(shares, 1.0).sum())
        if cost < fewest and (shares <= 1).sum() >= 2:
            best, fewest = shares <= 1, cost
    if best is None:
        return None
    return _least_squares([mark for mark, good in zip(marks, best, strict=True) if good], views)


def _least_squares(marks: Sequence[Mark], views: dict[str, ProjectingView]) -> np.ndarray | None:
    """The place (3,) whose projections are nearest to the marks, None where rays are parallel."""
    normal, right = np.zeros((3, 3)), np.zeros(3)
    for mark in marks:
        view = views[mark.image]
        ray = np.array([*np.asarray(view.camera.cam_from_img(np.array([mark.xy]))).ravel(), 1.0])
        way = view.rotation.T @ (ray / np.linalg.norm(ray))
        across = np.eye(3) - np.outer(way, way)
        normal += across
        right += across @ (-view.rotation.T @ view.shift)
    if not np.isfinite(normal).all() or np.linalg.cond(normal) > 1 / np.finfo(float).eps ** 0.5:
        return None
    start = np.linalg.solve(normal, right)

    def off(place: np.ndarray) -> np.ndarray:
        return np.concatenate([views[mark.image].off(place, mark.xy) for mark in marks])

    if np.abs(off(start)).max() >= BEHIND:
        return None
    found: np.ndarray = least_squares(off, start, x_scale="jac", method="lm").x
    return found
