"""Which way is up in a model, and where north is, by the angles that photographs hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from pipeline.photos.direction import Attitude
from pipeline.photos.exif import Capture
from pipeline.photos.headings import UPRIGHT, read_headers
from pipeline.photos.panoramas.source import FaceFolder
from pipeline.reconstruct.depth import listed
from pipeline.reconstruct.similarity import Similarity
from pipeline.reconstruct.tracks.scene import ModelViews
from pipeline.store.folder import Folder

FEWEST = 3  # photographs that tell which way is up
AGREE = 20.0  # degrees within which most of them have to agree
ALONG = 15.0  # degrees by which a heading may be off
FAR_SHOWN = 5


@dataclass(frozen=True)
class Priors:
    """What the photographs of a model's views tell, in the order of the views.

    up: (V, 3) in the axes of the cameras, NaN where they do not tell. heading: (V,) of the top of
    the stored picture, degrees clockwise from north, NaN where unknown. top: (V, 3) which way the
    top of the picture points in the axes of the camera, by its EXIF orientation. notes: sentences
    on what the altitudes are counted from.
    """

    up: np.ndarray
    heading: np.ndarray
    top: np.ndarray
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, views: ModelViews, photographs: Folder | FaceFolder | None) -> Priors:
        """Read the headers of the photographs. Without these, nothing is told."""
        count = len(views)
        captures, attitudes = [Capture()] * count, [Attitude()] * count
        if photographs is not None:
            captures, attitudes = read_headers(photographs, views.names)
        nothing = (np.nan, np.nan, np.nan)
        up = np.array([one.up or nothing for one in attitudes], float).reshape(-1, 3)
        heading = [
            one.aircraft if np.isnan(one.camera) else one.camera for one in attitudes
        ]  # both NaN where the camera does not look down
        turns = np.radians([UPRIGHT.get(one.orientation, 0) for one in captures])
        top = np.stack([-np.sin(turns), -np.cos(turns), np.zeros(count)], axis=1)
        return cls(up, np.array(heading, float), top, _altitudes(attitudes))


def _altitudes(attitudes: Sequence[Attitude]) -> list[str]:
    """A sentence where XMP tells both altitudes: EXIF's may be either, and does not say so."""
    apart = [one.sea - one.ellipsoid for one in attitudes if np.isfinite(one.sea - one.ellipsoid)]
    if not apart:
        return []
    return [
        f"altitudes over the sea are {np.median(apart):.2f} m above those over the ellipsoid in "
        f"the median of {len(apart)} photographs by XMP, {min(apart):.2f} to {max(apart):.2f} m; "
        "EXIF does not say which it holds"
    ]


@dataclass(frozen=True)
class Up:
    """A direction (3,) of the world of a model that is up; and a sentence on what tells it."""

    direction: np.ndarray
    text: str


def up_by_angles(views: ModelViews, priors: Priors) -> Up | str:
    """Up by the pitch and roll that photographs hold, or why they do not tell it."""
    rows = np.flatnonzero(np.isfinite(priors.up).all(axis=1))
    if len(rows) < FEWEST:
        return (
            f"{len(rows)} of {len(views)} photographs hold the pitch and roll of their camera, and "
            f"{FEWEST} are needed"
        )
    ways = np.einsum("nji,nj->ni", views.rotation[rows], priors.up[rows])
    direction = middle_direction(ways)
    off = angles(ways, direction)
    if np.median(off) > AGREE:
        return (
            f"the pitch and roll of {len(rows)} photographs do not agree with the model: half of "
            f"them are more than {np.median(off):.0f}° off"
        )
    text = (
        f"up by the pitch and roll of {len(rows)} photographs, which are {np.median(off):.2f}° off "
        f"in the median and {off.max():.2f}° at most"
    )
    return Up(direction, text)


def middle_direction(ways: np.ndarray) -> np.ndarray:
    """The unit vector (3,) nearest to most unit vectors (n, 3): their geometric median."""
    middle = ways.mean(axis=0)
    for _ in range(50):
        weight = 1 / np.maximum(np.linalg.norm(ways - middle, axis=1), 1e-6)
        middle = (ways * weight[:, None]).sum(axis=0) / weight.sum()
    found: np.ndarray = middle / max(np.linalg.norm(middle), 1e-300)
    return found


def angles(ways: np.ndarray, way: np.ndarray) -> np.ndarray:
    """Degrees between unit vectors (n, 3) and one (3,): (n,)."""
    across = np.linalg.norm(np.cross(ways, way), axis=1)
    found: np.ndarray = np.degrees(np.arctan2(across, ways @ way))
    return found


def cameras_up(views: ModelViews, priors: Priors) -> np.ndarray | None:
    """Roughly up (3,): photographs are held upright, or look down from different sides.

    None where neither can be.
    """
    tops = np.einsum("nji,nj->ni", views.rotation, priors.top).mean(axis=0)
    back = -views.rotation[:, 2].mean(axis=0)
    found = next((way for way in (tops, back) if np.linalg.norm(way) >= 0.5), None)
    return None if found is None else found / np.linalg.norm(found)


def turned_to(up: np.ndarray, ahead: np.ndarray | None = None) -> Similarity:
    """The turn after which `up` (3,) points along z, and `ahead` (3,) along y as far as it can."""
    up = up / np.linalg.norm(up)
    if ahead is None:  # the least turn
        ahead = Rotation.align_vectors([[0.0, 0, 1]], [up])[0].inv().apply([0.0, 1, 0])
    ahead = ahead - up * (up @ ahead)
    ahead /= np.linalg.norm(ahead)
    return Similarity(1.0, np.stack([np.cross(ahead, up), ahead, up]), np.zeros(3))


def headings_off(rotation: np.ndarray, views: ModelViews, priors: Priors) -> np.ndarray:
    """Degrees (V,) by which headings differ from those in a world turned by (3, 3), its y north.

    NaN where a photograph has none. Positive: the photograph says more.
    """
    tops = (-views.rotation[:, 1]) @ rotation.T
    found = np.degrees(np.arctan2(tops[:, 0], tops[:, 1]))
    off: np.ndarray = (priors.heading - found + 180) % 360 - 180
    return off


def checks(rotation: np.ndarray, views: ModelViews, priors: Priors) -> list[str]:
    """Sentences on how pitch, roll and headings agree with a model in a frame of east, north, up.

    rotation: (3, 3) from the world of the views to this frame.
    """
    notes = [*priors.notes]
    up = up_by_angles(views, priors)
    if isinstance(up, Up):
        apart = float(angles((rotation @ up.direction)[None], np.array([0.0, 0, 1]))[0])
        notes.append(f"{up.text}, is {apart:.2f}° from that of the frame")
    off = headings_off(rotation, views, priors)
    rows = np.flatnonzero(np.isfinite(off))
    if len(rows) >= FEWEST:
        far = [row for row in rows.tolist() if abs(off[row]) > ALONG]
        shown = listed([f"{views.names[row]} ({off[row]:+.0f}°)" for row in far], FAR_SHOWN)
        beside = f"; {len(far)} are off by more than {ALONG:.0f}°: {shown}" if far else ""
        notes.append(
            f"headings of {len(rows)} photographs are {np.median(np.abs(off[rows])):.1f}° off in "
            f"the median{beside}"
        )
    return notes


def north(views: ModelViews, priors: Priors, up: np.ndarray) -> tuple[np.ndarray | None, list[str]]:
    """Where north is (3,) by headings in a world whose up is known, and a sentence on it."""
    level = turned_to(up).rotation
    off = headings_off(level, views, priors)
    off = off[np.isfinite(off)]
    if len(off) < FEWEST:
        return None, ["nothing tells where north is"]
    turns = np.radians(off)
    circle = np.stack([np.cos(turns), np.sin(turns), np.zeros(len(off))], axis=1)
    middle = middle_direction(circle)
    away = angles(circle, middle)
    if np.median(away) > AGREE:
        return None, [f"headings of {len(off)} photographs do not agree, so north is unknown"]
    turn = -np.arctan2(middle[1], middle[0])
    goal: np.ndarray = level.T @ np.array([np.sin(turn), np.cos(turn), 0.0])
    return goal, [
        f"y points north by the headings of {len(off)} photographs, which are "
        f"{np.median(away):.1f}° off in the median"
    ]


def record_of(up: Up) -> dict[str, Any]:
    """What `world.json` says of the up axis."""
    return {"direction": up.direction.tolist(), "text": up.text}
