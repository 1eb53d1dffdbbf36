"""Refine a sparse model in rounds, through an executor; a run that was stopped goes on.

    MODEL → round-0/image-….parquet (TRACKS, one a reference view) → round-0/model
          → round-1/image-….parquet                                → round-1/model → …

A file appears when it is whole, so the files alone say what is done. `refine.json` names the model,
the photographs' folder and the options that they belong to. Files of others are removed. Where the
results go to a URL, every file is published there as it is made, the summary of a round last.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.events import Event, Progress, counted
from pipeline.execute.executor import Stage, tasks_of
from pipeline.masks.folder import Masks
from pipeline.photos.panoramas.source import FaceFolder
from pipeline.photos.source import Folders
from pipeline.reconstruct.carrying import Carrying
from pipeline.reconstruct.refine.adjust import Freedom
from pipeline.reconstruct.refine.round import RoundSummary, finish_round, masked_model
from pipeline.reconstruct.tracks.options import RefineOptions
from pipeline.reconstruct.tracks.plan import ReferenceTask, plan_rest
from pipeline.reconstruct.tracks.task import UNREAD, make_measurer
from pipeline.store.belonging import keep_what_belongs
from pipeline.store.folder import Folder
from pipeline.store.parquet import parquet_bytes
from pipeline.store.results import Results

VERSION = 2  # counts up when the same model and options give other measurements
# Files of a COLMAP model, binary or text.
FILES_OF_A_MODEL = [
    f"{name}.{kind}"
    for name in ("cameras", "images", "points3D", "frames", "rigs")
    for kind in ("bin", "txt")
]


KEPT = "kept.parquet"  # of a round: observations that were measured before, TRACKS


@dataclass(frozen=True)
class Refined:
    """A refined model.

    model: its folder, the one that was given where no round made it better. rounds: what each came
    to. failures: a sentence for every photograph or mask that could not be read. masked: its
    observations that were left out because they lie in masked places.
    """

    model: Path
    rounds: list[RoundSummary]
    failures: list[str]
    masked: int = 0

    @property
    def better(self) -> bool:
        """Whether a round made the model better."""
        return any(made.kept for made in self.rounds)


def refine_model(
    model: Path,
    photographs: Folder | Folders | FaceFolder,
    output: Results,
    options: RefineOptions,
    carrying: Carrying,
    freedom: Freedom,
    masks: Masks | None = None,
    before: Path | None = None,
) -> Refined:
    """Refine the model in a folder; the given one stays as it is.

    output: where the files of the work go, which are kept.
    freedom: which intrinsics may change.
    masks: of the photographs. The refined model observes nothing in a masked place, whether or not
        a round makes it better.
    before: the folder of a model that was refined and that this one goes on from, see `plan_rest`.
        What it observes is not measured again.

    Raises Died where COLMAP's process ends, and ReconstructionError where nothing but observations
    in masked places is there.
    """
    _begin(
        [model, *([before] if before else [])], photographs, output.folder, options, freedom, masks
    )
    rounds: list[RoundSummary] = []
    failures: list[str] = []
    masked = 0
    if masks is not None:
        target = output.work / "masked"
        model, masked, failures = carrying.colmap.ask(
            masked_model, model, masks, photographs, target
        )
    sizes = options.long_sides()
    for number, long_side in enumerate(sizes):
        files = output.below(f"round-{number}")
        files.work.mkdir(parents=True, exist_ok=True)
        files.fetch()
        folder = files.work
        views, tasks, kept = carrying.colmap.ask(plan_rest, model, options, before)
        make = partial(make_measurer, views, photographs, options, long_side, masks)
        stage = Stage("refine", make, holds_model=True)
        failures += _measure(stage, tasks, files, long_side, carrying)
        tables = [folder / f"{task.name}.parquet" for task in tasks]
        if len(kept):
            files.publish(KEPT, parquet_bytes(kept))
            tables.append(folder / KEPT)
        turn = number == 0, number == len(sizes) - 1
        finish = partial(
            finish_round, model, tables, folder / "model", long_side, turn, options, freedom
        )
        summary, freedom = _finished(finish, files, freedom, carrying)
        rounds.append(summary)
        if summary.kept:
            model = folder / "model"
    return Refined(model, rounds, sorted(set(failures)), masked)


def _begin(
    models: Sequence[Path],
    photographs: Folder | Folders | FaceFolder,
    files: Folder,
    options: RefineOptions,
    freedom: Freedom,
    masks: Masks | None,
) -> None:
    """Remove what belongs to other models or other options, and say what this belongs to."""
    digest = hashlib.sha256()
    for path in (model / name for model in models for name in FILES_OF_A_MODEL):
        if path.is_file():
            digest.update(path.read_bytes())
    made_of: dict[str, Any] = {
        "version": VERSION,
        "model": digest.hexdigest(),
        "images": photographs.shown,
        "options": asdict(options),
        "cameras": {
            **asdict(freedom),
            **{name: sorted(getattr(freedom, name)) for name in ("fixed", "given", "principal")},
        },
    }
    if masks is not None:
        made_of["masks"] = masks.described()
    keep_what_belongs(files, "refine.json", made_of)


def _measure(
    stage: Stage,
    tasks: list[ReferenceTask],
    files: Results,
    long_side: int,
    carrying: Carrying,
) -> list[str]:
    """Measure what is not measured yet. Returns sentences about photographs that were not read."""
    done_names = {path.name for path in files.work.glob("*.parquet")}
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
    schemas = (pq.read_schema(files.work / f"{task.name}.parquet") for task in tasks)
    failed = (schema.metadata.get(UNREAD, b"").decode() for schema in schemas)
    return [line for text in failed for line in text.splitlines()]


def _finished(
    finish: Callable[[], tuple[RoundSummary, Freedom]],
    files: Results,
    freedom: Freedom,
    carrying: Carrying,
) -> tuple[RoundSummary, Freedom]:
    """The end of a round, from its file where it was reached before."""
    marker = files.work / "round.json"
    if not marker.is_file():
        carrying.listen(Event("refining", "adjusting the model"))
        made, found = carrying.colmap.ask(finish)
        described = {"summary": asdict(made), "principal": sorted(found.principal)}
        Folder(str(files.work)).publish_json("round.json", described)
        files.send("model")
        files.send("round.json")
    described = json.loads(marker.read_bytes())
    summary = RoundSummary(**described["summary"])
    text = f"track length {summary.track_length:.2f}, {summary.error:.3f} px"
    fields: dict[str, Any] = asdict(summary)
    carrying.listen(Event("refined", text if summary.kept else f"not kept: {summary.why}", fields))
    return summary, replace(freedom, principal=frozenset(described["principal"]))
