"""What is wrong with positions that do not fit a model: the faults that people and cameras make.

Each fault is undone by a change of latitude, longitude and altitude. Where the positions fit once
the change is made, the fault has a name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from pipeline.events import counted
from pipeline.pairs.poses.frame import LocalFrame, local_frame
from pipeline.pairs.spatial import on_earth
from pipeline.reconstruct.depth import listed
from pipeline.reconstruct.positions.fit import CLEARLY_OFF, Anchors, Fit
from pipeline.reconstruct.tracks.scene import ModelViews

IMAGES_NAMED = 10  # images that a note names
# Of what positions are off: a change that leaves less than so much of it names the fault.
CLEARLY_BETTER = 0.7
# Metres over the sea or the ellipsoid of nearly all land, at least.
LOW = -110.0
# Of a camera's own upright and its direction, up: a model where it is more stands on its head.
HEADLONG = 0.2

Undone = Callable[[np.ndarray], np.ndarray]
FAULTS: dict[str, Undone] = {
    "latitude and longitude are swapped": lambda degrees: degrees[:, [1, 0, 2]],
    "the longitude has the wrong sign, east for west": lambda degrees: degrees * [1, -1, 1],
    "the latitude has the wrong sign, north for south": lambda degrees: degrees * [-1, 1, 1],
    "the altitude has the wrong sign, below for above sea level": lambda degrees: (
        degrees * [1, 1, -1]
    ),
}


def fault_of_all(anchors: Anchors, frame: LocalFrame, views: ModelViews) -> str | None:
    """The fault of a whole table: the positions fit the model clearly better without it.

    A flat model fits the mirror image of its positions, but upside down; that counts, too, unless
    the positions are a table's own metres, whose z may point anywhere.
    """
    upright = frame.origin is not None
    given, best, name = _badness(anchors, views, upright), np.inf, None
    for fault, places in _undone(anchors.places, frame):
        badness = _badness(replace(anchors, places=places), views, upright)
        if badness < best:
            best, name = badness, fault
    return name if best < CLEARLY_BETTER * given else None


def _undone(places: np.ndarray, frame: LocalFrame) -> Iterator[tuple[str, np.ndarray]]:
    """Every fault of places (n, 3), and these without it."""
    if frame.origin is None:
        yield "x and y are swapped", places[:, [1, 0, 2]]
        return
    degrees = frame.degrees(places)
    for fault, change in FAULTS.items():
        changed = change(degrees)
        if np.abs(changed[:, 0]).max() <= 90:
            yield fault, local_frame(on_earth(changed, height=True), True, frame.table)[0]


def _badness(anchors: Anchors, views: ModelViews, upright: bool) -> float:
    """Metres that positions are off, infinite where the model does not fit.

    upright: infinite as well where the model is upside down.
    """
    fit = anchors.fit()
    if isinstance(fit, str) or (upright and upside_down(fit.move.rotation, views)):
        return np.inf
    return fit.error


def upside_down(rotation: np.ndarray, views: ModelViews) -> bool:
    """Whether most cameras look up or stand on their heads once the model is turned (3, 3)."""
    axes = views.rotation[:, 1] + views.rotation[:, 2]  # down and ahead of a camera
    return bool(np.median((axes @ rotation.T)[:, 2]) > HEADLONG)


def causes(anchors: Anchors, frame: LocalFrame, fit: Fit) -> list[str]:
    """Sentences on positions that are clearly off: which they are, and why where a fault explains.

    Positions that are all off by one height have another reference than the others.
    """
    wrong = np.array(sorted(np.flatnonzero(fit.wrong).tolist(), key=lambda row: -fit.off[row]))
    if not len(wrong):
        return []
    model = fit.move(anchors.centres[wrong])
    limit = CLEARLY_OFF * fit.error
    found: list[str | None] = [None] * len(wrong)
    if frame.origin is not None:
        degrees = frame.degrees(anchors.places[wrong])
        for fault, change in FAULTS.items():
            changed = change(degrees)
            good = np.abs(changed[:, 0]) <= 90
            places = frame.places(on_earth(np.where(good[:, None], changed, degrees), height=True))
            good &= np.linalg.norm(places - model, axis=1) <= limit
            found = [
                fault if fits and why is None else why
                for fits, why in zip(good, found, strict=True)
            ]
    sentences = _heights(anchors, wrong, model, limit, found)
    for fault in FAULTS:
        rows = [row for row, why in zip(wrong.tolist(), found, strict=True) if why == fault]
        if rows:
            images = counted(len(rows), "image")
            sentences.append(f"of {images} {fault}: {_named(anchors, fit, rows)}")
    return sentences


def _heights(
    anchors: Anchors, wrong: np.ndarray, model: np.ndarray, limit: float, found: list[str | None]
) -> list[str]:
    """A sentence on positions that are right but for one height by which all are off."""
    apart = anchors.places[wrong] - model
    level = np.linalg.norm(apart[:, :2], axis=1) <= limit
    level &= np.array([why is None for why in found])
    if level.sum() < 2:
        return []
    height = float(np.median(apart[level, 2]))
    same = level & (np.abs(apart[:, 2] - height) <= limit)
    if same.sum() < max(2, level.sum() / 2):
        return []
    names = listed([anchors.names[row] for row in wrong[same].tolist()], IMAGES_NAMED)
    return [
        f"the altitudes of {counted(int(same.sum()), 'image')} are {abs(height):.1f} m "
        f"{'above' if height > 0 else 'below'} the others: they are of another reference, as the "
        f"ellipsoid in place of the sea: {names}"
    ]


def _named(anchors: Anchors, fit: Fit, rows: list[int]) -> str:
    return listed([f"{anchors.names[row]} ({fit.off[row]:.2f} m)" for row in rows], IMAGES_NAMED)


def low_altitudes(anchors: Anchors, frame: LocalFrame) -> list[str]:
    """A sentence where a camera flew lower than nearly all land lies."""
    if frame.origin is None or frame.origin[2] > LOW:
        return []
    return [
        f"the altitudes are {frame.origin[2]:.0f} m in the median, lower than nearly all land: "
        "check their sign, or GPSAltitudeRef"
    ]
