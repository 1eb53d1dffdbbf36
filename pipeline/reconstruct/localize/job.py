"""Localize photographs in a COLMAP model, which stays as it is.

candidates/       which images of the model each query is matched with
run/              their pairs, a run folder as the matching job writes it
placed/           rows of POSES of a few queries each, with which a stopped command goes on
poses.parquet     a row of POSES for every query
poses.txt         the poses as hloc writes them: name qw qx qy qz tx ty tz
summary.json      counts of the whole localization
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa

from pipeline.errors import RunError
from pipeline.events import Event, Listener, Progress, counted, nobody
from pipeline.execute.executor import DEFAULT_ACTORS, Actors, Executor, Stage, tasks_of
from pipeline.match.job import match_photographs
from pipeline.photos.cameras.intrinsics import check_names, check_sizes, intrinsics_digest
from pipeline.reconstruct.localize.candidates import QueryFolders, choose_candidates
from pipeline.reconstruct.localize.options import LocalizeOptions
from pipeline.reconstruct.localize.place import MatchedQuery, PlaceQueries, QueryBatch
from pipeline.reconstruct.localize.plan import plan_queries
from pipeline.reconstruct.localize.points import known_surface
from pipeline.reconstruct.localize.results import LocalizeSummary, doubtful, publish_poses
from pipeline.reconstruct.models.files import Place, check_output
from pipeline.reconstruct.models.job import ask_of_models
from pipeline.reconstruct.tracks.photographs import check_sizes_of_some
from pipeline.store.belonging import keep_what_belongs
from pipeline.store.folder import Folder, Names
from pipeline.store.lease import Lease
from pipeline.store.parquet import parquet_bytes
from pipeline.tables import POSES

VERSION = 3  # counts up when the same inputs give other poses
BATCH = 16  # queries of a task


def localize_photographs(
    options: LocalizeOptions,
    model: Place,
    executor: Executor,
    actors: Actors = DEFAULT_ACTORS,
    *,
    scratch: str | None = None,
    listen: Listener = nobody,
) -> LocalizeSummary:
    """Match the queries with images of the model, and write and return where they were taken.

    model: the folder of a COLMAP model. scratch: see `files_of_model`.

    A command that was stopped goes on where it was. Raises ReconstructionError for a model or
    folders that cannot be used, and what `read_candidates` and `Run` raise for the other arguments.
    """
    started = time.monotonic()
    folder = Folder(options.run.output, options.run.storage)
    if folder.exists("run.json"):
        raise RunError(f"{folder.shown}: holds a run of eloftr match; give another --output.")
    check_output(folder, [model])
    surface, digest = ask_of_models(known_surface, [model], scratch)
    shown = model.shown if isinstance(model, Folder) else str(model)
    views = surface.views
    folders = QueryFolders.of(options.run, views.names, shown)
    check_sizes_of_some(folders.parts["database"], views.taken_by())
    check_names(options.intrinsics, folders.queries)
    if any(entry.size is None for entry in options.intrinsics):
        check_sizes(options.intrinsics, folders.stored_sizes())
    check_output(folder, [], list(folders.parts.values()))
    counts = {"queries": len(folders.queries), "images": len(folders.database)}
    images = counted(counts["images"], "image")
    text = f"queries: {counts['queries']:,}, and {images} of the model"
    listen(Event("localizing", text, counts))
    with Lease(folder):
        candidates, failures = _candidates(folders, options, folder, listen)
        run = Folder(folder.url_of("run"), options.run.storage)
        matched: dict[str, Any] = {}
        if candidates.num_rows:
            what = {"images": folders.images, "pairs": folders.pairs(candidates)}
            matched = dict(
                match_photographs(
                    replace(options.run, output=run.url, **what), executor, actors, listen
                )
            )
        plan = plan_queries(folders, views, run, candidates, failures)
        placing = time.monotonic()
        described = {
            "version": VERSION,
            "model": digest,
            "candidates": _digest(candidates),
            "intrinsics": intrinsics_digest(options.intrinsics),
            **{
                name: getattr(options, name)
                for name in ("measure", "min_inliers", "min_inlier_ratio")
            },
        }
        placed = replace(folder, url=folder.url_of("placed"))
        keep_what_belongs(placed, "placed.json", described)
        label = folders.name("database", "")
        make = partial(PlaceQueries, surface, run, folders.source, label, options)
        stage = Stage("place", make)
        rows = _placed(plan.queries, placed, executor, actors, stage, listen)
        table = pa.Table.from_pylist([*plan.rows, *rows], schema=POSES).sort_by("query")
        seconds = {"seconds": round(time.monotonic() - started, 1)}
        seconds["placing"] = round(time.monotonic() - placing, 1)
        notes = [*plan.notes, *doubtful(table, options.run.matching.long_side)]
        return publish_poses(folder, table, matched, notes, seconds)


def _candidates(
    folders: QueryFolders, options: LocalizeOptions, folder: Folder, listen: Listener
) -> tuple[pa.Table, pa.Table]:
    """The candidates and failures as before, or chosen now."""
    if options.pairs is not None or options.descriptors is not None:  # are read fast, may change
        return choose_candidates(folders, options, listen)
    files = replace(folder, url=folder.url_of("candidates"))
    described = {
        "version": VERSION,
        "queries": _digest(folders.queries),
        "database": _digest(folders.database),
        "images": folders.source.shown,
        "count": options.candidates,
        "weights": str(options.run.weights),
    }
    keep_what_belongs(files, "candidates.json", described)
    if not files.exists("candidates.parquet"):
        candidates, failures = choose_candidates(folders, options, listen)
        files.publish_table("failures.parquet", failures)
        files.publish_table("candidates.parquet", candidates)
    return files.read_table("candidates.parquet"), files.read_table("failures.parquet")


def _digest(value: pa.Table | Names) -> str:
    """SHA-256 of a table or of names."""
    table = value if isinstance(value, pa.Table) else pa.table({"name": pa.array(value)})
    return hashlib.sha256(parquet_bytes(table)).hexdigest()


def _placed(
    queries: list[MatchedQuery],
    files: Folder,
    executor: Executor,
    actors: Actors,
    stage: Stage,
    listen: Listener,
) -> list[dict[str, Any]]:
    """The rows of all queries, those of batches that were done before from their files."""
    batches = [
        QueryBatch(f"{start // BATCH:08}.parquet", queries[start : start + BATCH])
        for start in range(0, len(queries), BATCH)
    ]
    done = set(files.list())
    todo = [batch for batch in batches if batch.name not in done]
    if todo:
        executor.start()
        progress = Progress(sum(len(batch.queries) for batch in todo), "queries", listen)
        work = tasks_of((batch.name for batch in todo), todo)
        results = executor.run([stage], work, actors, listen)
        try:
            for name, table in results:
                files.publish_table(name, table)
                progress.advance(table.num_rows, table["reason"].drop_null().length())
        finally:
            results.close()
    rows: list[dict[str, Any]] = []
    for batch in batches:
        rows += files.read_table(batch.name).to_pylist()
    return rows
