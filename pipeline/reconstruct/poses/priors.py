"""Poses as priors: their positions are trusted, within their errors."""

from __future__ import annotations

import numpy as np

from pipeline.errors import ReconstructionError
from pipeline.pairs.poses.known import KnownPoses
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
