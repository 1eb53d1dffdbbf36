"""Reconstruct a run: import it into a COLMAP database, map and refine it, write a short report.

RUN/run.json, images/, matches/ → OUTPUT/database.db, keypoints.parquet
                                → OUTPUT/mapped/0 …  models as the mapper made them
                                → OUTPUT/refine/0 …  measurements of their tracks
                                → OUTPUT/sparse/0 …  COLMAP binary, the largest model first
                                → OUTPUT/points.ply, report.txt
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.errors import ReconstructionError, StorageError
from pipeline.events import Event, Listener, nobody
from pipeline.execute.executor import DEFAULT_ACTORS, Actors, Executor
from pipeline.execute.worker import Died, Worker
from pipeline.match.run import PLAN_FILE, finished_shards
from pipeline.match.turns.tries import of_later_round
from pipeline.reconstruct.cameras.focal import FocalDecision
from pipeline.reconstruct.cameras.options import CameraOptions
from pipeline.reconstruct.database import ImportSummary, focal_priors, import_matches, remove
from pipeline.reconstruct.depth import depth_notes, model_depth, pair_depths
from pipeline.reconstruct.mapping import (
    MAPPED,
    MAPPERS,
    MAX_ERROR,
    MappingOptions,
    map_database,
    opened_model,
    publish_models,
)
from pipeline.reconstruct.refine.adjust import Freedom
from pipeline.reconstruct.refine.job import Carrying, Refined, refine_model
from pipeline.reconstruct.summary import (
    ModelSummary,
    ReconstructionSummary,
    doubtful_cameras,
)
from pipeline.reconstruct.tracks.options import RefineOptions
from pipeline.store.folder import Folder
from pipeline.store.retries import redacted


def reconstruct_run(
    run: Folder,
    output: Path | str | None = None,
    images: str | None = None,
    mapper: str = "incremental",
    cameras: CameraOptions | None = None,
    refine: RefineOptions | None = None,
    *,
    executor: Executor,
    actors: Actors = DEFAULT_ACTORS,
    radius: float = 2.0,
    threads: int = 1,
    listen: Listener = nobody,
) -> ReconstructionSummary:
    """Import a finished run into a COLMAP database, map it, and refine the models.

    output: a local folder, by default `sfm` in the folder of the run.
    images: folder of the photographs; by default the one that run.json names. Models are not
        refined where it cannot be read.
    mapper: `incremental` or `global`.
    cameras, radius: see `import_matches`.
    refine: how models are refined; None leaves them as they are mapped.
    executor, actors: measure the tracks.
    threads: threads of mapper and adjustment, −1 for all cores. With one, the model is the same
        every time, to the last bit.

    COLMAP works in a process of its own, because it may end its process. `report.txt` is written
    also where nothing could be mapped. The summary then holds no model, and a note says why. A
    command that was stopped while it refined maps again, and goes on with what was refined.

    Raises ReconstructionError or StorageError for options and runs that cannot be used.
    """
    if mapper not in MAPPERS:
        raise ReconstructionError(f"mapper {mapper!r} is unknown; give {' or '.join(MAPPERS)}.")
    if threads < 1 and threads != -1:
        raise ReconstructionError(
            f"{threads} threads: give a number above zero, or -1 for all cores."
        )
    cameras = cameras or CameraOptions()
    target = _target(run, output)
    photographs, long_side = _read_run(run)
    source = Folder(images or photographs, run.options)
    chosen = MappingOptions(mapper, threads=threads)
    try:
        with Worker() as colmap:
            colours = _local_folder(source)
            mapped: Mapped = colmap.ask_watched(
                *(_import_and_map, run, target, colours, chosen, cameras, long_side, radius),
                listen=listen,
            )
            carrying = Carrying(executor, colmap, actors, listen)
            freedom = _freedom(mapped, cameras, threads)
            refined, notes = _refined(mapped, source, target, refine, carrying, freedom)
            summary: ReconstructionSummary = colmap.ask(_finish, target, mapped, refined, notes)
            return summary
    except Died as death:
        cure = "free memory, or give fewer images or pairs"
        raise ReconstructionError(
            f"{target}: the process of COLMAP was {death}; {cure}."
        ) from death


def _target(run: Folder, output: Path | str | None) -> Path:
    """The folder of the results, which can be written to. Raises as `reconstruct_run`."""
    if output is None and not run.local:
        raise ReconstructionError(
            f"{run.shown}: is not on a local disk; say with --output where the database goes."
        )
    if "://" in str(output or ""):
        raise ReconstructionError(
            f"{redacted(output)}: results go to a local disk; give a folder without a protocol."
        )
    target = Path(output if output is not None else run.path("sfm"))
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target):
            pass
    except OSError as error:
        raise StorageError(
            f"{target}: cannot be written to ({error.strerror}); check folder and rights."
        ) from error
    return target


@dataclass(frozen=True)
class Mapped:
    """What import and mapping came to.

    models: the points of each model, the largest model first. first: the name of an image of each.
    priors: focal lengths in pixels that EXIF tells, by camera.
    """

    database: ImportSummary
    models: list[int]
    first: list[str]
    focal: list[FocalDecision]
    priors: dict[int, float]
    notes: list[str]
    coloured: bool


def _import_and_map(
    run: Folder,
    target: Path,
    colours: Path | None,
    mapping: MappingOptions,
    cameras: CameraOptions,
    long_side: int,
    radius: float,
    listen: Listener,
) -> Mapped:
    """Import and map, on checked arguments. colours: folder of the photographs."""
    imported = import_matches(
        run, target / "database.db", cameras, long_side=long_side, radius=radius
    )
    text = f"{imported.images} images, {imported.verified} verified pairs"
    listen(Event("imported", f"{text}, {imported.keypoints} keypoints"))
    priors = focal_priors(target / "database.db")
    models: list[Any] = []
    focal: list[FocalDecision] = []
    if imported.verified:
        known = {camera.camera for camera in imported.shared_cameras if camera.fixed}
        mapping = replace(
            mapping,
            fixed_cameras=frozenset(known),
            priors=priors,
            max_error=max(MAX_ERROR, 2.0 * imported.resize_factor),
        )
        models, focal = map_database(target / "database.db", target, mapping, colours, listen)
    return Mapped(
        imported,
        [model.num_points3D() for model in models],
        [model.images[min(model.reg_image_ids())].name for model in models],
        focal,
        priors,
        _unfinished(run),
        colours is not None,
    )


def _freedom(mapped: Mapped, cameras: CameraOptions, threads: int) -> Freedom:
    """What refining may change of the cameras."""
    shared = mapped.database.shared_cameras
    return Freedom(
        fixed=frozenset(camera.camera for camera in shared if camera.fixed),
        given=frozenset(camera.camera for camera in shared if camera.given),
        share=cameras.sharing == "auto",
        richer=cameras.model == "auto",
        priors=mapped.priors,
        threads=threads,
    )


def _refined(
    mapped: Mapped,
    source: Folder,
    target: Path,
    options: RefineOptions | None,
    carrying: Carrying,
    freedom: Freedom,
) -> tuple[list[Refined], list[str]]:
    """Every model as it is now, and notes about what could not be refined."""
    models = [
        Refined(target / MAPPED / str(number), [], []) for number in range(len(mapped.models))
    ]
    work = target / "refine"
    if options is None or not models:
        remove(work)
        return models, mapped.database.camera_notes
    try:
        readable = source.exists(mapped.first[0])
    except StorageError:
        readable = False
    if not readable:
        cause = f"not refined: the photographs are not in {source.shown}; give them by --images."
        return models, [*mapped.database.camera_notes, cause]
    for number, points in enumerate(mapped.models):
        if points:
            how = work / str(number), options, carrying, freedom
            models[number] = refine_model(models[number].model, source, *how)
    return models, []


def _finish(
    target: Path, mapped: Mapped, refined: list[Refined], notes: list[str]
) -> ReconstructionSummary:
    """Publish the models and write the report."""
    models = [opened_model(made.model) for made in refined]
    publish_models(models, target)
    if not any(made.rounds for made in refined):  # they are the same
        remove(target / MAPPED)
    imported = mapped.database
    focal = [decision for decision in mapped.focal if not refined[decision.model].better]
    notes = [*mapped.notes, *notes, *(decision.text() for decision in focal)]
    pairs = pair_depths(target / "database.db")
    notes += [*doubtful_cameras(models, mapped.priors), *depth_notes(models, pairs)]
    notes += [failure for made in refined for failure in made.failures]
    if not imported.verified:
        notes.append(
            "nothing to map: no pair has verified matches; match pairs of images that overlap."
        )
    elif not models:
        notes.append(
            "nothing to map: no two images share enough of the scene from different places."
        )
    elif not mapped.coloured:
        notes.append(
            "points have no colours: "
            "the photographs are not on this machine; give them by --images."
        )
    registered = {model.images[image].name for model in models for image in model.reg_image_ids()}
    names = pq.read_table(target / "keypoints.parquet", columns=["image"])["image"].to_pylist()
    summary = ReconstructionSummary(
        output=target,
        database=imported,
        models=[
            ModelSummary.of(model, model_depth(model, pairs)[0], made.rounds)
            for model, made in zip(models, refined, strict=True)
        ],
        focal=focal,
        unregistered=[name for name in names if name not in registered],
        notes=notes,
    )
    (target / "report.txt").write_text(summary.text(), encoding="utf-8")
    return summary


def _unfinished(run: Folder) -> list[str]:
    """A note where shards of the plan are not matched yet. Other programs write no plan."""
    if not run.exists(PLAN_FILE):
        return []
    planned = run.read_table(PLAN_FILE, ["shard"]).num_rows
    left = planned - sum(not of_later_round(name) for name in finished_shards(run))
    if left <= 0:
        return []
    return [
        f"{left} of {planned} shards of the run are not matched yet; run eloftr match "
        "to its end and reconstruct again."
    ]


def _read_run(run: Folder) -> tuple[str, int]:
    """The root of the images, and the long side in pixels, as run.json names them."""
    try:
        described = run.read_json("run.json")
        return str(described["images"]), int(described["options"]["long_side"])
    except FileNotFoundError:
        raise ReconstructionError(
            f"{run.shown}: holds no run.json; give the output folder of eloftr match."
        ) from None
    except (KeyError, TypeError, ValueError):
        raise ReconstructionError(
            f"{run.shown}/run.json: lacks images or options.long_side; run eloftr match."
        ) from None


def _local_folder(folder: Folder) -> Path | None:
    """The folder as a path, or None where it is not a folder of this machine."""
    path = Path(folder.path()) if folder.local else None
    return path if path is not None and path.is_dir() else None
