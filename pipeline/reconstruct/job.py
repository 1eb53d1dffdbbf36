"""Reconstruct a run: import it into a COLMAP database, map and refine it, write a short report.

RUN/run.json, images/, matches/ → OUTPUT/database.db, keypoints.parquet
                                → OUTPUT/blocks/ …   models of the blocks of a large scene
                                → OUTPUT/mapped/0 …  models as the mapper made them
                                → OUTPUT/refine/0 …  measurements of their tracks
                                → OUTPUT/sparse/0 …  COLMAP binary, the largest model first
                                → OUTPUT/points.ply, summary.json, report.txt

Where OUTPUT is a URL, blocks and measurements are published as they are made, and the rest in the
end, report.txt last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa

from pipeline.errors import ReconstructionError, StorageError
from pipeline.events import Listener, nobody
from pipeline.execute.executor import DEFAULT_ACTORS, Actors, Executor
from pipeline.execute.worker import Died, Worker
from pipeline.photos.panoramas.source import FaceFolder
from pipeline.reconstruct.blocks.cut import blocks_table
from pipeline.reconstruct.blocks.graph import image_names
from pipeline.reconstruct.blocks.options import BlockOptions
from pipeline.reconstruct.cameras.adjust import check_threads
from pipeline.reconstruct.cameras.options import CameraOptions
from pipeline.reconstruct.carrying import Carrying
from pipeline.reconstruct.database import MADE_FROM_IT, remove
from pipeline.reconstruct.depth import depth_notes, model_depth, pair_depths
from pipeline.reconstruct.given import DATABASE, Given, Imported, imported_from, opened_given
from pipeline.reconstruct.joining.job import map_blocks, plan_scene
from pipeline.reconstruct.mapping import (
    MAPPED,
    MAPPERS,
    MappedModels,
    MappingOptions,
    map_database,
    opened_model,
    publish_models,
)
from pipeline.reconstruct.poses.options import PoseOptions
from pipeline.reconstruct.poses.priors import rotation_notes
from pipeline.reconstruct.poses.triangulate import keep_poses, pose_notes, triangulate_database
from pipeline.reconstruct.positions.align import align_models
from pipeline.reconstruct.positions.trusted import PositionOptions, TrustedPositions
from pipeline.reconstruct.refine.adjust import Freedom
from pipeline.reconstruct.refine.job import Refined, refine_model
from pipeline.reconstruct.summary import (
    ModelSummary,
    ReconstructionSummary,
    doubtful_cameras,
    panorama_notes,
    write_summary,
)
from pipeline.reconstruct.tracks.options import RefineOptions
from pipeline.reconstruct.world.frames import placed_world
from pipeline.store.belonging import remove_all
from pipeline.store.folder import Folder
from pipeline.store.results import Results

DELIVERED = (DATABASE, *reversed(MADE_FROM_IT))  # in this order


def reconstruct_run(
    source: Sequence[Folder] | Path,
    output: Path | str | None = None,
    images: Folder | None = None,
    mapper: str = "incremental",
    cameras: CameraOptions | None = None,
    refine: RefineOptions | None = None,
    blocks: BlockOptions | None = None,
    positions: PositionOptions | None = None,
    poses: PoseOptions | None = None,
    *,
    masks: Folder | None = None,
    executor: Executor,
    actors: Actors = DEFAULT_ACTORS,
    radius: float = 2.0,
    threads: int = 1,
    scratch: str | Path | None = None,
    storage: dict[str, Any] | None = None,
    listen: Listener = nobody,
) -> ReconstructionSummary:
    """Import finished runs into a COLMAP database, map it, and refine the models.

    source: the folders of the runs, which are one scene, or a COLMAP database with verified pairs.
    output: a local path or a URL, by default `sfm` in the folder of the run. A database and several
        runs need one.
    images: folder of the photographs; by default the one that run.json names. Models are not
        refined where it cannot be read.
    mapper: `incremental` or `global`.
    cameras, radius: see `import_matches`.
    refine: how models are refined; None leaves them as they are mapped.
    blocks: how a large scene is cut into blocks, which are mapped one by one and joined.
    positions: where photographs were taken. They place blocks, check their joins, and bring the
        models into metres.
    poses: where photographs were taken and how they were turned. Fixed ones are kept, and nothing
        is mapped: matches are triangulated with them. Priors are positions as above.
    masks: folder of masks of the photographs; by default that of the run. Nothing is observed where
        they are 0.
    executor, actors: merge keypoints, map blocks, and measure the tracks.
    threads: threads of mapper and adjustment, −1 for all cores. With one, the model is the same
        every time, to the last bit.
    scratch: see `opened_results`.
    storage: options of the fsspec filesystems of output and positions.

    COLMAP works in a process of its own, because it may end its process. `report.txt` is written
    also where nothing could be mapped. The summary then holds no model, and a note says why. A
    command that was stopped while it refined maps again, and goes on with what was refined.

    Raises ReconstructionError or StorageError for options and runs that cannot be used.
    """
    if mapper not in MAPPERS:
        raise ReconstructionError(f"mapper {mapper!r} is unknown; give {' or '.join(MAPPERS)}.")
    check_threads(threads)
    blocks = blocks or BlockOptions()
    what = source, images, cameras, radius, output, scratch, storage, masks
    with opened_given(*what, positions, poses, listen) as given, colmap_process(given) as colmap:
        check_blocks(given, blocks)
        carrying = Carrying(executor, colmap, actors, listen)

        def map_it(imported: Imported) -> MappedModels:
            how = imported.mapping(mapper, threads), blocks, carrying
            return _mapped(imported, given, *how)

        asked = {
            "runs": None if isinstance(source, Path) else [*source],
            "database": source if isinstance(source, Path) else None,
            "images": images,
            "masks": masks,
            "mapper": mapper,
            "cameras": cameras or CameraOptions(),
            "radius": radius,
            "threads": threads,
            "blocks": blocks,
            "refine": refine,
            "positions": positions,
            "poses": poses,
        }
        return carry_out(given, carrying, map_it, cameras, refine, threads, asked)


def carry_out(
    given: Given,
    carrying: Carrying,
    map_it: Callable[[Imported], MappedModels],
    cameras: CameraOptions | None,
    refine: RefineOptions | None,
    threads: int,
    asked: Mapping[str, Any],
) -> ReconstructionSummary:
    """Import what is given, map it by `map_it`, refine the models and deliver the results.

    asked: the options of the work, for `write_summary`.
    """
    imported = imported_from(given, carrying)
    mapped = map_it(imported)
    freedom = _freedom(imported, cameras or CameraOptions(), threads)
    freedom = replace(
        freedom,
        principal=mapped.principal - freedom.given,
        still=given.fixed,
        places=imported.places,
    )
    refined, notes = _refined(imported, mapped, given, refine, carrying, freedom)
    summary: ReconstructionSummary = carrying.colmap.ask(
        _finish, given, imported, mapped, refined, notes, asked
    )
    given.results.deliver(DELIVERED, carrying.listen)
    return replace(summary, output=given.results.shown)


@contextmanager
def colmap_process(given: Given) -> Iterator[Worker]:
    """The process of COLMAP, whose death is a sentence about the folder of the results."""
    try:
        with Worker() as colmap:
            yield colmap
    except Died as death:
        cure = "free memory, or give fewer images or pairs"
        raise ReconstructionError(
            f"{given.results.shown}: the process of COLMAP was {death}; {cure}."
        ) from death


def planned_blocks(
    source: Sequence[Folder] | Path,
    output: Path | str | None = None,
    cameras: CameraOptions | None = None,
    blocks: BlockOptions | None = None,
    *,
    images: Folder | None = None,
    masks: Folder | None = None,
    executor: Executor,
    actors: Actors = DEFAULT_ACTORS,
    radius: float = 2.0,
    scratch: str | Path | None = None,
    storage: dict[str, Any] | None = None,
    listen: Listener = nobody,
) -> pa.Table:
    """The blocks that `reconstruct_run` would map, as BLOCKS; all images in one where it cuts none.

    The database is made, and nothing is mapped. Where the output holds results, they stay, and the
    database is made beside them and removed. Arguments and errors are those of `reconstruct_run`.
    """
    blocks = blocks or BlockOptions()
    with (
        opened_given(source, images, cameras, radius, output, scratch, storage, masks) as given,
        TemporaryDirectory(prefix=".plan-", dir=given.target) as beside,
    ):
        check_blocks(given, blocks)
        results = given.results
        if results.holds(MADE_FROM_IT):
            results = Results(Path(beside), Folder(beside))
        given = replace(given, results=results)
        with colmap_process(given) as colmap:
            imported = imported_from(given, Carrying(executor, colmap, actors, listen))
        count = imported.database.images
        size = 0 if imported.database.panoramas else blocks.size_for(count)
        plan = plan_scene(given.database, size or count, blocks)
        results.deliver(DELIVERED, listen)
    return blocks_table(plan.blocks)


def check_blocks(given: Given, blocks: BlockOptions) -> None:
    """Raise ReconstructionError where blocks are asked for that would cut panoramas apart."""
    if blocks.size and given.fixed:
        raise ReconstructionError(
            f"blocks of {blocks.size} images: fixed poses are triangulated as a whole; give "
            "--blocks off, or --poses-are priors."
        )
    if blocks.size and isinstance(given.photographs, FaceFolder):
        raise ReconstructionError(
            f"blocks of {blocks.size} images: a run with panoramas is mapped as a whole, because "
            "blocks would part the faces of a panorama; give --blocks off."
        )


def _mapped(
    imported: Imported,
    given: Given,
    mapping: MappingOptions,
    blocks: BlockOptions,
    carrying: Carrying,
) -> MappedModels:
    """Map the database by one mapper, or in blocks."""
    database, colours = given.database, given.colours
    size = 0 if imported.database.panoramas else blocks.size_for(imported.database.images)
    if not imported.database.verified:
        return MappedModels()
    if given.fixed:
        what = database, given.target, given.poses, mapping, colours
        made: MappedModels = carrying.colmap.ask_watched(
            triangulate_database, *what, listen=carrying.listen
        )
        return made
    if size:
        of_files = colours if isinstance(colours, Path) else None  # blocks have no panoramas
        how = size, blocks, mapping, given.positions, of_files, carrying
        return map_blocks(database, given.results, *how)
    models: MappedModels = carrying.colmap.ask_watched(
        *(map_database, database, given.target, mapping, colours), listen=carrying.listen
    )
    return models


def _freedom(imported: Imported, cameras: CameraOptions, threads: int) -> Freedom:
    """What refining may change of the cameras."""
    shared = imported.database.shared_cameras
    return Freedom(
        fixed=imported.database.fixed_cameras,
        given=frozenset(camera.camera for camera in shared if camera.given),
        share=cameras.sharing == "auto",
        richer=cameras.model == "auto",
        priors=imported.priors,
        threads=threads,
    )


def _refined(
    imported: Imported,
    mapped: MappedModels,
    given: Given,
    options: RefineOptions | None,
    carrying: Carrying,
    freedom: Freedom,
) -> tuple[list[Refined], list[str]]:
    """Every model as it is now, and notes about what could not be refined."""
    target, source = given.target, given.photographs
    models = [
        Refined(target / MAPPED / str(number), [], []) for number in range(len(mapped.points))
    ]
    work = given.results.below("refine")
    if options is None or not models:
        remove_all(work.folder)
        return models, imported.database.camera_notes
    try:
        readable = source is not None and any(source.exists(name) for name in mapped.some)
    except StorageError:
        readable = False
    if source is None or not readable:
        where = "given" if source is None else f"in {source.shown}"
        cause = f"not refined: the photographs are not {where}; give them by --images."
        return models, [*imported.database.camera_notes, cause]
    for number, points in enumerate(mapped.points):
        if points:
            how = work.below(str(number)), options, carrying, freedom, given.masks
            before = None if number else mapped.before
            models[number] = refine_model(models[number].model, source, *how, before)
    return models, []


def _in_the_world(
    models: Sequence[Any], positions: TrustedPositions | None
) -> tuple[list[str], list[bytes | None]]:
    """Bring the models to the positions; sentences on it, and what `world.json` says of each."""
    if positions is None:
        return [], []
    placed, notes = align_models(models, positions)
    table = positions.frame.table
    return notes, [None if one is None else placed_world(one, table) for one in placed]


def _finish(
    given: Given,
    made: Imported,
    mapped: MappedModels,
    refined: list[Refined],
    notes: list[str],
    asked: Mapping[str, Any],
) -> ReconstructionSummary:
    """Publish the models and write the summary."""
    target = given.target
    models = [opened_model(one.model) for one in refined]
    placed, worlds = _in_the_world(models, given.positions)
    if given.positions and given.poses:
        placed += rotation_notes(models, given.poses, given.positions)
    if given.fixed and given.poses is not None:
        placed = pose_notes(given.poses, image_names(given.database))
        for model in models:
            keep_poses(model, given.poses)
    publish_models(models, target, worlds)
    if not any(one.rounds for one in refined):  # they are the same
        remove(target / MAPPED)
    imported = made.database
    notes = [*imported.mask_notes, *notes]
    focal = [decision for decision in mapped.focal if not refined[decision.model].better]
    notes = [*given.notes, *mapped.notes, *notes, *(decision.text() for decision in focal)]
    pairs = pair_depths(given.database)
    notes += [*doubtful_cameras(models, made.priors), *depth_notes(models, pairs)]
    notes += panorama_notes(models, imported.panoramas)
    notes += [*placed, *(failure for one in refined for failure in one.failures)]
    if not imported.verified:
        notes.append(
            "nothing to map: no pair has verified matches; match pairs of images that overlap."
        )
    elif not models:
        notes.append(
            "nothing to map: no two images share enough of the scene from different places."
        )
    elif given.colours is None:
        notes.append(
            "points have no colours: "
            "the photographs are not on this machine; give them by --images."
        )
    registered = {model.images[image].name for model in models for image in model.reg_image_ids()}
    names = image_names(given.database)
    summary = ReconstructionSummary(
        output=target,
        database=imported,
        models=[
            ModelSummary.of(model, model_depth(model, pairs)[0], one.rounds)
            for model, one in zip(models, refined, strict=True)
        ],
        focal=focal,
        masks=None if given.masks is None else given.masks.counts,
        unregistered=[name for name in names if name not in registered],
        notes=notes,
    )
    write_summary(target, summary, asked)
    return summary
