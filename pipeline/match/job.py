"""The main job: it matches photographs, and goes on where it was stopped.

plan → pending shards ──► read ──► match ──► finish ──► summary       (stages of an executor)
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from pipeline.events import Event, Listener, Progress, nobody
from pipeline.execute.executor import DEFAULT_ACTORS, Actors, Executor, Stage, tasks_of
from pipeline.match.finish import FinishShard, Marker
from pipeline.match.match import MatchShard
from pipeline.match.options import TORCH_THREADS, MatchingOptions, RunOptions
from pipeline.match.plan import PlanCounts, cost_line, plan_line
from pipeline.match.read import make_reader
from pipeline.match.run import Run, RunSummary
from pipeline.match.shards import planned_shards
from pipeline.store.lease import Lease
from pipeline.vocabulary import Device, Status

if TYPE_CHECKING:  # at run time torch is imported only where a model is used
    from eloftr import EfficientLoFTRForKeypointMatching


def plan_run(
    options: RunOptions,
    executor: Executor,
    actors: Actors = DEFAULT_ACTORS,
    listen: Listener = nobody,
) -> Run:
    """Read and check everything that a run needs, and report its plan as an event.

    Writes nothing. Raises as `Run` does, and ExecutorError for more actors than there is room for.
    """
    capacity = executor.capacity()
    run = Run(options, Device.CUDA if actors.gpus or capacity.gpus else Device.CPU)
    counts = run.counts()
    actors.resolved(capacity, max(1, counts["shards"]))  # raises before anything is written
    listen(Event("plan", plan_line(counts), {**counts}))
    return run


def estimate_run(
    options: RunOptions,
    executor: Executor,
    actors: Actors = DEFAULT_ACTORS,
    listen: Listener = nobody,
) -> PlanCounts:
    """Plan a run and report its plan and cost as events. Writes nothing. Raises as `plan_run`."""
    run = plan_run(options, executor, actors, listen)
    matching = run.options.matching
    text = cost_line(run.model, str(matching.dtype), matching.long_side, run.pending())
    listen(Event("estimate", text))
    return run.counts()


def match_photographs(
    options: RunOptions,
    executor: Executor,
    actors: Actors = DEFAULT_ACTORS,
    listen: Listener = nobody,
    stage: type[MatchShard] = MatchShard,
) -> RunSummary:
    """Plan a run, match what is not done yet, and write and return the summary.

    stage: the class that matches a shard. It is made once in every process that holds the model.

    Raises before any work what is wrong with the arguments (see `Run`), ExecutorError for more
    actors than there is room for, and LeaseError where another command works on the run folder.
    """
    started = time.monotonic()
    run = plan_run(options, executor, actors, listen)
    with Lease(run.folder) as lease:
        todo = run.pending()  # read again, because another driver may have worked until now
        pairs = int(pc.sum(pc.list_value_length(todo["pairs"])).as_py() or 0)
        run.begin()
        starting = time.monotonic()
        if todo.num_rows:
            executor.start()
        start_seconds = time.monotonic() - starting
        if todo.num_rows:
            shards = planned_shards(todo)
            tasks = tasks_of((shard.shard for shard in shards), shards)
            progress = Progress(pairs, listen=listen)
            threads = executor.threads(actors, len(tasks))
            results = executor.run(stages_of(run, stage, threads), tasks, actors, listen)
            try:
                for marker in results:
                    lease.check()
                    _count(executor, marker)
                    progress.advance(marker["counts"]["pairs"], sum(marker["failed"].values()))
            finally:
                results.close()
        seconds = time.monotonic() - started
        return run.finish(
            {
                "pairs": pairs,
                "seconds": round(seconds, 1),
                "start_seconds": round(start_seconds, 1),
                "pairs_per_second": round(pairs / seconds, 2),
                "executor": executor.name,
            }
        )


def stages_of(run: Run, stage: type[MatchShard] = MatchShard, threads: int = 1) -> list[Stage]:
    """The stages of a run: read, match and finish. threads: of every process that matches."""
    options = run.options
    return [
        Stage("read", partial(make_reader, run.source, options.limits, options.matching.long_side)),
        Stage(
            "match",
            partial(_make_matcher, stage, run.model, options.matching, threads),
            holds_model=True,
        ),
        Stage("finish", partial(FinishShard, run.folder, options.verification)),
    ]


def _make_matcher(
    stage: type[MatchShard],
    model: EfficientLoFTRForKeypointMatching,
    options: MatchingOptions,
    threads: int,
) -> MatchShard:
    """Make what matches, in an executor's process that does nothing else."""
    import torch

    if not torch.cuda.is_available():
        torch.set_num_threads(TORCH_THREADS)
    matcher = stage(model, options)
    matcher.threads = threads
    return matcher


def _count(executor: Executor, marker: Marker) -> None:
    """Add to the counters that operators watch.

    They count pairs by status, failures by reason, encoded images, and seconds of work by stage.
    """
    counts = marker["counts"]
    failed = counts["pairs"] - counts["matched"] - counts["unmatched"]
    of_status = {
        Status.MATCHED: counts["matched"],
        Status.UNMATCHED: counts["unmatched"],
        Status.FAILED: failed,
    }
    for status, number in of_status.items():
        executor.count("eloftr_pairs", number, {"status": status.value})
    for reason, number in marker["failed"].items():
        executor.count("eloftr_failures", number, {"reason": reason})
    for name, seconds in marker["seconds"].items():
        executor.count("eloftr_stage_seconds", seconds, {"stage": name})
    executor.count("eloftr_encodes", counts["encodes"], {})
