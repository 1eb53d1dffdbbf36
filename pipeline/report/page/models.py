"""The models of a run for the page: the first ones in 3D, and the largest of two runs compared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import EloftrError
from pipeline.report.block_map import blocks_of_images
from pipeline.report.page.scene import compared_data, scene_data
from pipeline.report.page.thumbnails import PhotoSource
from pipeline.store.folder import Folder

RESULTS = "sfm"  # where eloftr reconstruct writes in a run folder
MOST_MODELS = 5  # of a run
PHOTOGRAPH_BYTES = 2_000_000  # of the photographs of models


def model_folders(results: Folder) -> list[Folder]:
    """The first models of the results of a reconstruction, the largest first."""
    names = [f"sparse/{number}" for number in range(MOST_MODELS)]
    there = [name for name in names if results.exists(f"{name}/images.bin")]
    return [Folder(results.url_of(name), results.options) for name in there]


def results_of(run: Folder) -> Folder:
    """Where eloftr reconstruct writes unless told otherwise."""
    return Folder(run.url_of(RESULTS), run.options)


def model_tables(
    results: Folder,
    photographs: PhotoSource | None,
    orientation: Mapping[str, int],
    notes: list[str],
) -> dict[str, Any] | None:
    """What the page shows of the models of a run, see `scene_data`; None where there is none.

    orientation: EXIF orientation of images, by name. A model that cannot be read is told in the
    notes.
    """
    folders = model_folders(results)
    if not folders:
        return None
    blocks = blocks_of_images(Path(results.path())) if results.local else {}
    try:
        how = {"photograph_bytes": PHOTOGRAPH_BYTES}
        return scene_data(folders, photographs, blocks, orientation, **how)
    except EloftrError as error:
        notes.append(f"The models are not shown: {error}")
        return None


def compared_models_table(
    results: Folder, others: Folder, notes: list[str]
) -> dict[str, Any] | None:
    """The largest model of other results brought to that of these; None where one has no model."""
    mine, theirs = model_folders(results), model_folders(others)
    if not mine or not theirs:
        return None
    try:
        return compared_data(theirs[0], mine[0], ("B", "A"))
    except EloftrError as error:
        notes.append(f"The models are not compared: {error}")
        return None
