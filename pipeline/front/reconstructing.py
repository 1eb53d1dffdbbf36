"""Make and refine models."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.events import Listener, nobody
from pipeline.extras import need_extra
from pipeline.front.carrying import chosen_actors, closing

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.execute.executor import Actors, Executor
    from pipeline.reconstruct.blocks.options import BlockOptions
    from pipeline.reconstruct.cameras.options import CameraOptions
    from pipeline.reconstruct.models.refining import RefineSummary
    from pipeline.reconstruct.summary import ReconstructionSummary
    from pipeline.reconstruct.tracks.options import RefineOptions


def reconstruct(
    run: str | Sequence[str] | None = None,
    output: Path | str | None = None,
    *,
    images: str | None = None,
    masks: str | Path | None = None,
    mapper: str = "incremental",
    cameras: CameraOptions | None = None,
    refine: str | RefineOptions = "tracks",
    database: str | Path | None = None,
    blocks: str | int | BlockOptions = "auto",
    positions: str | Path | None = None,
    position_error: float | None = None,
    poses: str | Path | None = None,
    poses_are: str = "fixed",
    radius: float = 2.0,
    threads: int = 1,
    scratch: str | Path | None = None,
    storage: dict[str, Any] | None = None,
    executor: str | Executor = "auto",
    actors: str | int | Actors | None = None,
    progress: Listener = nobody,
) -> ReconstructionSummary:
    """Import a finished run into a COLMAP database, map it and refine its models.

    run: the output of `match`, a local path or an fsspec URL; several outputs are one scene. None
        where a database is given.
    output: a local path or fsspec URL. None takes `sfm` in the folder of a single run.
    images: the photographs. None takes those of the run.
    masks: the folder of their masks, see `match`. None takes those of the run. Nothing is observed
        where they are 0.
    mapper: `incremental` or `global`. cameras: how images become cameras.
    refine: `tracks` measures the tracks of every model again, see `RefineOptions`; `none` leaves
        models as they are mapped.
    database: a local COLMAP database with verified pairs, in place of a run. It stays as it is.
    blocks: `off` maps the scene by one mapper, a number in blocks of so many images, which are
        joined; `auto` decides by the scene. See `BlockOptions`.
    positions: a table (.csv, .parquet) of where photographs were taken: image, latitude, longitude
        and altitude, or image, x, y and z in metres; or `exif` for those of the photographs. The
        models are brought to them, into metres, and `world.json` beside each says how.
    position_error: metres by which they err, 1 sigma of a coordinate.
    poses: known poses: a COLMAP model (a folder, or images.txt), a table (.csv, .parquet), or
        transforms.json. poses_are: `fixed` keeps them, and the matches are triangulated with them;
        `priors` maps, and takes their positions as `positions`.
    radius: distance within which keypoints are merged, in pixels of the network's images.
    threads: of mapper and adjustment. With 1 the model is the same every time; −1 takes all cores.
    scratch: where a working folder is made if the output is at a URL; None: among temporary files.
    storage: options of the fsspec filesystems of runs, photographs, positions and output.
    executor, actors: what maps blocks and measures tracks, as of `match`.
    progress: called with an `Event` now and then.

    Returns the summary. It holds no model where nothing could be mapped, and its notes say why.
    Raises ReconstructionError, StorageError or PairListError for what cannot be used.
    """
    need_extra()
    from pipeline.reconstruct.blocks.options import chosen_blocks
    from pipeline.reconstruct.given import runs_or_database
    from pipeline.reconstruct.job import reconstruct_run
    from pipeline.reconstruct.poses.options import PoseOptions
    from pipeline.reconstruct.positions.trusted import PositionOptions
    from pipeline.reconstruct.tracks.options import chosen_refinement
    from pipeline.store.folder import Folder

    source = runs_or_database(run, database, storage)
    chosen = chosen_refinement(refine)
    cut = chosen_blocks(blocks)
    known = PoseOptions.of(poses, poses_are, positions, position_error)
    trusted = None if known else PositionOptions.of(positions, position_error)
    photographs = Folder(images, storage or {}) if images else None
    left_out = Folder(os.fspath(masks), storage or {}) if masks else None
    with closing(executor) as carrying:
        return reconstruct_run(
            *(source, output, photographs, mapper, cameras, chosen, cut, trusted, known),
            masks=left_out,
            executor=carrying,
            actors=chosen_actors(actors),
            radius=radius,
            threads=threads,
            storage=storage,
            scratch=scratch,
            listen=progress,
        )


def write_faces(
    run: str | Sequence[str],
    output: str | Path,
    *,
    images: str | None = None,
    storage: dict[str, Any] | None = None,
) -> int:
    """Write the faces of the panoramas of runs as PNG files in colour, for tools of COLMAP.

    run, images: as of `reconstruct`. output: a local folder. A face is named there as in the model.

    Returns the number of faces. Raises ReconstructionError for runs without panoramas, and
    ImageError for a panorama that cannot be read.
    """
    need_extra()
    from pipeline.photos.panoramas.colours import save_faces
    from pipeline.reconstruct.given import faces_given, runs_or_database
    from pipeline.store.folder import Folder

    photographs = Folder(images, storage or {}) if images else None
    source = runs_or_database(run, None, storage)
    return save_faces(faces_given(source, photographs), Path(output))


def plan_blocks(
    run: str | Sequence[str] | None = None,
    output: Path | str | None = None,
    *,
    images: str | None = None,
    masks: str | Path | None = None,
    cameras: CameraOptions | None = None,
    database: str | Path | None = None,
    blocks: str | int | BlockOptions = "auto",
    radius: float = 2.0,
    scratch: str | Path | None = None,
    storage: dict[str, Any] | None = None,
    executor: str | Executor = "auto",
    actors: str | int | Actors | None = None,
    progress: Listener = nobody,
) -> pa.Table:
    """The blocks in which `reconstruct` would map a scene, with what each costs, as BLOCKS.

    The database is made, and nothing is mapped. Arguments and errors are those of `reconstruct`. A
    scene that is not cut is one block for each part that hangs together.
    """
    need_extra()
    from pipeline.reconstruct.blocks.options import chosen_blocks
    from pipeline.reconstruct.given import runs_or_database
    from pipeline.reconstruct.job import planned_blocks
    from pipeline.store.folder import Folder

    source = runs_or_database(run, database, storage)
    cut = chosen_blocks(blocks)
    photographs = Folder(images, storage or {}) if images else None
    left_out = Folder(os.fspath(masks), storage or {}) if masks else None
    with closing(executor) as carrying:
        return planned_blocks(
            *(source, output, cameras, cut),
            images=photographs,
            masks=left_out,
            executor=carrying,
            actors=chosen_actors(actors),
            radius=radius,
            scratch=scratch,
            storage=storage,
            listen=progress,
        )


def refine(
    model: str | Path,
    images: str | Path,
    output: str | Path | None = None,
    *,
    options: RefineOptions | None = None,
    masks: str | Path | None = None,
    fixed_cameras: bool = False,
    threads: int = 1,
    scratch: str | Path | None = None,
    storage: dict[str, Any] | None = None,
    executor: str | Executor = "auto",
    actors: str | int | Actors | None = None,
    progress: Listener = nobody,
) -> RefineSummary:
    """Make a COLMAP model exact, whatever features it was made of.

    Every track is measured again against one view of it and completed by other views, then the
    bundle is adjusted. A command that was stopped goes on where it was.

    model: the folder of one model, a local path or fsspec URL, which stays as it is.
    images: the photographs, a local path or fsspec URL.
    output: a local path or fsspec URL. None takes the name of the model with `-refined`.
    options: see `RefineOptions`.
    masks: a folder of masks of the photographs, see `match`. The model is refined without what it
        observes where they are 0, and nothing is added there.
    fixed_cameras: keep all intrinsics.
    threads: of the adjustment. With 1 the model is the same every time; −1 takes all cores.
    scratch: as of `reconstruct`.
    storage: options of the fsspec filesystems.
    executor, actors, progress: as of `match`.

    Returns the summary. Raises ReconstructionError or StorageError for what cannot be used.
    """
    need_extra()
    from pipeline.reconstruct.models.refining import refine_colmap_model
    from pipeline.reconstruct.tracks.options import RefineOptions
    from pipeline.store.folder import Folder
    from pipeline.store.results import place_of

    source = place_of(model, storage)
    photographs = Folder(os.fspath(images), storage or {})
    left_out = Folder(os.fspath(masks), storage or {}) if masks else None
    target = output or (
        source.with_name(f"{source.resolve().name}-refined")
        if isinstance(source, Path)
        else f"{source.url.rstrip('/')}-refined"
    )
    with closing(executor) as carrying:
        place = place_of(target, storage)
        return refine_colmap_model(
            *(
                source,
                photographs,
                place,
                options or RefineOptions(),
                carrying,
                chosen_actors(actors),
            ),
            masks=left_out,
            fixed_cameras=fixed_cameras,
            threads=threads,
            scratch=scratch,
            listen=progress,
        )
