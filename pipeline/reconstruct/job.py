"""Reconstruct a run: import it into a COLMAP database, map the database, write a short report.

RUN/run.json, images/, matches/ → OUTPUT/database.db, keypoints.parquet
                                → OUTPUT/sparse/0 …  COLMAP binary, the largest model first
                                → OUTPUT/points.ply, report.txt
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.errors import ReconstructionError, StorageError
from pipeline.events import Event, Listener, nobody
from pipeline.execute.worker import Died, call_watched
from pipeline.match.run import PLAN_FILE, finished_shards
from pipeline.match.turns.tries import of_later_round
from pipeline.reconstruct.cameras.focal import FocalDecision
from pipeline.reconstruct.cameras.options import CameraOptions
from pipeline.reconstruct.database import focal_priors, import_matches
from pipeline.reconstruct.depth import depth_notes, model_depth, pair_depths
from pipeline.reconstruct.mapping import MAPPERS, MAX_ERROR, MappingOptions, map_database
from pipeline.reconstruct.summary import (
    ModelSummary,
    ReconstructionSummary,
    doubtful_cameras,
)
from pipeline.store.folder import Folder
from pipeline.store.retries import redacted


def reconstruct_run(
    run: Folder,
    output: Path | str | None = None,
    images: str | None = None,
    mapper: str = "incremental",
    cameras: CameraOptions | None = None,
    *,
    radius: float = 2.0,
    threads: int = 1,
    listen: Listener = nobody,
) -> ReconstructionSummary:
    """Import a finished run into a COLMAP database and map it.

    output: a local folder, by default `sfm` in the folder of the run.
    images: folder of the photographs, for the colours of the points only; by default the one that
        run.json names.
    mapper: `incremental` or `global`.
    cameras, radius: see `import_matches`.
    threads: threads of the mapper, −1 for all cores. With one, the model is the same every time, to
        the last bit.

    The work runs in a process of its own, because COLMAP may end its process. `report.txt` is
    written also where nothing could be mapped. The summary then holds no model, and a note says
    why. Raises ReconstructionError or StorageError for options and runs that cannot be used.
    """
    if mapper not in MAPPERS:
        raise ReconstructionError(f"mapper {mapper!r} is unknown; give {' or '.join(MAPPERS)}.")
    if threads < 1 and threads != -1:
        raise ReconstructionError(
            f"{threads} threads: give a number above zero, or -1 for all cores."
        )
    cameras = cameras or CameraOptions()
    if output is None and not run.local:
        raise ReconstructionError(
            f"{run.shown}: is not on a local disk; say with --output where the database goes."
        )
    if "://" in str(output or ""):
        raise ReconstructionError(
            f"{redacted(output)}: results go to a local disk; give a folder without a protocol."
        )
    target = Path(output if output is not None else run.path("sfm"))
    photographs, long_side = _read_run(run)
    colours = _local_folder(images or photographs)
    chosen = MappingOptions(mapper, threads=threads)
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target):
            pass
    except OSError as error:
        raise StorageError(
            f"{target}: cannot be written to ({error.strerror}); check folder and rights."
        ) from error
    try:
        found: ReconstructionSummary = call_watched(
            _import_and_map, run, target, colours, chosen, cameras, long_side, radius, listen=listen
        )
        return found
    except Died as death:
        cure = "free memory, or give fewer images or pairs"
        raise ReconstructionError(
            f"{target}: the process of COLMAP was {death}; {cure}."
        ) from death


def _import_and_map(
    run: Folder,
    target: Path,
    colours: Path | None,
    mapping: MappingOptions,
    cameras: CameraOptions,
    long_side: int,
    radius: float,
    listen: Listener,
) -> ReconstructionSummary:
    """The work of `reconstruct_run`, on checked arguments. colours: folder of the photographs."""
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
    notes = [*_unfinished(run), *imported.camera_notes, *(decision.text() for decision in focal)]
    pairs = pair_depths(target / "database.db")
    notes += [*doubtful_cameras(models, priors), *depth_notes(models, pairs)]
    if not imported.verified:
        notes.append(
            "nothing to map: no pair has verified matches; match pairs of images that overlap."
        )
    elif not models:
        notes.append(
            "nothing to map: no two images share enough of the scene from different places."
        )
    elif colours is None:
        notes.append(
            "points have no colours: "
            "the photographs are not on this machine; give them by --images."
        )
    registered = {model.images[image].name for model in models for image in model.reg_image_ids()}
    names = pq.read_table(target / "keypoints.parquet", columns=["image"])["image"].to_pylist()
    summary = ReconstructionSummary(
        output=target,
        database=imported,
        models=[ModelSummary.of(model, model_depth(model, pairs)[0]) for model in models],
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


def _local_folder(url: str) -> Path | None:
    """The folder as a path, or None where it is not a folder of this machine."""
    try:
        path = Path(Folder(url).path())
    except StorageError:
        return None
    return path if path.is_dir() else None
