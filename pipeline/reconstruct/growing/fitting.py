"""Whether a given model is one of the runs: it has names, sizes and matches of their images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.errors import ReconstructionError
from pipeline.pairs.poses.known import Poses
from pipeline.reconstruct.growing.photographs import ComparedPhotographs
from pipeline.reconstruct.models.files import ModelFiles
from pipeline.reconstruct.poses.contradictions import WRONG, pair_matches
from pipeline.reconstruct.tracks.scene import ModelViews
from pipeline.store.folder import Folder

CURE = "give the model that was made of the runs"


def views_of_model(given: ModelFiles) -> ModelViews:
    """The images of a model; for COLMAP's process. Raises ReconstructionError as its `read`."""
    return ModelViews.of(given.read())


def check_views(
    views: ModelViews, shown: str, runs: Sequence[Folder], found: ComparedPhotographs
) -> None:
    """Raise ReconstructionError where a model cannot be one of the runs, or nothing of it is left.

    shown: the model, for a person. found: the photographs now. Of a photograph that has changed or
    is gone, no size is compared.
    """
    every = [frozenset[str]()] * len(runs)
    if not {*views.names} & _sizes(runs, every).keys():
        raise ReconstructionError(f"{shown}: has no image of the runs; {CURE}.")
    sizes = _sizes(runs, found.stale)
    there = [row for row, name in enumerate(views.names) if name in sizes]
    for row in there:
        camera, (width, height) = views.cameras[int(views.camera[row])], sizes[views.names[row]]
        if (camera.width, camera.height) != (width, height):
            raise ReconstructionError(
                f"{shown}: is a model of other photographs: {views.names[row]} has {camera.width}×"
                f"{camera.height} pixels there and {width}×{height} in the runs; {CURE}."
            )
    if len(there) < 2:
        raise ReconstructionError(
            f"{shown}: keeps fewer than two images, because the others are gone from the folder "
            "or have changed; match and reconstruct all photographs."
        )


def check_matches(views: ModelViews, shown: str, database: Path, max_error: float) -> None:
    """Raise ReconstructionError where the poses of a model contradict the matches of a database.

    views: with the names of the database. max_error: pixels, the largest error of an observation.

    Nearly all verified matches are near the epipolar lines of the model that was made of them, so
    that the median share of the pairs tells other models, whose names and sizes are the same.
    """
    made = {number: camera.made(number) for number, camera in views.cameras.items()}
    taken_by = {name: made[int(views.camera[row])] for row, name in enumerate(views.names)}
    matches = pair_matches(database, views.names, taken_by)
    near = matches.near(Poses.of_rotations(views.rotation, views.centres()), max_error)
    if len(near) and np.median(near) < WRONG:
        raise ReconstructionError(
            f"{shown}: is a model of other photographs: {1 - near.mean():.0%} of the verified "
            f"matches lie more than {max_error:.0f} pixels from their epipolar lines in it; {CURE}."
        )


def _sizes(
    runs: Sequence[Folder], left_out: Sequence[frozenset[str]]
) -> dict[str, tuple[int, int]]:
    """The stored size, pixels, of every image of runs without those of each that are left out."""
    columns = ["image", "stored_width", "stored_height"]
    sizes = {}
    for run, stale in zip(runs, left_out, strict=True):
        for table in run.names("images"):
            told = run.read_table(table, columns)
            for name, *size in zip(*(told[column].to_pylist() for column in columns), strict=True):
                if name not in stale:
                    sizes[name] = (size[0], size[1])
    return sizes
