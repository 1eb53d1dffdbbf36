"""A model brought to ground control points: each is judged by the others as well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.errors import ReconstructionError
from pipeline.events import counted
from pipeline.pairs.poses.frame import LocalFrame, local_frame
from pipeline.pairs.spatial import on_earth
from pipeline.reconstruct.positions.faults import fault_of_all, upside_down
from pipeline.reconstruct.positions.fit import FEWEST_POSITIONS, Anchors, Fit
from pipeline.reconstruct.tracks.scene import ModelViews
from pipeline.reconstruct.world.control import ControlPoints
from pipeline.reconstruct.world.points import SeenPoint, marks_off, seen_points, views_by_name

# Of the distance between points. Marks say which scene it is, and points taken by a hand-held
# receiver err by metres.
MISPLACED = 0.25
NARROW = 1.0  # times the error, by which points lie beside one line; each left out tells the rest
LEAST_ERROR = 0.01  # metres, of control points whose error nobody tells
SHOWN_POINTS = 20  # points that notes tell of; `world.json` has all
# Times the median of all marks, from which a mark is clearly off the place of its point.
FAR_OFF = 5.0


@dataclass(frozen=True)
class GroundPoint:
    """How a control point fits.

    off: metres. across, above: of them over the ground, and by which the model is above it. out:
    metres where it is left out and the others place the model, None where too few are left. others:
    the median of what the others are off then. marks: that count. pixels: root mean square
    by which the marks are off the place of the model.
    """

    name: str
    off: float
    across: float
    above: float
    out: float | None
    others: float | None
    marks: int
    pixels: float
    wrong: bool

    def text(self) -> str:
        """A line for a person."""
        out = "" if self.out is None else f", {self.out:.3f} m where it is left out"
        return (
            f"{self.name}: {self.off:.3f} m off ({self.across:.3f} across, {self.above:+.3f} up)"
            f"{out}, {self.marks} marks, {self.pixels:.2f} px{', wrong' if self.wrong else ''}"
        )


@dataclass(frozen=True)
class Grounded:
    """A model placed by control points. fit: from the model to local metres of the frame."""

    fit: Fit
    frame: LocalFrame
    points: list[GroundPoint]
    notes: list[str]

    def record(self) -> dict[str, Any]:
        """What the fit came to, for a file."""
        out = [point.out for point in self.points if point.out is not None]
        return {
            "points": [vars(point) for point in self.points],
            "error": self.fit.error,
            "median": float(np.median(self.fit.off)),
            "largest": float(self.fit.off.max()),
            "left_out_median": float(np.median(out)) if out else None,
        }


def grounded(views: ModelViews, control: ControlPoints, error: float | None) -> Grounded:
    """How a model is brought to control points; for COLMAP's process.

    error: metres by which a coordinate of them errs, 1 sigma; None: what they are off tells it.

    Raises ReconstructionError where fewer than three are seen, where they lie on one line, and
    where half of them do not fit.
    """
    by_name = views_by_name(views)
    seen, notes = seen_points(control, by_name)
    if len(seen) < FEWEST_POSITIONS:
        why = f" ({notes[-1]})" if notes else ""
        raise ReconstructionError(
            f"{control.shown}: {counted(len(seen), 'control point')} can be seen in the model, and "
            f"{FEWEST_POSITIONS} are needed{why}; mark each in two registered images at least."
        )
    rows = [point.row for point in seen]
    places, frame = _framed(control, rows)
    names = [control.names[row] for row in rows]
    anchors = Anchors(
        *(names, np.array([point.place for point in seen]), places, error or LEAST_ERROR),
        told=error is not None,
        kind="control points",
        misfit=MISPLACED,
        least_width=NARROW,
    )
    fit = anchors.fit()
    if isinstance(fit, str):
        fault = fault_of_all(anchors, frame, views)
        because = f", as {fault}" if fault else ""
        raise ReconstructionError(
            f"{control.shown}: {fit}{because}; check the coordinates, their columns and the system."
        )
    points = [_judged(anchors, fit, row, point) for row, point in enumerate(seen)]
    if upside_down(fit.move.rotation, views):
        fault = fault_of_all(anchors, frame, views)
        notes.append(
            "by the control points most cameras look up or stand on their heads"
            f"{f', as {fault}' if fault else ''}; if their z points up, check the order and the "
            "signs of the columns, and align the model again"
        )
    notes += _told(points, fit)
    notes += _wrong_marks(seen, anchors, fit, by_name)
    return Grounded(fit, frame, points, notes)


def _framed(control: ControlPoints, rows: Sequence[int]) -> tuple[np.ndarray, LocalFrame]:
    coordinates = control.coordinates[rows]
    if control.system is None:
        return local_frame(coordinates, False, control.shown)
    degrees = control.system.to_degrees(coordinates)
    return local_frame(on_earth(degrees, height=True), True, control.shown)


def _judged(anchors: Anchors, fit: Fit, row: int, point: SeenPoint) -> GroundPoint:
    apart = fit.move(anchors.centres[row][None])[0] - anchors.places[row]
    out, others = _left_out(anchors, row)
    return GroundPoint(
        name=anchors.names[row],
        off=float(fit.off[row]),
        across=float(np.hypot(*apart[:2])),
        above=float(apart[2]),
        out=out,
        others=others,
        marks=len(point.marks),
        pixels=float(np.sqrt((point.off**2).mean())),
        wrong=bool(fit.wrong[row]),
    )


def _left_out(anchors: Anchors, row: int) -> tuple[float | None, float | None]:
    """Metres by which a point is off where the others place the model, and they in the median."""
    kept = np.arange(len(anchors.names)) != row
    names = [name for k, name in enumerate(anchors.names) if k != row]
    rest = replace(anchors, names=names, centres=anchors.centres[kept], places=anchors.places[kept])
    fit = rest.fit(FEWEST_POSITIONS + 1)
    if isinstance(fit, str):
        return None, None
    off = fit.move(anchors.centres[row][None])[0] - anchors.places[row]
    return float(np.linalg.norm(off)), float(np.median(fit.off))


def _told(points: Sequence[GroundPoint], fit: Fit) -> list[str]:
    out = [point.out for point in points if point.out is not None]
    others = [point.others for point in points if point.others is not None]
    judged = (
        f"; each left out in turn, {np.median(out):.3f} m in the median, and the others "
        f"{np.median(others):.3f} m"
        if out
        else ""
    )
    notes = [
        f"the model is in metres by {counted(len(points), 'control point')}, "
        f"{np.median(fit.off):.3f} m off in the median and {fit.off.max():.3f} m at most{judged}; "
        f"one of its units was {fit.move.scale:.6g} m"
    ]
    wrong = [f"{point.name} ({point.off:.2f} m)" for point in points if point.wrong]
    if wrong:
        notes.append(
            f"{counted(len(wrong), 'control point')} clearly off, which does not count: "
            f"{', '.join(wrong)}; check its coordinates and its marks"
        )
    notes += [point.text() for point in points[:SHOWN_POINTS]]
    return notes


def _wrong_marks(
    seen: Sequence[SeenPoint], anchors: Anchors, fit: Fit, by_name: dict[str, Any]
) -> list[str]:
    """Sentences on marks that are far from where the place of their point is seen.

    Two marks, or marks that are off along one line, may agree on a wrong point of the model.
    """
    back = fit.move.inverse()
    off = [
        marks_off(back(place[None])[0], point.marks, by_name)
        for place, point in zip(anchors.places, seen, strict=True)
    ]
    limit = FAR_OFF * float(np.median(np.concatenate(off)))
    notes = []
    for point, pixels, wrong in zip(seen, off, fit.wrong, strict=True):
        if wrong and len(pixels) > 1 and pixels.min() <= limit < pixels.max():
            mark = point.marks[int(pixels.argmax())]
            notes.append(
                f"the mark of {mark.point} in {mark.image} is likely wrong: it is "
                f"{pixels.max():.0f} px from where the coordinates of the point are seen"
            )
    return notes
