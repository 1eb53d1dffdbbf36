"""A run on Ray: read → match → verify and write, one shard a row. The only module that imports ray.

The graph is three stages: CPU tasks read the images of a shard, actors that hold the model match its pairs, CPU tasks
verify and write it. A shard is one row of one block throughout, so that a retried task repeats exactly its shard, and
writing it twice gives one file with the same rows. Ray repeats for ever what kills its process; `_Attempts` counts, and
the stages set such a shard aside in the end.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from ray.experimental import internal_kv
from ray.util.metrics import Counter

from pipeline.lease import Lease
from pipeline.matching import MatchingOptions, MatchShard, ReadShard
from pipeline.progress import TEXT, Log, Progress
from pipeline.reranking import RerankOptions, rerank
from pipeline.run import FinishShard, Run, RunError, RunOptions
from pipeline.schemas import unragged
from pipeline.storage import StorageError

if TYPE_CHECKING:  # see pipeline/matching.py
    from eloftr import EfficientLoFTRForKeypointMatching

# On a node of one CPU a reading and a finishing task have room beside three actors, as they must when other nodes are
# lost and their actors start again on what is left: Ray serves actors first, then readers, and of a node's last CPU it
# may leave the part unused in which no further task has room. Without room shards would be finished only when all are
# read, and a killed run would have nothing to go on with. And as the shares differ, Ray does not fuse reading into the
# actors, where it would run between matches instead of beside them.
TASK_CPUS, ACTOR_CPUS = 0.4, 0.05
THREADS = 1  # of an actor without a GPU: two take twice the CPU time for the same pairs, so every CPU gets an actor
KV = b"eloftr"  # namespace in Ray's control store
OBJECT_STORE = 1 << 30  # bytes, of an embedded node: some tens of shards of decoded images
# Milliseconds that an embedded node keeps a process without work. Ray's second is over before the next shard comes, and
# as it keeps no more of them than CPUs are free, every other task would begin by importing everything again.
IDLE = 30_000


@dataclass(frozen=True)
class Actors:
    """How many processes hold the model, and what each takes.

    first, most: to begin with, and at most; the pool grows and shrinks between with the work, and an autoscaling
    cluster with it. Equal: a fixed number. None: one for each GPU the cluster has now, or without for each CPU.
    gpus: of one actor, a part of one or whole ones. None: one each, or a part where a fixed number exceeds the GPUs.
    """

    first: int | None = None
    most: int | None = None
    gpus: float | None = None

    def __post_init__(self) -> None:
        if self.first is not None and not 1 <= self.first <= (self.most or 0):
            raise ValueError(f"actors must be at least 1, and a range from the smaller: not {self.first}-{self.most}.")
        if self.gpus is not None and not (0 < self.gpus <= 1 or self.gpus in range(2, 65)):
            raise ValueError(f"GPUs of an actor are a part of one or whole ones, not {self.gpus:g}.")

    @classmethod
    def parse(cls, text: str | None, gpus: float | None = None) -> Actors:
        """`4`, `1-8`, or None. Raises ValueError, one sentence, for other texts."""
        if text is None:
            return cls(gpus=gpus)
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
        if not found:
            raise ValueError(f"actors are a number or a range as 1-8, not {text!r}.")
        return cls(int(found[1]), int(found[2] or found[1]), gpus)

    @property
    def ranged(self) -> bool:
        return self.first != self.most

    def resolved(self, cpus: int, gpus: int, shards: int) -> tuple[int, int, float]:
        """Actors to begin with and at most, and GPUs of one, where there are `cpus` and `gpus` now.

        Raises RunError for more actors than CPUs, each of which computes on one, and for more than there are GPUs for,
        which would wait for ever. Of a range with GPUs any part may wait for new nodes.
        """
        share = self.gpus or 0.0
        if gpus and not share:
            share = 1.0 if self.ranged else 1 / math.ceil((self.most or gpus) / gpus)
        fit = min(cpus, math.floor(gpus / share + 1e-6)) if share else cpus
        first = self.first or fit
        if first > cpus and not (self.ranged and self.gpus):
            raise RunError(f"{first} actors: there are {cpus} CPUs, and every actor needs one; give at most {cpus}.")
        if max(first, 1) > fit and not (self.ranged and self.gpus):
            cure = "give fewer actors, a smaller share, or a range as 1-8 where nodes are added"
            raise RunError(f"{max(first, 1)} actors of {share:g} GPUs: there are {gpus} GPUs; {cure}.")
        most = min(self.most or fit, shards)
        return min(first, most), most, share


class _Attempts:
    """How often a stage of a shard was begun in processes that died before its end: Ray's control store knows.

    Not Ray's own count of retries, which counts whatever waited for an actor that died. Every driver begins anew.
    """

    def __init__(self, session: str) -> None:
        self.session = session

    @contextmanager
    def counted(self, stage: str, shard: str) -> Iterator[int]:
        key = f"{self.session}/{stage}/{shard}".encode()
        attempt = int(internal_kv._internal_kv_get(key, namespace=KV) or 0) + 1
        internal_kv._internal_kv_put(key, str(attempt).encode(), namespace=KV)
        yield attempt
        internal_kv._internal_kv_del(key, namespace=KV)

    def forget(self) -> None:
        internal_kv._internal_kv_del(f"{self.session}/".encode(), del_by_prefix=True, namespace=KV)


class _Metrics:
    """What Prometheus reads at Ray's metrics ports. Counted by the driver, once for every finished shard."""

    def __init__(self) -> None:
        self.pairs = Counter("eloftr_pairs", "Pairs with a row in matches/.", ("status",))
        self.failures = Counter("eloftr_failures", "Failed pairs.", ("reason",))
        self.encodes = Counter("eloftr_encodes", "Images that went through the network's first part.")
        self.seconds = Counter("eloftr_stage_seconds", "Seconds of work, summed over processes.", ("stage",))

    def add(self, marker: dict[str, Any]) -> None:
        counts = marker["counts"]
        failed = counts["pairs"] - counts["matched"] - counts["unmatched"]
        of_status = {"matched": counts["matched"], "unmatched": counts["unmatched"], "failed": failed}
        labelled = ((self.pairs, "status", of_status), (self.failures, "reason", marker["failed"]))
        for counter, label, values in (*labelled, (self.seconds, "stage", marker["seconds"])):
            for name, value in values.items():
                if value:  # Ray refuses to count nothing
                    counter.inc(value, {label: name})
        if counts["encodes"]:
            self.encodes.inc(counts["encodes"])


class _Read:
    def __init__(self, stage: ReadShard, attempts: _Attempts) -> None:
        self.stage, self.attempts = stage, attempts

    def __call__(self, row: pa.Table) -> pa.Table:
        shard, names, (pairs,) = row["shard"][0].as_py(), row["images"][0].as_py(), unragged(row["pairs"])
        with self.attempts.counted("read", shard) as attempt:
            return _pack(self.stage(shard, names, pairs, attempt))


class _Match:
    def __init__(
        self,
        stage: type[MatchShard],
        model: EfficientLoFTRForKeypointMatching,
        options: MatchingOptions,
        threads: int | None,
        attempts: _Attempts,
    ) -> None:
        if threads:
            import torch

            torch.set_num_threads(threads)
        self.stage, self.attempts = stage(model, options), attempts

    def __call__(self, row: pa.Table) -> pa.Table:
        shard = _unpack(row)
        with self.attempts.counted("match", shard.shard) as attempt:
            return _pack(self.stage(shard, attempt))


class _Finish:
    def __init__(self, stage: FinishShard, attempts: _Attempts) -> None:
        self.stage, self.attempts = stage, attempts

    def __call__(self, row: pa.Table) -> pa.Table:
        shard = _unpack(row)
        try:
            with self.attempts.counted("finish", shard.shard) as attempt:
                return _pack(self.stage(shard, attempt))
        except StorageError as error:  # a full disk, say: for the driver to raise, without Ray's pages of trace
            return _pack(error)


def _pack(value: Any) -> pa.Table:
    """Whatever passes from stage to stage, as one row. Pickle 5: arrays are copied, not walked."""
    return pa.table({"value": pa.array([pickle.dumps(value, protocol=5)], pa.large_binary())})


def _unpack(row: pa.Table) -> Any:
    return pickle.loads(row["value"][0].as_buffer())


def start() -> float:
    """Join the cluster that RAY_ADDRESS names (as inside a Ray job), else start a node in this process; its seconds."""
    started = time.monotonic()
    if not ray.is_initialized():
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        address = os.environ.get("RAY_ADDRESS")
        try:
            if address:
                _knock(address)
                ray.init(**quiet)
            else:
                # Workers must find this package as this process did, from whatever folder it was started.
                paths = (str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH"))
                os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
                os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it warns of actors that carry their weights
                os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", str(IDLE))
                with _silence():
                    ray.init(address="local", include_dashboard=False, object_store_memory=OBJECT_STORE, **quiet)
        except OSError as error:
            if not address:
                raise
            cause = f"RAY_ADDRESS={address}: no Ray cluster answers there ({error})"
            raise RunError(f"{cause}; start it, or unset RAY_ADDRESS to use this machine alone.") from error
        except SystemExit as error:  # Ray's handler of SIGTERM, while it starts
            raise KeyboardInterrupt from error
    # Ray installs a handler of its own; ours lets the driver close its node and end with a sentence.
    signal.signal(signal.SIGTERM, _stop)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.target_max_block_size = None  # one task, one block, however large: see the module's docstring
    context.max_consecutive_actor_init_deaths = 3  # one that is killed while it starts is replaced like any other
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    return time.monotonic() - started


@contextmanager
def _silence() -> Iterator[None]:
    """No standard error: Ray's core says there, in a form of its own, that it was told to keep quiet."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _knock(address: str) -> None:
    """Raise OSError where nobody listens at `host:port`; Ray itself would try for many minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=30).close()


def resources() -> tuple[int, int]:
    """CPUs (at least 1) and GPUs of the cluster."""
    total = ray.cluster_resources()
    return max(1, int(total.get("CPU", 0))), int(total.get("GPU", 0))


def execute(run: Run, pending: pa.Table, lease: Lease, actors: Actors, log: Log, stage: type[MatchShard]) -> None:
    """Match the pending shards (SHARDS) of the run. Raises RunError for actors that this cluster cannot hold."""
    options = run.options
    cpus, gpus = resources()
    first, most, share = actors.resolved(cpus, gpus, pending.num_rows)
    if most * share > gpus + 1e-6:
        log.say("waiting", f"{most} actors of {share:g} GPUs: there are {gpus} GPUs now, the others wait for new nodes")
    pool = ray.data.ActorPoolStrategy(
        min_size=first if actors.ranged else 1,  # a number may shrink, too, where nodes are lost
        max_size=most,
        initial_size=first,
        max_tasks_in_flight_per_actor=4,
    )
    # Without GPUs reading is a hundredth of the work, and readers that start by the dozen take the CPUs from the actors
    # that start beside them. Nodes that a range of actors waits for bring CPUs to read with.
    readers = ray.data.TaskPoolStrategy(None if share or actors.ranged else max(1, cpus // 2))
    attempts = _Attempts(ray.get_runtime_context().get_job_id())
    read = ReadShard(run.source, options.limits, options.matching.long_side)
    finish = FinishShard(run.folder, options.verification)
    one_row: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow"}
    # Not by `repartition`: its task wants a whole CPU, and waits for ever where every node has one CPU and an actor.
    shards = ray.data.from_blocks([pending.slice(row, 1) for row in range(pending.num_rows)])
    results = (
        shards.map_batches(_Read(read, attempts).__call__, compute=readers, num_cpus=TASK_CPUS, **one_row)
        .map_batches(
            _Match,
            fn_constructor_args=(stage, run.model, options.matching, None if share else THREADS, attempts),
            compute=pool,
            num_cpus=ACTOR_CPUS,
            num_gpus=share,
            **one_row,
        )
        .map_batches(_Finish(finish, attempts).__call__, num_cpus=TASK_CPUS, **one_row)
    )
    progress = Progress(int(pc.sum(pc.list_value_length(pending["pairs"])).as_py() or 0), log=log)
    metrics = _Metrics()
    try:
        for block in results.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=0):
            done = _unpack(block)
            if isinstance(done, StorageError):
                raise done
            lease.check()
            metrics.add(done)
            progress.add(done)
    except ray.exceptions.RayError as error:
        if "No module named 'pipeline'" not in str(error):
            raise
        cure = "submit it with `ray job submit --working-dir .`, or install it on every node"
        raise RunError(f"the cluster's nodes do not have this project; {cure}.") from error
    finally:
        progress.close()
        attempts.forget()


def match_dataset(
    options: RunOptions,
    *,
    dry_run: bool = False,
    actors: Actors = Actors(),
    log: Log = TEXT,
    stage: type[MatchShard] = MatchShard,
    keep_ray: bool = False,
) -> dict[str, Any]:
    """The main job: plan, match what is not done yet, write and return the summary; `Run.counts` of a dry run.

    stage: what matches a shard, made in every actor. keep_ray: leave Ray running, for another run of this process.

    Whatever is wrong with the arguments is raised before any work, see `Run`; LeaseError where another command works
    on the run folder.
    """
    started = time.monotonic()
    signal.signal(signal.SIGTERM, _stop)
    cluster = bool(os.environ.get("RAY_ADDRESS"))
    ray_seconds = start() if cluster else 0.0
    import torch

    on_gpu = bool(actors.gpus or resources()[1]) if cluster else torch.cuda.is_available()
    run = Run(options, "cuda" if on_gpu else "cpu")
    log.say("plan", run.described(), **run.counts())
    if dry_run:
        log.say("estimate", run.estimated())
        return run.counts()
    with Lease(run.folder) as lease:
        todo = run.pending()  # again: the driver before may have gone on until now
        pairs = int(pc.sum(pc.list_value_length(todo["pairs"])).as_py() or 0)
        run.begin()
        if todo.num_rows:
            ray_seconds = ray_seconds or start()
            try:
                execute(run, todo, lease, actors, log, stage)
            finally:
                if not keep_ray:
                    ray.shutdown()
        seconds = time.monotonic() - started
        session = {
            "pairs": pairs,
            "seconds": round(seconds, 1),
            "ray_start_seconds": round(ray_seconds, 1),
            "pairs_per_second": round(pairs / seconds, 2),
        }
        return run.finish({"session": session})


def rerank_candidates(
    options: RerankOptions, *, dry_run: bool = False, actors: Actors = Actors(), log: Log = TEXT
) -> dict[str, Any]:
    """The reranking job, all its rounds on one Ray; see `reranking.rerank`."""
    match = partial(match_dataset, dry_run=dry_run, actors=actors, log=log, keep_ray=True)
    try:
        return rerank(options, match, log.say, dry_run)
    finally:
        ray.shutdown()
