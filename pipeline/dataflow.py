"""A run on Ray: read → match → verify and write, one shard a row. The only module that imports ray.

The graph is three stages: CPU tasks read the images of a shard, actors that hold the model match its pairs, CPU tasks
verify and write it. A shard is one row of one block throughout, so that a retried task repeats exactly its shard, and
writing it twice gives one file with the same rows.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import signal
import socket
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from pipeline.matching import MatchingOptions, MatchShard, ReadShard
from pipeline.progress import Progress
from pipeline.reranking import RerankOptions, rerank
from pipeline.run import FinishShard, Run, RunError, RunOptions
from pipeline.schemas import unragged
from pipeline.storage import StorageError

if TYPE_CHECKING:  # see pipeline/matching.py
    from eloftr import EfficientLoFTRForKeypointMatching

# A task and an actor together need one CPU, so that a cluster of one CPU works; and as their shares differ, Ray does
# not fuse reading into the actors, where it would run between matches instead of beside them.
TASK_CPUS, ACTOR_CPUS = 0.75, 0.25
THREADS = 1  # of an actor without a GPU: two take twice the CPU time for the same pairs, so every CPU gets an actor
OBJECT_STORE = 1 << 30  # bytes, of an embedded node: some tens of shards of decoded images


class _Read:
    def __init__(self, stage: ReadShard) -> None:
        self.stage = stage

    def __call__(self, row: pa.Table) -> pa.Table:
        (pairs,) = unragged(row["pairs"])
        return _pack(self.stage(row["shard"][0].as_py(), row["images"][0].as_py(), pairs))


class _Match:
    def __init__(self, model: EfficientLoFTRForKeypointMatching, options: MatchingOptions, threads: int | None) -> None:
        if threads:
            import torch

            torch.set_num_threads(threads)
        self.stage = MatchShard(model, options)

    def __call__(self, row: pa.Table) -> pa.Table:
        return _pack(self.stage(_unpack(row)))


class _Finish:
    def __init__(self, stage: FinishShard) -> None:
        self.stage = stage

    def __call__(self, row: pa.Table) -> pa.Table:
        try:
            return _pack(self.stage(_unpack(row)))
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
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    return time.monotonic() - started


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


def execute(run: Run, progress: Progress, pending: pa.Table, actors: int | None = None) -> None:
    """Match the pending shards (SHARDS) of the run.

    actors: how many hold the model; default one per GPU, or without GPUs one per CPU. Raises RunError
    for more than one per CPU: their shares would leave no node with room for a task, and the run would never end.
    """
    options = run.options
    cpus, gpus = resources()
    if actors and actors > cpus:
        raise RunError(f"{actors} actors: there are {cpus} CPUs, and every actor needs one; give at most {cpus}.")
    count = min(actors or gpus or cpus, cpus, pending.num_rows)
    threads = None if gpus else THREADS
    read = ReadShard(run.source, options.limits, options.matching.long_side)
    finish = FinishShard(run.folder, options.verification)
    one_row: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow"}
    if cpus > 1:
        shards = ray.data.from_arrow(pending).repartition(target_num_rows_per_block=1)
    else:  # a repartitioning task wants a whole CPU, and would wait for ever beside an actor
        shards = ray.data.from_arrow([pending.slice(row, 1) for row in range(pending.num_rows)])
    results = (
        shards.map_batches(_Read(read).__call__, num_cpus=TASK_CPUS, **one_row)
        .map_batches(
            _Match,
            fn_constructor_args=(run.model, options.matching, threads),
            compute=ray.data.ActorPoolStrategy(size=count, max_tasks_in_flight_per_actor=4),
            num_cpus=ACTOR_CPUS,
            num_gpus=1 / math.ceil(count / gpus) if gpus else 0,
            **one_row,
        )
        .map_batches(_Finish(finish).__call__, num_cpus=TASK_CPUS, **one_row)
    )
    try:
        for block in results.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=0):
            done = _unpack(block)
            if isinstance(done, StorageError):
                raise done
            progress.add(done)
    finally:
        progress.close()


def match_dataset(
    options: RunOptions, *, dry_run: bool = False, actors: int | None = None, keep_ray: bool = False
) -> dict[str, Any]:
    """The main job: plan, match what is not done yet, write and return the summary; only the plan of a dry run.

    keep_ray: leave Ray running, for another run of this process. Whatever is wrong with the arguments is raised before
    any work, see `Run`.
    """
    started = time.monotonic()
    if actors is not None and actors < 1:
        raise ValueError(f"actors must be at least 1, not {actors}.")
    signal.signal(signal.SIGTERM, _stop)
    cluster = bool(os.environ.get("RAY_ADDRESS"))
    ray_seconds = start() if cluster else 0.0
    import torch

    on_gpu = resources()[1] > 0 if cluster else torch.cuda.is_available()
    run = Run(options, "cuda" if on_gpu else "cpu")
    print(run.described(), flush=True)
    if dry_run:
        print(run.estimated(), flush=True)
        return {}
    todo = run.pending()
    pairs = int(pc.sum(pc.list_value_length(todo["pairs"])).as_py() or 0)
    run.begin()
    if todo.num_rows:
        ray_seconds = ray_seconds or start()
        try:
            execute(run, Progress(pairs), todo, actors)
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


def rerank_candidates(options: RerankOptions, *, actors: int | None = None) -> dict[str, Any]:
    """The reranking job, all its rounds on one Ray; see `reranking.rerank`."""
    try:
        return rerank(options, partial(match_dataset, actors=actors, keep_ray=True))
    finally:
        ray.shutdown()
