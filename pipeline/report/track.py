"""A model and the track of its flight in one frame, in metres.

run, model, EXIF positions → read_track: the best similarity → FlownTrack
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.errors import ReconstructionError
from pipeline.pairs.covisibility import read_model
from pipeline.pairs.spatial import east_north_up, exif_positions, geodetic
from pipeline.reconstruct.similarity import umeyama
from pipeline.store.folder import Folder

LEAST_POSITIONS = 4  # registered images with a position, for an alignment
FLAT = 0.01  # spread across the track as a share of that along it, below which it is one line


@dataclass(frozen=True)
class FlownTrack:
    """Photographs by their EXIF data and by a model, in metres to the east, the north and up.

    names: (n) photographs of the run, sorted.
    flown: (n, 3) their EXIF positions, NaN where there is none.
    centres: (n, 3) of their cameras in the model, NaN where they are not registered.
    points, colours: (k, 3) of the model, and uint8.
    """

    names: list[str]
    flown: np.ndarray
    centres: np.ndarray
    points: np.ndarray
    colours: np.ndarray

    @property
    def images(self) -> int:
        """How many photographs are registered."""
        return int(np.isfinite(self.centres[:, 0]).sum())

    @property
    def positions(self) -> int:
        """How many photographs are registered and have a position."""
        return int(np.isfinite(self.differences[:, 0]).sum())

    @property
    def missing(self) -> list[str]:
        """Photographs that the model lacks."""
        lacking = np.isnan(self.centres[:, 0])
        return [name for name, lacks in zip(self.names, lacking, strict=True) if lacks]

    @property
    def differences(self) -> np.ndarray:
        """(n, 2) from the EXIF position to the camera centre, metres to the east and the north."""
        off: np.ndarray = (self.centres - self.flown)[:, :2]
        return off

    @property
    def rms_metres(self) -> float:
        """Root mean square of the horizontal differences, metres."""
        return float(np.sqrt(np.nanmean((self.differences**2).sum(axis=1))))


def read_track(run: Folder, photographs: Folder, model: Folder | None = None) -> FlownTrack:
    """Bring a model of a run to the EXIF positions of its photographs by the best similarity.

    photographs: their folder. model: a COLMAP model; None takes `sfm/sparse/0` of the run.

    Raises ReconstructionError where there is no model, where fewer than 4 registered images have
    a position, and where these lie on one line, PairListError for a damaged model.
    """
    if model is None:
        model = Folder(run.url_of("sfm/sparse/0"), run.options)
        if not (run.exists("sfm/sparse/0/images.bin") or run.exists("sfm/sparse/0/images.txt")):
            raise ReconstructionError(
                f"{model.shown}: holds no model; run eloftr reconstruct first, or name the model."
            )
    found = read_model(model)
    where = {
        found.images[number].name: found.images[number].projection_center()
        for number in found.reg_image_ids()
    }
    names = sorted({*where, *_images_of(run)})
    nowhere = np.full(3, np.nan)
    centres = np.array([where.get(name, nowhere) for name in names]).reshape(-1, 3)
    known = exif_positions(photographs, names, height=True)
    place = dict(zip(known.names, known.metres, strict=True))
    flown = np.array([place.get(name, nowhere) for name in names]).reshape(-1, 3)
    both = np.isfinite(centres[:, 0]) & np.isfinite(flown[:, 0])
    if both.sum() < LEAST_POSITIONS:
        why = {row["image0"]: row["detail"] for row in known.failures.to_pylist()}
        first = next((f" ({name}: {why[name]})" for name in where if name in why), "")
        raise ReconstructionError(
            f"{photographs.shown}: {both.sum()} of {len(where)} registered images have a position"
            f"{first}, and the track needs {LEAST_POSITIONS}; give photographs with GPS by "
            "--images."
        )
    flown = east_north_up(flown, geodetic(flown[both].mean(axis=0)))
    spread = np.linalg.svd(flown[both] - flown[both].mean(axis=0), compute_uv=False)
    if spread[1] <= FLAT * spread[0]:
        raise ReconstructionError(
            f"{photographs.shown}: all positions lie on one line, so nothing tells which side of "
            "the model is up; the track needs photographs beside that line."
        )
    scale, turn, shift = umeyama(centres[both], flown[both])
    points = [found.points3D[number] for number in sorted(found.points3D)]
    xyz = np.array([point.xyz for point in points]).reshape(-1, 3)
    colours = np.array([point.color for point in points], np.uint8).reshape(-1, 3)
    centres, xyz = (scale * some @ turn.T + shift for some in (centres, xyz))
    return FlownTrack(names, flown, centres, xyz, colours)


def _images_of(run: Folder) -> set[str]:
    """Names of the photographs that a run read."""
    tables = [run.read_table(name, ["image"]) for name in run.names("images")]
    return {name for table in tables for name in table["image"].to_pylist()}
