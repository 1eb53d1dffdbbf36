"""The executor that works on Ray. This is the only module that imports ray.

Each of our stages is one stage of Ray Data: tasks where a CPU is free, or actors where a model is
held. A task is one row of one block throughout, so whatever Ray repeats is exactly one task, and
writing it twice gives one file with the same content. Ray repeats a task without end while it kills
its processes. An actor therefore counts the attempts, and the stages give up in the end.
"""

from __future__ import annotations

import logging
import os
import pickle
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.errors import EloftrError, ExecutorError, MissingExtraError
from pipeline.events import Event, Listener, nobody
from pipeline.execute.attempts import Attempts
from pipeline.execute.executor import (
    CLUSTER,
    DEFAULT_ACTORS,
    Actors,
    Capacity,
    MadeTasks,
    Stage,
    Task,
    local_capacity,
)
from pipeline.execute.shares import ALONE, Shares
from pipeline.execute.starting import knock, sigterm_kept, silence

try:
    import ray
    import ray.data
    import ray.util.metrics
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ImportError as error:
    cause = f"the executor ray needs Ray, which is not installed ({error})"
    raise MissingExtraError(
        f'{cause}; pip install "eloftr-pipeline[pipeline]", or use --executor local.'
    ) from error

# Tasks for every process that are made at a time, where tasks are made when they are asked for. Ray
# Data takes all tasks of a dataset at once, and the blocks of 1,000,000 images would be 210 GB.
WAVE = 4
DEMAND = 5.0  # seconds between two looks at the CPUs that are missing
OBJECT_STORE = 1 << 30  # bytes on an embedded node: some tens of shards of decoded images


class RayExecutor:
    """Stages on a Ray cluster; see `Executor`.

    The cluster is the one that RAY_ADDRESS names, as inside a Ray job. Without it, a node is
    started on this machine and ended with the executor. A Ray that the caller has started is used
    and left as it is.

    quiet: hide what Ray's core writes to standard error while it starts. Standard error is closed
        for that moment.
    """

    name = "ray"

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.started = False
        self.counters: dict[str, ray.util.metrics.Counter] = {}

    def __enter__(self) -> RayExecutor:
        if os.environ.get(CLUSTER):
            self.start()  # the plan depends on what the cluster has
        return self

    def __exit__(self, *error: object) -> None:
        if self.started:
            ray.shutdown()
            self.started = False

    def start(self) -> None:
        """Join the cluster or start a node. Raises ExecutorError where neither succeeds."""
        if ray.is_initialized():
            return
        self.started = True  # what an interruption leaves half started is ended too
        with sigterm_kept():
            try:
                _join_or_start(os.environ.get(CLUSTER), self.quiet)
            except SystemExit as error:  # raised by Ray's handler of SIGTERM while Ray starts
                raise KeyboardInterrupt from error

    def capacity(self) -> Capacity:
        """The CPUs and GPUs of the cluster; before a node is started, those of this machine."""
        if not ray.is_initialized():
            return local_capacity()
        total = ray.cluster_resources()  # type: ignore[no-untyped-call]
        return Capacity(max(1, int(total.get("CPU", 0))), int(total.get("GPU", 0)))

    def threads(self, actors: Actors, tasks: int) -> int:
        """One, because the other CPUs of an actor's node may belong to other work."""
        return 1

    def count(self, metric: str, amount: float, labels: Mapping[str, str]) -> None:
        """Add to a counter at Ray's metrics ports.

        Only the driver counts, so nothing is counted twice.
        """
        if not amount:  # Ray refuses to add zero
            return
        if metric not in self.counters:
            self.counters[metric] = ray.util.metrics.Counter(metric, tag_keys=tuple(labels))
        self.counters[metric].inc(amount, dict(labels))

    def run(
        self,
        stages: Sequence[Stage],
        tasks: Sequence[Task],
        actors: Actors = DEFAULT_ACTORS,
        listen: Listener = nobody,
    ) -> Generator[Any, None, None]:
        """See `Executor.run`.

        Results that are not taken hold the work up where they fill Ray's object store, and small
        ones do not. Raises ExecutorError for actors that this cluster cannot hold, before any work.
        """
        if not tasks:  # Ray Data has no dataset without blocks
            return _nothing()
        self.start()
        capacity = self.capacity()
        first, most, share = actors.resolved(capacity, len(tasks))
        if most * share > capacity.gpus + 1e-6:
            text = (
                f"{most} actors of {share:g} GPUs: there are {capacity.gpus} now, "
                "the others wait for new nodes"
            )
            listen(Event("waiting", text, {"actors": most, "gpus": capacity.gpus}))
        wave = WAVE * most if isinstance(tasks, MadeTasks) else len(tasks)
        waves = (tasks[begin : begin + wave] for begin in range(0, len(tasks), wave))
        make = partial(self._dataset, stages, actors.ranged, first, most, share)
        return _results_of_waves(make, waves, 0 if share else most)

    def _dataset(
        self,
        stages: Sequence[Stage],
        ranged: bool,
        first: int,
        most: int,
        share: float,
        tasks: Sequence[Task],
        attempts: Any,
    ) -> Any:
        """The dataset of some tasks after all stages. The numbers are of `Actors.resolved`."""
        pool = ray.data.ActorPoolStrategy(
            # A fixed number of actors may shrink too, where nodes are lost.
            min_size=first if ranged else 1,
            max_size=most,
            initial_size=first,
            max_tasks_in_flight_per_actor=4,
        )
        shares = Shares.of(len(stages) == 1, ranged and not share)
        readers = shares.readers(most, self.capacity().cpus)
        first_tasks = ray.data.TaskPoolStrategy(None if share else readers)
        # `repartition` is not used, because its task wants a whole CPU and waits without end where
        # every node has one CPU and an actor.
        dataset = ray.data.from_blocks([_pack(task) for task in tasks])
        dataset.context.target_max_block_size = None  # one task, one block, however large
        # An actor that is killed while it starts is replaced.
        dataset.context.max_consecutive_actor_init_deaths = 3
        dataset.context.enable_progress_bars = False
        dataset.context.print_on_execution_start = False
        dataset.context.raise_original_map_exception = True  # a ZeroDivisionError stays one
        one_row: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow"}
        for number, stage in enumerate(stages):
            work = {"fn_constructor_args": (stage, attempts), **one_row}
            if stage.holds_model:
                dataset = dataset.map_batches(
                    _Held, compute=pool, num_cpus=shares.actor, num_gpus=share, **work
                )
            else:
                compute = first_tasks if number == 0 or shares.all_limited else None
                carried = _Carried(stage, attempts)
                dataset = dataset.map_batches(
                    carried.__call__, compute=compute, num_cpus=shares.task, **one_row
                )
        return dataset


def _nothing() -> Generator[Any, None, None]:
    """The results of no tasks."""
    yield from ()


def _attempts() -> Any:
    """An actor with `Attempts` on the driver's own node, which lives as long as the driver."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    made = ray.remote(Attempts).options(
        num_cpus=0, scheduling_strategy=here, max_restarts=-1, max_task_retries=-1
    )
    return made.remote()


class _Carried:
    """One stage as a Ray task: a row in, a row out."""

    def __init__(self, stage: Stage, attempts: Any) -> None:
        self.stage, self.attempts = stage, attempts

    def __call__(self, row: pa.Table) -> pa.Table:
        return _carried_out(self.stage.make(), self.stage.name, self.attempts, row)


class _Held:
    """One stage in a Ray actor, which makes it once."""

    def __init__(self, stage: Stage, attempts: Any) -> None:
        self.name, self.attempts, self.work = stage.name, attempts, stage.make()

    def __call__(self, row: pa.Table) -> pa.Table:
        return _carried_out(self.work, self.name, self.attempts, row)


def _carried_out(work: Any, stage: str, attempts: Any, row: pa.Table) -> pa.Table:
    name, value = _unpack(row)
    if isinstance(value, EloftrError):  # an earlier stage raised it
        return row
    key = f"{stage}/{name}"
    attempt = ray.get(attempts.begin.remote(key))
    try:
        value = work(value, attempt)
    # An expected error (a full disk, say) goes to the driver, which raises it without Ray's trace.
    except EloftrError as error:
        value = error
    attempts.end.remote(key)
    return _pack(Task(name, value))


def _pack(task: Task) -> pa.Table:
    """A task as one row. Pickle's protocol 5 copies arrays instead of walking through them."""
    return pa.table({"task": pa.array([pickle.dumps(tuple(task), protocol=5)], pa.large_binary())})


def _unpack(row: pa.Table) -> Task:
    return Task(*pickle.loads(row["task"][0].as_buffer()))


def _results_of_waves(
    make: Callable[[Sequence[Task], Any], Any], waves: Iterable[Sequence[Task]], cpus: int
) -> Generator[Any, None, None]:
    """The results of waves of tasks, one wave after the other.

    make: the dataset of a wave. cpus: that there is work for, see `_demand`.
    """
    attempts = _attempts()
    try:
        with _demand(cpus):
            for wave in waves:
                rows = make(wave, attempts).iter_batches(
                    batch_size=1, batch_format="pyarrow", prefetch_batches=0
                )
                for row in rows:
                    value = _unpack(row).value
                    if isinstance(value, EloftrError):
                        raise value
                    yield value
    except ray.exceptions.RayError as error:
        if "No module named 'pipeline'" not in str(error):
            raise
        cure = "submit it with `ray job submit --working-dir .`, or install it on every node"
        raise ExecutorError(f"the cluster's nodes do not have this project; {cure}.") from error
    finally:
        ray.kill(attempts)


@contextmanager
def _demand(cpus: int) -> Iterator[None]:
    """Let an autoscaler see that so many CPUs would be used, as long as there are fewer.

    Tasks that do nothing wait for them. Ray Data asks by the pace at which its tasks end: for none
    before the first has ended, and a block may take an hour. What finds a CPU that is free for a
    moment ends, and the next one takes its place.
    """
    if not cpus:
        yield
        return
    over = threading.Event()
    task = ray.remote(lambda: None).options(num_cpus=ALONE.task)

    def ask() -> None:
        asked: list[Any] = []
        with suppress(Exception):  # of a cluster that is gone, as the work itself tells
            while not over.is_set():
                total = ray.cluster_resources()  # type: ignore[no-untyped-call]
                missing = max(0, cpus - int(total.get("CPU", 0)))
                if asked:
                    asked = ray.wait(asked, num_returns=len(asked), timeout=0)[1]
                for one in asked[missing:]:
                    ray.cancel(one)
                asked = asked[:missing] + [task.remote() for _ in range(missing - len(asked))]
                over.wait(DEMAND)
            for one in asked:
                ray.cancel(one)

    asking = threading.Thread(target=ask, name="demand", daemon=True)
    asking.start()
    try:
        yield
    finally:
        over.set()
        asking.join(DEMAND)


def _join_or_start(address: str | None, quiet: bool) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        try:
            knock(address)
        except (OSError, OverflowError) as error:  # the latter of a port beyond 65535
            cause = f"{CLUSTER}={address}: no Ray cluster answers there ({error})"
            raise ExecutorError(
                f"{cause}; start it, or unset {CLUSTER} to use this machine alone."
            ) from error
        try:
            with silence(quiet):
                ray.init(**options)
        except ValueError as error:
            cause = f"{CLUSTER}={address}: is no address of a cluster ({error})"
            raise ExecutorError(f"{cause}; give host:port.") from error
        except ConnectionError as error:
            cure = "check that it has this version of Ray, and that this process has its token"
            raise ExecutorError(
                f"{CLUSTER}={address}: what answers there does not let this process in; {cure}."
            ) from error
        return
    options |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE}
    # Workers must find this package as this process did, from whatever folder it was started. The
    # commands see to it. Ray's own way costs half a second a worker.
    here, paths = str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")
    if here not in paths.split(os.pathsep):
        joined = os.pathsep.join(path for path in (here, paths) if path)
        options["runtime_env"] = {"env_vars": {"PYTHONPATH": joined}}
    try:
        with silence(quiet):
            ray.init(address="local", **options)
    except Exception as error:  # Ray has no type of its own for a node that does not start
        cure = "free CPUs and memory, or work without it by --executor local"
        text = " ".join(str(error).split())
        raise ExecutorError(f"Ray does not start on this machine ({text}); {cure}.") from error
