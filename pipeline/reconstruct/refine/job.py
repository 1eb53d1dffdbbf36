"""Refine a sparse model in rounds, through an executor; a run that was stopped goes on.

    MODEL → round-0/image-….parquet (TRACKS, one a reference view) → round-0/model
          → round-1/image-….parquet                                → round-1/model → …

A file appears when it is whole, so the files alone say what is done. `refine.json` names the model,
the photographs' folder and the options that they belong to. Files of others are removed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.errors import ReconstructionError
from pipeline.events import Event, Listener, Progress, counted, nobody
from pipeline.execute.executor import DEFAULT_ACTORS, Actors, Executor, Stage, tasks_of
from pipeline.execute.worker import Died, Worker
from pipeline.photos.source import Folders
from pipeline.reconstruct.refine.adjust import Freedom
from pipeline.reconstruct.refine.round import RoundSummary, finish_round
from pipeline.reconstruct.tracks.options import RefineOptions
from pipeline.reconstruct.tracks.plan import ReferenceTask, plan_round
from pipeline.reconstruct.tracks.task import UNREAD, make_measurer
from pipeline.store.folder import Folder
from pipeline.store.parquet import parquet_bytes

VERSION = 1  # counts up when the same model and options give other measurements
MODEL_FILES = ("cameras.bin", "images.bin", "points3D.bin", "frames.bin", "rigs.bin")


@dataclass(frozen=True)
class Carrying:
    """What carries out the work.

    executor, actors: measure. colmap: one process, which plans and adjusts. listen: is told.
    """

    executor: Executor
    colmap: Worker
    actors: Actors = DEFAULT_ACTORS
    listen: Listener = nobody


@dataclass(frozen=True)
class Refined:
    """A refined model.

    model: its folder, the one that was given where no round made it better. rounds: what each came
    to. failures: a sentence for every photograph that could not be read.
    """

    model: Path
    rounds: list[RoundSummary]
    failures: list[str]

    @property
    def better(self) -> bool:
        """Whether a round made the model better."""
        return any(made.kept for made in self.rounds)


def refine_model(
    model: Path,
    photographs: Folder | Folders,
    output: Path,
    options: RefineOptions,
    carrying: Carrying,
    freedom: Freedom,
) -> Refined:
    """Refine the model in a folder; the given one stays as it is.

    output: a local folder for the files of the work, which are kept.
    freedom: which intrinsics may change.

    Raises ReconstructionError where COLMAP's process ends, as it does where memory ends.
    """
    _begin(model, photographs, output, options, freedom)
    rounds: list[RoundSummary] = []
    failures: list[str] = []
    try:
        sizes = options.long_sides()
        for number, long_side in enumerate(sizes):
            folder = output / f"round-{number}"
            folder.mkdir(exist_ok=True)
            views, tasks = carrying.colmap.ask(plan_round, model, options)
            make = partial(make_measurer, views, photographs, options, long_side)
            stage = Stage("refine", make, holds_model=True)
            failures += _measure(stage, tasks, folder, long_side, carrying)
            tables = [folder / f"{task.name}.parquet" for task in tasks]
            turn = number == 0, number == len(sizes) - 1
            finish = partial(
                finish_round, model, tables, folder / "model", long_side, turn, options, freedom
            )
            summary, freedom = _finished(finish, folder, freedom, carrying)
            rounds.append(summary)
            if summary.kept:
                model = folder / "model"
    except Died as death:
        raise ReconstructionError(
            f"{output}: the process that refines was {death}; free memory, or refine fewer images."
        ) from death
    return Refined(model, rounds, sorted(set(failures)))


def _begin(
    model: Path,
    photographs: Folder | Folders,
    output: Path,
    options: RefineOptions,
    freedom: Freedom,
) -> None:
    """Remove what belongs to another model or other options, and say what this belongs to."""
    digest = hashlib.sha256()
    for name in MODEL_FILES:
        if (model / name).is_file():
            digest.update((model / name).read_bytes())
    described = {
        "version": VERSION,
        "model": digest.hexdigest(),
        "images": photographs.shown,
        "options": asdict(options),
        "cameras": {
            **asdict(freedom),
            **{name: sorted(getattr(freedom, name)) for name in ("fixed", "given", "principal")},
        },
    }
    text = json.dumps(described, indent=1, sort_keys=True) + "\n"
    marker = output / "refine.json"
    if marker.is_file() and marker.read_text(encoding="utf-8") == text:
        return
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    Folder(str(output)).publish("refine.json", text.encode())


def _measure(
    stage: Stage,
    tasks: list[ReferenceTask],
    folder: Path,
    long_side: int,
    carrying: Carrying,
) -> list[str]:
    """Measure what is not measured yet. Returns sentences about photographs that were not read."""
    files = Folder(str(folder))
    done_names = {*files.list((".parquet",), recursive=False)}
    todo = [task for task in tasks if f"{task.name}.parquet" not in done_names]
    done = len(tasks) - len(todo)
    fields = {"images": len(tasks), "done": done, "long_side": long_side}
    text = f"{counted(len(tasks), 'image')} at {long_side} px, {done} done"
    carrying.listen(Event("refining", text, fields))
    if todo:
        carrying.executor.start()
        progress = Progress(len(todo), "images", carrying.listen)
        work = tasks_of((task.name for task in todo), todo)
        results = carrying.executor.run([stage], work, carrying.actors, carrying.listen)
        try:
            for result in results:
                files.publish(f"{result.name}.parquet", parquet_bytes(result.tracks))
                progress.advance(1, int(not len(result.tracks)))
        finally:
            results.close()
    schemas = (pq.read_schema(folder / f"{task.name}.parquet") for task in tasks)
    failed = (schema.metadata.get(UNREAD, b"").decode() for schema in schemas)
    return [line for text in failed for line in text.splitlines()]


def _finished(
    finish: Callable[[], tuple[RoundSummary, Freedom]],
    folder: Path,
    freedom: Freedom,
    carrying: Carrying,
) -> tuple[RoundSummary, Freedom]:
    """The end of a round, from its file where it was reached before."""
    marker = folder / "round.json"
    if not marker.is_file():
        carrying.listen(Event("refining", "adjusting the model"))
        made, found = carrying.colmap.ask(finish)
        described = {"summary": asdict(made), "principal": sorted(found.principal)}
        Folder(str(folder)).publish_json("round.json", described)
    described = json.loads(marker.read_bytes())
    summary = RoundSummary(**described["summary"])
    text = f"track length {summary.track_length:.2f}, {summary.error:.3f} px"
    fields: dict[str, Any] = asdict(summary)
    carrying.listen(Event("refined", text if summary.kept else f"not kept: {summary.why}", fields))
    return summary, replace(freedom, principal=frozenset(described["principal"]))
