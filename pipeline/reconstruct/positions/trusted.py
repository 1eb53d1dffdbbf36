"""A table of trusted positions, in a frame that a model can have."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.errors import ArgumentError, ReconstructionError
from pipeline.events import counted
from pipeline.names.resolve import Resolver
from pipeline.pairs.poses.frame import LocalFrame, local_frame
from pipeline.pairs.spatial import Positions, exif_positions, on_earth, read_positions
from pipeline.photos.panoramas.source import FaceFolder
from pipeline.reconstruct.depth import listed
from pipeline.reconstruct.positions.fit import FEWEST_POSITIONS, LEAST_WIDTH, Anchors, width
from pipeline.reconstruct.tracks.scene import ModelViews
from pipeline.store.folder import Folder

EXIF = "exif"  # in the place of a table: positions of the photographs' own EXIF data
# Metres, of positions whose error nobody tells. Receivers without corrections drift by as much.
LEAST_ERROR = 1.0


@dataclass(frozen=True)
class PositionOptions:
    """Where positions are read, and how they err.

    table: a `.csv` or `.parquet` as of `read_positions`, or EXIF. error: metres, 1 sigma a
    coordinate; None where only what they are off the model can tell it.

    Raises ArgumentError for an error that is not above zero.
    """

    table: str
    error: float | None

    def __post_init__(self) -> None:
        if self.error is not None and not (self.error > 0 and math.isfinite(self.error)):
            raise ArgumentError(
                f"--position-error {self.error:g}: give the metres by which positions err, above 0."
            )

    @classmethod
    def of(
        cls, table: str | os.PathLike[str] | None, error: float | None
    ) -> PositionOptions | None:
        """The options, or None where neither is given. Raises ArgumentError for one alone."""
        if table is None and error is not None:
            raise ArgumentError(
                f"--position-error {error:g}: there are no positions; give a table by --positions."
            )
        if table is None:
            return None
        if not isinstance(error, int | float | None):
            raise ArgumentError(f"position_error={error!r}: give the metres as a number.")
        if error is None:
            raise ArgumentError(
                f"--positions {os.fspath(table)}: say by --position-error how many metres they "
                "err, as 0.05 of RTK."
            )
        return cls(os.fspath(table), error)


@dataclass(frozen=True)
class TrustedPositions:
    """Positions of n images.

    metres: (n, 3) by the name of the image. error: metres, 1 sigma a coordinate. frame: what the
    metres are. notes: sentences about rows that do not count. told: whether somebody told the
    error.
    """

    metres: dict[str, np.ndarray]
    error: float
    frame: LocalFrame
    notes: list[str]
    told: bool = True

    def on_earth(
        self, to_degrees: Callable[[np.ndarray], np.ndarray], system: str
    ) -> TrustedPositions:
        """The same where a table's own metres are of a system of the earth.

        to_degrees: from (n, 3) metres to latitudes, longitudes and altitudes. system: its name.
        """
        if self.frame.origin is not None:
            raise ArgumentError(
                f"--crs {system}: the positions of {self.frame.table} are in degrees already; "
                "leave it out."
            )
        names = [*self.metres]
        metres = np.array([self.metres[name] for name in names]) + self.frame.offset
        places = on_earth(to_degrees(metres), height=True)
        local, frame = local_frame(places, True, self.frame.table)
        return replace(self, metres=dict(zip(names, local, strict=True)), frame=frame)

    def anchors(self, views: ModelViews, up: np.ndarray | None = None) -> Anchors:
        """The cameras of a model whose positions are known. up: see `Anchors`."""
        rows = [row for row, name in enumerate(views.names) if name in self.metres]
        names = [views.names[row] for row in rows]
        places = np.array([self.metres[name] for name in names]).reshape(-1, 3)
        return Anchors(names, views.centres()[rows], places, self.error, up, self.told)


def trusted_positions(
    options: PositionOptions,
    images: Sequence[str],
    storage: dict[str, Any] | None = None,
    photographs: Folder | FaceFolder | None = None,
    line: bool = False,
    scene: str = "the run",
) -> TrustedPositions:
    """Read positions of the images of a scene.

    Latitudes and longitudes become metres to the east, the north and up of their middle.

    storage: options of the fsspec filesystem.
    photographs: whose EXIF data tell the positions, where these are to.
    line: take positions on one line as well, because something else tells the turn.
    scene: what sentences call what the images are of.

    Raises PairListError as `read_positions`, and ReconstructionError for a table without heights,
    without positions of these images, with fewer than three or with all on one line.
    """
    table = options.table
    found, shown = _read(options, images, storage, photographs)
    if not found.heights:
        raise ReconstructionError(
            f"{table}: has no heights; add a column altitude, or z where x and y are metres."
        )
    inside = {*images}
    rows = [row for row, name in enumerate(found.names) if name in inside]
    others = [name for name in found.names if name not in inside]
    failures = [(why["image0"], why["detail"]) for why in found.failures.to_pylist()]
    if not rows and others:
        raise ReconstructionError(
            f"{table}: has positions of no image of {scene}, but of {others[0]}; give the names of "
            f"{scene}, as {min(inside, default='none')}."
        )
    error = LEAST_ERROR if options.error is None else options.error
    why = f" of {scene}" + ("" if not failures else f" ({failures[0][0]}: {failures[0][1]})")
    told = options.error is not None
    check_places(table, found.metres[rows], error, why, line, told)
    metres, frame = local_frame(found.metres, found.earth, shown)
    notes = [*_notes(shown, others, failures, scene), *found.notes]
    places = {found.names[row]: metres[row] for row in rows}
    return TrustedPositions(places, error, frame, notes, told)


def check_places(
    table: str,
    places: np.ndarray,
    error: float,
    why: str = " of the run",
    line: bool = False,
    told: bool = True,
) -> None:
    """Raise ReconstructionError for places (n, 3) that tell no frame: too few, or on one line.

    why: what the images are of, and what is told of the others where they are too few. line: those
    on a line are enough. told: whether somebody told the error.
    """
    if len(places) < FEWEST_POSITIONS:
        raise ReconstructionError(
            f"{table}: has positions of {counted(len(places), 'image')}{why}; give "
            f"{FEWEST_POSITIONS} or more that are not on one line."
        )
    if not line and width(places) < LEAST_WIDTH * error:
        smaller = "" if told else ", or tell by --gps-error that they err by less"
        raise ReconstructionError(
            f"{table}: the positions lie on one line within their error of {error:g} m, "
            "so that nothing tells which side of the model is up; give others beside it"
            f"{smaller}."
        )


def _read(
    options: PositionOptions,
    images: Sequence[str],
    storage: dict[str, Any] | None,
    photographs: Folder | FaceFolder | None,
) -> tuple[Positions, str]:
    """Positions of a table or of EXIF data, and what to call where they are from."""
    if options.table != EXIF:
        shown = os.path.basename(options.table)
        known = Resolver(images)
        return read_positions(options.table, height=True, options=storage, known=known), shown
    if photographs is None:
        raise ReconstructionError(
            "--positions exif: there are no photographs to read; give them by --images."
        )
    names = sorted(images)
    return exif_positions(photographs, names, height=True, need_height=True), "EXIF"


def _notes(
    shown: str, others: Sequence[str], failures: Sequence[tuple[str, str]], scene: str
) -> list[str]:
    """Sentences about positions of other images, and about rows without a place."""
    notes = []
    if others:
        positions = counted(len(others), "position")
        notes.append(f"{positions} of {shown} left out, of no image of {scene}: {listed(others)}")
    if failures:
        image, why = failures[0]
        rows = counted(len(failures), "row")
        notes.append(f"{rows} of {shown} left out, as {why}: {image}")
    return notes
