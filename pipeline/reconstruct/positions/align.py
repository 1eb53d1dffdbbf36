"""Models in metres: each is brought to the positions of its cameras, and a note tells how well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.events import counted
from pipeline.extras import import_pycolmap
from pipeline.reconstruct.depth import listed
from pipeline.reconstruct.positions.fit import Anchors, Fit
from pipeline.reconstruct.positions.trusted import TrustedPositions
from pipeline.reconstruct.tracks.scene import ModelViews

# Times the error of positions from which a note tells that a model fits them less well.
WORSE = 3.0
MANY = 0.1  # share of images clearly off, from which rather the model is bent
SHOWN = 10  # images that a note names


def align_models(models: Sequence[Any], positions: TrustedPositions) -> list[str]:
    """Move, turn and scale `pycolmap.Reconstruction`s to the positions, in place.

    Returns sentences on the frame, on how well each fits, and on positions that are wrong. A model
    that positions do not hold stays as it is, and a sentence says why.
    """
    pycolmap = import_pycolmap()
    notes, fits = [*positions.notes], []
    for number, model in enumerate(models):
        views = ModelViews.of(model)
        anchors = positions.anchors(views)
        fit = anchors.fit()
        if isinstance(fit, str):
            notes.append(f"model {number} is not in metres: {fit}; check the positions.")
            continue
        fits.append(fit)
        rotation = pycolmap.Rotation3d(fit.move.rotation)
        model.transform(pycolmap.Sim3d(fit.move.scale, rotation, fit.move.shift))
        notes += _told(number, len(views), anchors, fit)
    return [*([f"models are in {positions.frame}"] if fits else []), *notes]


def _told(number: int, images: int, anchors: Anchors, fit: Fit) -> list[str]:
    """Sentences on how well a model of so many images fits its positions."""
    median, error = float(np.median(fit.off)), anchors.error
    notes = [
        f"model {number} is in metres: {len(fit.off)} of its {images} images have positions, "
        f"{median:.3f} m off in the median and {fit.off.max():.3f} m at most"
    ]
    if fit.error > WORSE * error or fit.wrong.mean() > MANY:
        notes.append(
            f"model {number} fits the positions less well than their error of {error:g} m says; "
            "check them, as for columns that are swapped, give known cameras by --intrinsics, or a "
            "larger --position-error."
        )
    wrong = sorted(np.flatnonzero(fit.wrong).tolist(), key=lambda row: -fit.off[row])
    if wrong:
        shown = listed([f"{anchors.names[row]} ({fit.off[row]:.2f} m)" for row in wrong], SHOWN)
        off = "is clearly off its position" if len(wrong) == 1 else "are clearly off theirs"
        notes.append(f"{counted(len(wrong), 'image')} of model {number} {off}: {shown}")
    return notes
