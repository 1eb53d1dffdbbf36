"""Poses as priors: their positions are trusted, within their errors, and count in adjustments."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.errors import ReconstructionError
from pipeline.extras import import_pycolmap
from pipeline.pairs.poses.known import KnownPoses
from pipeline.reconstruct.cameras.adjust import PriorPlace, pose_prior
from pipeline.reconstruct.poses.options import PoseOptions
from pipeline.reconstruct.positions.trusted import TrustedPositions, check_places


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


def write_pose_priors(database: Path, places: dict[str, PriorPlace]) -> None:
    """Put places into a COLMAP database as pose priors, in place of those that it has."""
    pycolmap = import_pycolmap()
    with pycolmap.Database.open(database) as opened, pycolmap.DatabaseTransaction(opened):
        opened.clear_pose_priors()
        for image in opened.read_all_images():
            if image.name in places:
                opened.write_pose_prior(pose_prior(image, places[image.name]))
