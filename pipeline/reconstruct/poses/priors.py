"""Poses as priors: their positions are trusted, within their errors, and count in adjustments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import ReconstructionError
from pipeline.extras import import_pycolmap
from pipeline.pairs.poses.known import KnownPoses, Poses
from pipeline.reconstruct.cameras.adjust import PriorPlace, pose_prior
from pipeline.reconstruct.poses.options import PoseOptions
from pipeline.reconstruct.positions.trusted import TrustedPositions, check_places
from pipeline.reconstruct.tracks.scene import ModelViews

# Degrees between the rotations of a log and those of a model, in the median: more is a mistake, and
# less is another convention that fits. Logs of aircraft err by a few.
CONTRARY, ALIKE = 20.0, 10.0


def positions_of_poses(known: KnownPoses, options: PoseOptions) -> TrustedPositions:
    """The positions of poses, as those of a table of trusted positions.

    Raises ReconstructionError where neither the file nor the options tell by how much they err, and
    where there are fewer than three or all are on one line.
    """
    error = options.error
    if error is None and known.error is not None and np.isfinite(known.error).any():
        error = float(np.nanmedian(known.error))
    if error is None:
        raise ReconstructionError(
            f"--poses {options.file}: say by --position-error how many metres its positions err, "
            "as 0.05 of RTK, or give the columns horizontal_error and vertical_error."
        )
    check_places(options.file, known.centres, error)
    places = dict(zip(known.names, known.centres, strict=True))
    return TrustedPositions(places, error, known.frame, known.notes)


def prior_places(known: KnownPoses, trusted: TrustedPositions) -> dict[str, PriorPlace]:
    """Where images were taken, with the errors that the file tells, and else that of all."""
    error = dict.fromkeys(trusted.metres, np.full(3, trusted.error))
    if known.error is not None:
        told = np.where(np.isfinite(known.error), known.error, trusted.error)
        error.update(zip(known.names, told, strict=True))
    return {
        name: (*map(float, place), *map(float, error[name]))  # type: ignore[misc]
        for name, place in trusted.metres.items()
    }


def rotation_notes(
    models: Sequence[Any], known: KnownPoses, trusted: TrustedPositions
) -> list[str]:
    """Sentences on models, brought to their positions, that contradict the rotations of priors.

    models: `pycolmap.Reconstruction`s. One that positions do not hold has a sentence where the
    poses fit it in another convention.
    """
    if known.poses is None:
        return []
    notes = []
    for number, model in enumerate(models):
        views = ModelViews.of(model)
        off = _degrees_off(views, known, known.poses, trusted)
        if not off > CONTRARY:
            continue
        others = {
            text: _degrees_off(views, known, poses, _at(poses, known, trusted))
            for text, poses in known.others.items()
        }
        best = min(others, key=lambda text: others[text], default="")
        told = f"the poses of {known.file}, read as {known.convention}, do not fit model {number}"
        if np.isfinite(off):
            told = f"the rotations of {known.file}, read as {known.convention}, are {off:.0f} "
            told += f"degrees off those of model {number} in the median"
        fits = bool(best) and others[best] < ALIKE
        if fits or np.isfinite(off):
            notes.append(f"{told}; they fit when they are read as {best}" if fits else told)
    return notes


def _at(poses: Poses, known: KnownPoses, trusted: TrustedPositions) -> TrustedPositions:
    """The positions of poses in another convention."""
    rows = np.flatnonzero(poses.known()).tolist()
    centres = poses.centres()
    return replace(trusted, metres={known.names[row]: centres[row] for row in rows})


def _degrees_off(
    views: ModelViews, known: KnownPoses, poses: Poses, positions: TrustedPositions
) -> float:
    """The median angle between rotations of poses and of a model brought to their positions.

    NaN where none is known, infinite where the positions do not hold the model.
    """
    row = {name: number for number, name in enumerate(known.names)}
    of = [view for view, name in enumerate(views.names) if name in row]
    fit = positions.anchors(views).fit()
    if isinstance(fit, str):
        return np.inf
    told = poses.rotations()[[row[views.names[view]] for view in of]] @ fit.move.rotation
    chord = np.linalg.norm(told - views.rotation[of], axis=(1, 2)) / np.sqrt(8)
    chord = chord[np.isfinite(chord)]
    return float(np.degrees(2 * np.arcsin(np.median(chord).clip(0, 1)))) if len(chord) else np.nan


def write_pose_priors(database: Path, places: dict[str, PriorPlace]) -> None:
    """Put places into a COLMAP database as pose priors, in place of those that it has."""
    pycolmap = import_pycolmap()
    with pycolmap.Database.open(database) as opened, pycolmap.DatabaseTransaction(opened):
        opened.clear_pose_priors()
        for image in opened.read_all_images():
            if image.name in places:
                opened.write_pose_prior(pose_prior(image, places[image.name]))
