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


def model_folders(run: Folder) -> list[Folder]:
    """The first models of a run, the largest first."""
    names = [f"{RESULTS}/sparse/{number}" for number in range(MOST_MODELS)]
    there = [name for name in names if run.exists(f"{name}/images.bin")]
    return [Folder(run.url_of(name), run.options) for name in there]


def model_tables(
    run: Folder,
    photographs: PhotoSource | None,
    orientation: Mapping[str, int],
    notes: list[str],
) -> dict[str, Any] | None:
    """What the page shows of the models of a run, see `scene_data`; None where there is none.

    orientation: EXIF orientation of images, by name. A model that cannot be read is told in the
    notes.
    """
    folders = model_folders(run)
    if not folders:
        return None
    blocks = blocks_of_images(Path(run.path(RESULTS))) if run.local else {}
    try:
        return scene_data(
            folders,
            photographs,
            blocks,
            orientation,
            photograph_bytes=PHOTOGRAPH_BYTES,
        )
    except EloftrError as error:
        notes.append(f"The models are not shown: {error}")
        return None


def compared_models_table(run: Folder, other: Folder, notes: list[str]) -> dict[str, Any] | None:
    """The largest model of another run brought to that of a run; None where one has no model."""
    mine, theirs = model_folders(run), model_folders(other)
    if not mine or not theirs:
        return None
    try:
        return compared_data(theirs[0], mine[0], ("B", "A"))
    except EloftrError as error:
        notes.append(f"The models are not compared: {error}")
        return None
