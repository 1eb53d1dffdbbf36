"""Whether a given model is one of the runs: it has names, sizes and matches of their images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import ReconstructionError
from pipeline.reconstruct.growing.photographs import ComparedPhotographs
from pipeline.reconstruct.models.files import ModelFiles
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
