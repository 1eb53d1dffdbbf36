"""The main job: it matches photographs, and goes on where it was stopped.

plan → pending shards ──► read ──► match ──► finish ──► summary       (stages of an executor)
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.events import Event, Listener, Progress, counted, nobody
from pipeline.execute.executor import DEFAULT_ACTORS, Actors, Executor, Stage, tasks_of
from pipeline.match.detail.cost import finer_event, finer_line
from pipeline.match.detail.match import make_tile_matcher, make_tile_reader
from pipeline.match.detail.plan import DetailPlan
from pipeline.match.detail.shards import TiledShard, tiled_shards
from pipeline.match.finish import FinishShard, Marker
from pipeline.match.match import MatchShard, make_matcher
from pipeline.match.options import RunOptions
from pipeline.match.plan import PlanCounts, cost_line, plan_line, plan_notes, timed_cost
from pipeline.match.read import make_reader
from pipeline.match.run import Run, RunSummary
from pipeline.match.shards import PlannedShard, planned_shards
from pipeline.match.turns.probe import PROBE_LONG_SIDE, WriteProbe, make_probe, probe_file
from pipeline.match.turns.rounds import later_line
from pipeline.match.turns.search import ViewSearch
from pipeline.photos.identity.files import FILES_FILE, files_table
from pipeline.photos.panoramas.source import FaceFolder, panoramas_line
from pipeline.store.folder import Folder
from pipeline.store.lease import Lease
from pipeline.tables import PROBES
from pipeline.vocabulary import Device, Status

if TYPE_CHECKING:  # at run time torch is imported only where a model is used
    from eloftr import EfficientLoFTRForKeypointMatching

AnyShards = Sequence[PlannedShard | TiledShard]
LENIENT = 0.5  # times the lowest score of a match, in later rounds


def plan_run(
    options: RunOptions,
    executor: Executor,
    actors: Actors = DEFAULT_ACTORS,
    listen: Listener = nobody,
    probed: bool = False,
) -> Run:
    """Read and check everything that a run needs, and report its plan as an event.

    probed: the shards that have PROBES are those that are done.

    Writes nothing. Raises as `Run` does, and ExecutorError for more actors than there is room for.
    """
    capacity = executor.capacity()
    run = Run(options, device_of(executor, actors), listen)
    counts = run.counts()
    if probed:
        counts = {**counts, "done": len(run.plan.shards) - len(_unprobed(run))}
    actors.resolved(capacity, max(1, counts["shards"]))  # raises before anything is written
    listen(Event("plan", plan_line(counts), {**counts}))
    if not run.resumed:
        for text, fields in plan_notes(run.plan, run.source, run.masks):
            listen(Event("note", text, fields))
    if run.plan.faces:
        found = run.plan.faces.counts()
        listen(Event("panoramas", panoramas_line(found), found))
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
    cost = timed_cost(run.model, str(matching.dtype), matching.long_side)
    line = cost_line(cost, matching.long_side, run.pending(), matching.looks)
    listen(Event("estimate", line))
    counts = run.counts()
    if options.turns or options.scales:
        survey = bool(np.isfinite(run.headings()).any())
        listen(Event("later", later_line(counts["pairs"], survey)))
    if options.detail:
        listen(Event("finer", *finer_line(run, cost)))
    return counts


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
        work = _Work(run, executor, actors, listen, stage, lease)
        todo = run.pending()  # read again, because another driver may have worked until now
        note_files(run, listen)
        run.begin()
        work.carry_out(planned_shards(todo))
        if options.turns or options.scales:
            search = ViewSearch(run, work.device, work.probe)
            for number, plan, known in search.rounds():
                shards = planned_shards(run.pending(plan))
                pairs = sum(len(shard.pairs) for shard in planned_shards(plan))
                guided = "guides" in plan.column_names
                how = "through neighbours" if guided else "in other views"
                text = f"round {number}: {counted(pairs, 'pair')} again, {how}"
                fields = {"round": number, "pairs": pairs, "through_neighbours": guided}
                listen(Event("turns", text, fields))
                work.carry_out(shards, again=True, known=known)
        for number, plan, again in DetailPlan(run, work.device).rounds():
            if plan.num_rows:
                listen(finer_event(number, plan))
            work.carry_out(tiled_shards(run.pending(plan)), again=again, finer=number)
        seconds = time.monotonic() - started
        return run.finish(
            {
                "pairs": work.pairs,
                "seconds": round(seconds, 1),
                "start_seconds": round(work.start_seconds, 1),
                "pairs_per_second": round(work.pairs / seconds, 2),
                "executor": executor.name,
            }
        )


def probe_photographs(
    options: RunOptions,
    executor: Executor,
    actors: Actors = DEFAULT_ACTORS,
    listen: Listener = nobody,
) -> pa.Table:
    """Count the coarse matches of every pair of a run, and return PROBES of all.

    The run folder gets a plan, `probes/` in place of matches, and failures of images. A command
    that was stopped goes on where it was. Raises as `match_photographs`.
    """
    run = plan_run(options, executor, actors, listen, probed=True)
    with Lease(run.folder) as lease:
        run.begin()
        left = _unprobed(run)
        work = _Work(run, executor, actors, listen, MatchShard, lease)
        progress = Progress(sum(len(shard.pairs) for shard in left), listen=listen)
        for pairs in work.probed(left, options.matching.long_side, equalised=False):
            progress.advance(pairs)
    return _all_probes(run)


def estimate_probes(
    options: RunOptions,
    executor: Executor,
    actors: Actors = DEFAULT_ACTORS,
    listen: Listener = nobody,
) -> pa.Table | None:
    """PROBES of a run all of whose pairs were counted; None, and the cost as an event, else.

    Writes nothing. The cost is that of whole matches, which is far more. Raises as `plan_run`.
    """
    run = plan_run(options, executor, actors, listen, probed=True)
    left = pa.array([shard.shard for shard in _unprobed(run)], pa.string())
    if not len(left):
        return _all_probes(run)
    shards = run.plan.shards
    matching = run.options.matching
    cost = timed_cost(run.model, str(matching.dtype), matching.long_side)
    pending = shards.filter(pc.is_in(shards["shard"], value_set=left))
    line = cost_line(cost, matching.long_side, pending)
    listen(Event("estimate", f"glances take less than whole matches, and these {line}"))
    return None


def _unprobed(run: Run) -> list[PlannedShard]:
    done = {*run.folder.names("probes")}
    shards = planned_shards(run.plan.shards)
    return [shard for shard in shards if probe_file(shard.shard) not in done]


def _all_probes(run: Run) -> pa.Table:
    names = [probe_file(shard) for shard in run.plan.shards["shard"].to_pylist()]
    return pa.concat_tables([PROBES.empty_table(), *map(run.folder.read_table, names)])


def note_files(run: Run, listen: Listener) -> None:
    """Write what the files of a new run's photographs are, so that changes of them are seen later.

    A reranking has folders of its own, and its rounds note nothing.
    """
    faces = run.plan.faces.faces if run.plan.faces else {}
    source = run.source.folder if isinstance(run.source, FaceFolder) else run.source
    if run.resumed or not isinstance(source, Folder):
        return
    used = [run.plan.names[k] for k in np.unique(run.plan.pairs.pairs)]
    files = {faces[name].panorama.name if name in faces else name for name in used}
    run.folder.publish_table(FILES_FILE, files_table(source, sorted(files), listen))


class _Work:
    """The shards and probes of one command, on its executor."""

    def __init__(
        self,
        run: Run,
        executor: Executor,
        actors: Actors,
        listen: Listener,
        stage: type[MatchShard],
        lease: Lease,
    ) -> None:
        self.run, self.executor, self.actors, self.listen = run, executor, actors, listen
        self.stage, self.lease = stage, lease
        self.pairs, self.start_seconds = 0, 0.0
        self.device = device_of(executor, actors)

    def carry_out(self, shards: AnyShards, **how: Any) -> None:
        """Match shards and write them; counts their pairs. how: see `stages_of`."""
        if not shards:
            return
        pairs = sum(len(shard.pairs) for shard in shards)
        progress = Progress(pairs, listen=self.listen)
        stages = stages_of(self.run, self.stage, self._threads(shards), **how)
        for marker in self._results(stages, shards):
            _count(self.executor, marker)
            progress.advance(marker["counts"]["pairs"], sum(marker["failed"].values()))
        self.pairs += pairs

    def probe(self, shards: list[PlannedShard]) -> None:
        """Probe pairs, each in the views of one shard, and write what was found."""
        progress = Progress(len(shards), "probes", self.listen)
        for _ in self.probed(shards, PROBE_LONG_SIDE, equalised=True):
            progress.advance(1)

    def probed(self, shards: list[PlannedShard], long_side: int, equalised: bool) -> Iterator[int]:
        """Write the coarse matches at so many pixels; how many pairs of views each shard had.

        equalised: see `ReadShard`.
        """
        if not shards:
            return
        options = self.run.options
        how = options.limits, long_side, equalised, self.run.masks
        reader = partial(make_reader, self.run.source, *how)
        stages = [
            Stage("read", reader),
            Stage(
                "probe",
                partial(make_probe, self.run.model, str(options.matching.dtype)),
                holds_model=True,
            ),
            Stage("write", partial(WriteProbe, self.run.folder)),
        ]
        yield from self._results(stages, shards)

    def _threads(self, shards: AnyShards) -> int:
        return self.executor.threads(self.actors, len(shards))

    def _results(self, stages: list[Stage], shards: AnyShards) -> Iterator[Any]:
        starting = time.monotonic()
        self.executor.start()
        self.start_seconds += time.monotonic() - starting
        tasks = tasks_of((shard.shard for shard in shards), shards)
        results = self.executor.run(stages, tasks, self.actors, self.listen)
        try:
            for result in results:
                self.lease.check()
                yield result
        finally:
            results.close()


def device_of(executor: Executor, actors: Actors) -> Device:
    """What shards are sized for."""
    return Device.CUDA if actors.gpus or executor.capacity().gpus else Device.CPU


def stages_of(
    run: Run,
    stage: type[MatchShard] = MatchShard,
    threads: int = 1,
    again: bool = False,
    known: bool = False,
    finer: int = 0,
) -> list[Stage]:
    """The stages of a run: read, match and finish.

    threads: of every process that matches. again: the pairs were tried before. The network then
    sees equalised grey levels, and fainter matches count, of which more have to agree. known:
    verified pairs tell the views of these pairs, so fewer inliers are enough where they agree.
    finer: the number of the finer pass whose shards these are, and whose pixels distances are then
    in; 0 for other rounds.
    """
    options, verification = run.options, run.options.verification
    reader = make_tile_reader if finer else make_reader
    matcher = make_tile_matcher if finer else make_matcher
    verification = replace(verification, long_side=verification.long_side * 2**finer)
    model = _lenient(run.model) if again else run.model
    how = options.limits, options.matching.long_side, again, run.masks
    finish = run.folder, verification, again, known, options.intrinsics
    return [
        Stage("read", partial(reader, run.source, *how)),
        Stage(
            "match",
            partial(matcher, stage, model, options.matching, threads),
            holds_model=True,
        ),
        Stage("finish", partial(FinishShard, *finish)),
    ]


def _lenient(model: EfficientLoFTRForKeypointMatching) -> EfficientLoFTRForKeypointMatching:
    """The model with a lower threshold of the dual softmax; it shares the weights."""
    from eloftr.model import sharing_weights

    lenient = sharing_weights(model)
    if not lenient.config.coarse_matching_skip_softmax:
        lenient.config.coarse_matching_threshold *= LENIENT
    return lenient


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
