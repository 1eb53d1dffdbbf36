"""Models in metres: each is brought to the positions of its cameras, and a note tells how well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.events import counted
from pipeline.extras import import_pycolmap
from pipeline.pairs.poses.frame import LocalFrame
from pipeline.reconstruct.depth import listed
from pipeline.reconstruct.positions.faults import (
    IMAGES_NAMED,
    causes,
    fault_of_all,
    low_altitudes,
    upside_down,
)
from pipeline.reconstruct.positions.fit import FEWEST_POSITIONS, Anchors, Fit
from pipeline.reconstruct.positions.trusted import TrustedPositions
from pipeline.reconstruct.similarity import Similarity
from pipeline.reconstruct.tracks.scene import ModelViews

# Times the error of positions from which a note tells that a model fits them less well.
WORSE = 3.0
MANY = 0.1  # share of images clearly off, from which rather the model is bent
MOSTLY = 2.0  # of it, from which a fault of the whole table is looked for


@dataclass(frozen=True)
class Placement:
    """How a model came into metres.

    fit: of its positions. frame: what the metres are. anchors: the positions. notes: sentences on
    how well it fits, and on positions that are wrong.
    """

    fit: Fit
    frame: LocalFrame
    anchors: Anchors
    notes: list[str]

    def record(self) -> dict[str, Any]:
        """What the fit came to, for a file."""
        off, wrong = self.fit.off, np.flatnonzero(self.fit.wrong).tolist()
        return {
            "positions": len(off),
            "error": self.fit.error,
            "median": float(np.median(off)),
            "largest": float(off.max()),
            "wrong": {self.anchors.names[row]: float(off[row]) for row in wrong},
        }


def align_models(
    models: Sequence[Any], positions: TrustedPositions
) -> tuple[list[Placement | None], list[str]]:
    """Move, turn and scale `pycolmap.Reconstruction`s to the positions, in place.

    Returns how each came into metres, and sentences on the frame, on how well each fits, and on
    positions that are wrong. A model that positions do not hold stays as it is, its placement is
    None, and a sentence says why.
    """
    called = [f"model {number}" for number in range(len(models))]
    placed, notes = placed_models(models, called, positions)
    for model, placement in zip(models, placed, strict=True):
        if placement is not None:
            move_model(model, placement.fit.move)
    return placed, notes


def placed_models(
    models: Sequence[Any],
    called: Sequence[str],
    positions: TrustedPositions,
    up: np.ndarray | None = None,
) -> tuple[list[Placement | None], list[str]]:
    """How every model is brought to the positions, and sentences on all; see `align_models`.

    called: what sentences call each model. up: (3,) in their world, see `Anchors`.
    """
    placed: list[Placement | None] = []
    notes = [*positions.notes]
    for name, model in zip(called, models, strict=True):
        views = ModelViews.of(model)
        anchors = positions.anchors(views, up)
        fit = anchors.fit()
        fault = _fault(anchors, positions, views, fit)
        if isinstance(fit, str):
            because = f", as {fault}" if fault else ""
            notes.append(f"{name} is not in metres: {fit}{because}; check the positions.")
            placed.append(None)
            continue
        told = _told(name, len(views), anchors, fit, positions)
        if fault:
            told.append(f"{fault} in the positions of {name}: it fits them far better so")
            told.append(f"{name} lies by the positions as they are; mend them and align it again")
        if upside_down(fit.move.rotation, views):
            told.append(_of_upside_down(name, positions.frame))
        notes += told
        placed.append(Placement(fit, positions.frame, anchors, told))
    some = any(placement is not None for placement in placed)
    return placed, [*([f"models are in {positions.frame.text()}"] if some else []), *notes]


def move_model(model: Any, move: Similarity) -> None:
    """Move a `pycolmap.Reconstruction` in place."""
    pycolmap = import_pycolmap()
    model.transform(pycolmap.Sim3d(move.scale, pycolmap.Rotation3d(move.rotation), move.shift))


def _fault(
    anchors: Anchors, positions: TrustedPositions, views: ModelViews, fit: Fit | str
) -> str | None:
    """The fault of a whole table, which is looked for where the model does not fit it well."""
    if len(anchors.names) < FEWEST_POSITIONS + 1:
        return None
    if (
        isinstance(fit, Fit)
        and positions.told
        and fit.error <= WORSE * anchors.error / MOSTLY
        and not upside_down(fit.move.rotation, views)
    ):
        return None
    return fault_of_all(anchors, positions.frame, views)


def _of_upside_down(name: str, frame: LocalFrame) -> str:
    """A sentence on a model most of whose cameras look up or stand on their heads."""
    if frame.origin is None:
        return (
            f"by the z of {frame.table} most cameras of {name} look up or stand on their heads: "
            "that is right where z points down; otherwise check the order of its columns"
        )
    return (
        f"{name} is upside down: most cameras look up or stand on their heads; check the positions."
    )


def _told(
    name: str, images: int, anchors: Anchors, fit: Fit, positions: TrustedPositions
) -> list[str]:
    """Sentences on how well a model of so many images fits its positions."""
    median, error = float(np.median(fit.off)), anchors.error
    notes = [
        f"{name} is in metres: {len(fit.off)} of its {images} images have positions, "
        f"{median:.3f} m off in the median and {fit.off.max():.3f} m at most; one of its units was "
        f"{fit.move.scale:.6g} m"
    ]
    if positions.told and (fit.error > WORSE * error or fit.wrong.mean() > MANY):
        notes.append(
            f"{name} fits the positions less well than their error of {error:g} m says; "
            "check them, as for columns that are swapped, give known cameras by --intrinsics, or a "
            "larger error of the positions."
        )
    wrong = sorted(np.flatnonzero(fit.wrong).tolist(), key=lambda row: -fit.off[row])
    if wrong:
        shown = listed(
            [f"{anchors.names[row]} ({fit.off[row]:.2f} m)" for row in wrong], IMAGES_NAMED
        )
        off = "is clearly off its position" if len(wrong) == 1 else "are clearly off theirs"
        notes.append(f"{counted(len(wrong), 'image')} of {name} {off}: {shown}")
    notes += causes(anchors, positions.frame, fit)
    return [*notes, *low_altitudes(anchors, positions.frame)]
