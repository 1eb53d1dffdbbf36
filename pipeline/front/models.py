"""Look at COLMAP models and mend them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ArgumentError, StorageError
from pipeline.events import Listener, nobody
from pipeline.extras import need_extra

if TYPE_CHECKING:
    import numpy as np

    from pipeline.reconstruct.models.compare import Comparison
    from pipeline.reconstruct.models.info import ModelInfo
    from pipeline.reconstruct.models.job import WrittenModel

Model = str | Path


def model_info(
    models: Model | Sequence[Model],
    *,
    scratch: Model | None = None,
    storage: dict[str, Any] | None = None,
) -> list[ModelInfo]:
    """The numbers of COLMAP models: cameras, images, points, observations, errors, extent.

    models: folders with a model each, binary or text, local paths or fsspec URLs.
    scratch: where copies of models at URLs lie meanwhile; None: among temporary files.
    storage: options of the fsspec filesystems.

    Raises ReconstructionError or StorageError for what cannot be read.
    """
    need_extra()
    from pipeline.reconstruct.models.info import described_model
    from pipeline.reconstruct.models.job import ask_of_models
    from pipeline.store.results import place_of

    given = [models] if isinstance(models, str | os.PathLike) else models
    return [ask_of_models(described_model, [place_of(one, storage)], scratch) for one in given]


def compare_models(
    model: Model,
    reference: Model,
    *,
    scratch: Model | None = None,
    storage: dict[str, Any] | None = None,
) -> Comparison:
    """How far the images of a model are from those of another one, after a similarity.

    Images are the same where their names are. Lengths are in units of the reference.

    model, reference, scratch, storage: as of `model_info`.

    Raises ReconstructionError where fewer than three images are common, where their centres lie on
    one line, and where no similarity brings them together.
    """
    need_extra()
    from pipeline.reconstruct.models.compare import compared_models
    from pipeline.reconstruct.models.job import ask_of_models
    from pipeline.store.results import place_of

    return ask_of_models(
        compared_models, [place_of(one, storage) for one in (model, reference)], scratch
    )


def transform_model(
    model: Model,
    output: Model,
    *,
    scale: float | None = None,
    similarity: str | Sequence[float] | None = None,
    matrix: Model | np.ndarray | None = None,
    to: Model | None = None,
    scratch: Model | None = None,
    storage: dict[str, Any] | None = None,
    progress: Listener = nobody,
) -> WrittenModel:
    """Write a model that is moved by a similarity, or brought to another model.

    output: a local path or fsspec URL. A model in it is replaced as a whole.
    scale: makes the model larger. similarity: eight numbers, s qw qx qy qz tx ty tz. matrix: (3, 4)
        or (4, 4), or a text file of it. to: a model whose common images it is brought to. One of
        the four is given.
    model, scratch, storage: as of `model_info`.
    progress: called with an `Event` now and then.

    Raises ArgumentError for what is no similarity, ReconstructionError as `compare_models` and for
    an output that is or lies in a given model, and StorageError.
    """
    need_extra()
    from pipeline.reconstruct.models.align import scaling, similarity_of, similarity_of_matrix
    from pipeline.reconstruct.models.job import write_model
    from pipeline.reconstruct.models.transform import transformed
    from pipeline.store.results import place_of

    if sum(way is not None for way in (scale, similarity, matrix, to)) != 1:
        raise ArgumentError(
            "transform: needs one way to move the model; give a scale, a similarity, a matrix or "
            "the model to bring it to."
        )
    move = None
    if scale is not None:
        move = scaling(scale)
    elif similarity is not None:
        move = similarity_of(similarity)
    elif isinstance(matrix, str | os.PathLike):
        move = similarity_of_matrix(_text_of(matrix, storage), str(matrix))
    elif matrix is not None:
        move = similarity_of_matrix(matrix, "matrix")
    return write_model(
        [place_of(model, storage)],
        place_of(output, storage),
        partial(transformed, move=move),
        beside=[] if to is None else [place_of(to, storage)],
        scratch=scratch,
        listen=progress,
    )


def align_model(
    model: Model,
    output: Model,
    *,
    gps: Model | None = None,
    gps_error: float | None = None,
    gcp: Model | None = None,
    gcp_error: float | None = None,
    up: str | None = None,
    images: Model | None = None,
    frame: str = "enu",
    crs: str | None = None,
    scratch: Model | None = None,
    storage: dict[str, Any] | None = None,
    progress: Listener = nobody,
) -> WrittenModel:
    """Write a model that is brought into the world, into metres or with z up.

    gps: a folder of photographs whose EXIF data tell where they were taken, or a table as of
        `reconstruct`. gcp: a file of ground control points with their marks, a `.csv` or
        OpenDroneMap's `gcp_list.txt`. up: `gravity`, by the pitch and roll that photographs hold,
        or `manhattan`, by surfaces at right angles; the scale stays. One of the three is given.
    gps_error, gcp_error: metres by which they err, 1 sigma of a coordinate. None takes what most of
        them are off.
    images: the photographs, whose pitch, roll and headings check the model, or tell what is up.
    frame: `enu`, metres to the east, the north and up of a place that is told; `ecef`, metres from
        the centre of the earth; `utm`. The last two are less a round offset, see `world`.
    crs: the system of metres of a table or of a `.csv` of control points, as `WGS84 UTM 11N`.
    model, output, scratch, storage, progress: as of `transform_model`.

    Returns the counts, sentences on how well it fits and on what is wrong, and as `world` what the
    file `world.json` beside the model says: the frame, its origin and offset, the similarity from
    the given model, and all residuals.

    Raises ArgumentError for arguments that do not fit together, ReconstructionError where nothing
    holds the model, PairListError for a file that cannot be used, and StorageError.
    """
    need_extra()
    from pipeline.reconstruct.models.job import write_model
    from pipeline.reconstruct.world.job import alignment
    from pipeline.store.results import place_of

    change = alignment(
        *(gps, gps_error, gcp, gcp_error, up, images, frame, crs),
        storage=storage,
    )
    return write_model(
        [place_of(model, storage)],
        place_of(output, storage),
        change,
        scratch=scratch,
        listen=progress,
    )


def crop_model(
    model: Model,
    output: Model,
    *,
    box: str | Sequence[float] | None = None,
    percentile: float | None = None,
    images: Model | Sequence[str] | None = None,
    scratch: Model | None = None,
    storage: dict[str, Any] | None = None,
    progress: Listener = nobody,
) -> WrittenModel:
    """Write a part of a model: the points in a box, or some images with what they see.

    box: six numbers, x0 y0 z0 x1 y1 z1. percentile: leaves out so many per cent of the points at
        both ends of each axis. images: names, or a text file with a name a line. One of the three
        is given. Of a box, images that see no point in it are left out.
    model, output, scratch, storage, progress: as of `transform_model`.

    Raises ArgumentError for what is no box or list, ReconstructionError where nothing is left and
    for an output that is or lies in the model, and StorageError.
    """
    need_extra()
    from pipeline.reconstruct.models.crop import CropBox, NamedImages, Percentile, cropped
    from pipeline.reconstruct.models.job import write_model
    from pipeline.store.results import place_of

    if sum(way is not None for way in (box, percentile, images)) != 1:
        raise ArgumentError(
            "crop: needs to know what to keep; give one of a box, a percentile and a list of "
            "images."
        )
    kept: CropBox | Percentile | NamedImages
    if box is not None:
        kept = CropBox.of(box)
    elif percentile is not None:
        kept = Percentile(percentile)
    elif isinstance(images, str | os.PathLike):
        kept = NamedImages.of(_text_of(images, storage), str(images))
    else:
        kept = NamedImages.of("\n".join(images or ()), "images")
    return write_model(
        [place_of(model, storage)],
        place_of(output, storage),
        partial(cropped, kept=kept),
        scratch=scratch,
        listen=progress,
    )


def merge_models(
    models: Sequence[Model],
    output: Model,
    *,
    scratch: Model | None = None,
    storage: dict[str, Any] | None = None,
    progress: Listener = nobody,
) -> WrittenModel:
    """Write one model of several that have images in common.

    The world, the cameras and the images of the first stay. Every other model is brought onto what
    is merged, and adds its other images, its points and its observations.

    models: two or more. output, scratch, storage, progress: as of `transform_model`.

    Raises ReconstructionError where a model has fewer than three images in common with the others,
    as `compare_models`, and for an output that is or lies in a given model, and StorageError.
    """
    need_extra()
    from pipeline.reconstruct.models.job import write_model
    from pipeline.reconstruct.models.merge import merged
    from pipeline.store.results import place_of

    if len(models) < 2:
        raise ArgumentError("merge: needs two models at least; give more.")
    return write_model(
        [place_of(one, storage) for one in models],
        place_of(output, storage),
        merged,
        scratch=scratch,
        listen=progress,
    )


def _text_of(file: Model, storage: dict[str, Any] | None) -> str:
    """The text of a file, a path or fsspec URL. Raises ArgumentError where it cannot be read."""
    from pipeline.store.folder import Folder
    from pipeline.store.retries import cause_of

    folder, name = Folder.of_file(file, storage)
    try:
        return folder.read_bytes(name).decode()
    except (OSError, StorageError, UnicodeDecodeError) as error:
        raise ArgumentError(
            f"{folder.shown}/{name}: cannot be read as text ({cause_of(error)}); check the file."
        ) from error
