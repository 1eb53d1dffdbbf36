"""A table of trusted positions, in a frame that a model can have."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import ArgumentError, ReconstructionError
from pipeline.events import counted
from pipeline.names.resolve import Resolver
from pipeline.pairs.spatial import framed, read_positions
from pipeline.reconstruct.depth import listed
from pipeline.reconstruct.positions.fit import FEWEST_POSITIONS, LEAST_WIDTH, Anchors, width
from pipeline.reconstruct.tracks.scene import ModelViews


@dataclass(frozen=True)
class PositionOptions:
    """table: a `.csv` or `.parquet` as of `read_positions`. error: metres, 1 sigma a coordinate.

    Raises ArgumentError for an error that is not above zero.
    """

    table: str
    error: float

    def __post_init__(self) -> None:
        if not (self.error > 0 and math.isfinite(self.error)):
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
    metres are, for a sentence. notes: sentences about rows that do not count.
    """

    metres: dict[str, np.ndarray]
    error: float
    frame: str
    notes: list[str]

    def anchors(self, views: ModelViews) -> Anchors:
        """The cameras of a model whose positions are known."""
        rows = [row for row, name in enumerate(views.names) if name in self.metres]
        names = [views.names[row] for row in rows]
        places = np.array([self.metres[name] for name in names]).reshape(-1, 3)
        return Anchors(names, views.centres()[rows], places, self.error)


def trusted_positions(
    options: PositionOptions, images: Sequence[str], storage: dict[str, Any] | None = None
) -> TrustedPositions:
    """Read positions of the images of a scene.

    Latitudes and longitudes become metres to the east, the north and up of their middle.

    storage: options of the fsspec filesystem.

    Raises PairListError as `read_positions`, and ReconstructionError for a table without heights,
    without positions of these images, with fewer than three or with all on one line.
    """
    table = options.table
    found = read_positions(table, height=True, options=storage, known=Resolver(images))
    shown = os.path.basename(table)
    if not found.heights:
        raise ReconstructionError(
            f"{table}: has no heights; add a column altitude, or z where x and y are metres."
        )
    inside = {*images}
    rows = [row for row, name in enumerate(found.names) if name in inside]
    others = [name for name in found.names if name not in inside]
    if not rows and others:
        raise ReconstructionError(
            f"{table}: has positions of no image of the run, but of {others[0]}; give the names of "
            f"the run, as {min(inside, default='none')}."
        )
    metres, frame = framed(found, shown) if rows else (found.metres, "")
    check_places(table, metres[rows], options.error)
    notes = _notes(shown, others, [why["detail"] for why in found.failures.to_pylist()])
    places = {found.names[row]: metres[row] for row in rows}
    return TrustedPositions(places, options.error, frame, notes)


def check_places(table: str, places: np.ndarray, error: float) -> None:
    """Raise ReconstructionError for places (n, 3) that tell no frame: too few, or on one line."""
    if len(places) < FEWEST_POSITIONS:
        raise ReconstructionError(
            f"{table}: has positions of {counted(len(places), 'image')} of the run; give "
            f"{FEWEST_POSITIONS} or more that are not on one line."
        )
    if width(places) < LEAST_WIDTH * error:
        raise ReconstructionError(
            f"{table}: the positions lie on one line within their error of {error:g} m, "
            "so that nothing tells which side of the model is up; give others beside it."
        )


def _notes(shown: str, others: Sequence[str], failures: Sequence[str]) -> list[str]:
    """Sentences about positions of other images, and about rows without a place."""
    notes = []
    if others:
        positions = counted(len(others), "position")
        notes.append(f"{positions} of {shown} left out, of no image of the run: {listed(others)}")
    if failures:
        notes.append(f"{counted(len(failures), 'row')} of {shown} left out, as {failures[0]}")
    return notes
