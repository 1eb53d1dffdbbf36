"""The executor that works with a few processes of this machine, without Ray.

A process is started when the first task is there for it, so there is no start-up to wait for.

Every stage of a task is one call of a process, and its result comes back before the next stage
begins. A process that dies therefore costs one stage of one task, and the caller knows which.
Without a GPU every process carries out all stages, and there is one process for each CPU. With a
GPU the actors that hold the model have processes of their own, and other processes read and write
at the same time.
"""

from __future__ import annotations

import heapq
import itertools
import pickle
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, cast

from pipeline.errors import ExecutorError
from pipeline.events import Event, Listener, nobody
from pipeline.execute.executor import (
    DEFAULT_ACTORS,
    Actors,
    Capacity,
    Stage,
    Task,
    Work,
    local_capacity,
)
from pipeline.execute.worker import Died, Worker

AHEAD = 2  # tasks in flight for every process
# Deaths at one stage of one task that end the run. A stage gives up earlier, unless the process
# dies before the stage is asked.
MOST_DEATHS = 10


class LocalExecutor:
    """Stages in processes of this machine; see `Executor`.

    The processes of a run serve the next run too, and end with the executor. Each has imported
    torch by then, which takes seconds.
    """

    name = "local"

    def __init__(self) -> None:
        self.spare: list[Worker] = []

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, *error: object) -> None:
        while self.spare:
            self.spare.pop().close()

    def start(self) -> None:
        """Do nothing: `run` starts its processes itself."""

    def capacity(self) -> Capacity:
        """The CPUs and GPUs of this machine that this process may use."""
        return local_capacity()

    def threads(self, actors: Actors, tasks: int) -> int:
        """Threads for each process that holds the model.

        They are more than one where there are fewer tasks than CPUs, no GPU, and the number of
        actors was not given.
        """
        capacity = self.capacity()
        _, most, share = actors.resolved(capacity, tasks)
        return 1 if share or actors.first else capacity.cpus // most

    def count(self, metric: str, amount: float, labels: Mapping[str, str]) -> None:
        """Do nothing: one machine has no counters that operators watch."""

    def run(
        self,
        stages: Sequence[Stage],
        tasks: Sequence[Task],
        actors: Actors = DEFAULT_ACTORS,
        listen: Listener = nobody,
    ) -> Generator[Any, None, None]:
        """See `Executor.run`.

        Raises ExecutorError before any work for more actors than this machine holds. Raises it
        later where processes die at the same stage of the same task MOST_DEATHS times.
        """
        capacity = self.capacity()
        _, most, share = actors.resolved(capacity, len(tasks))
        pool = _Pool(most, self.spare)
        pools = [pool] * len(stages)
        if share:
            helpers = _Pool(max(1, min(capacity.cpus // 2, len(tasks))), self.spare)
            per_gpu = max(1, int(1 / share + 1e-6))
            pool.gpu_of = lambda number: number // per_gpu
            pools = [pool if stage.holds_model else helpers for stage in stages]
        return _carry_out(stages, pools, tasks, listen)


@dataclass(order=True)
class _Job:
    """A task on its way through the stages.

    Jobs at later stages come first, so that work is finished before more of it is begun.
    """

    urgency: int  # minus the number of the next stage
    order: int
    name: str = field(compare=False)
    value: Any = field(compare=False)
    attempts: Counter[int] = field(compare=False, default_factory=Counter)

    @property
    def stage(self) -> int:
        return -self.urgency


class _Pool:
    """Processes, and the jobs that wait for one of them. spare: idle processes of other runs."""

    def __init__(self, size: int, spare: list[Worker]) -> None:
        self.size, self.spare = size, spare
        self.gpu_of: Callable[[int], int] | None = None
        self.waiting: list[_Job] = []
        self.working: dict[Worker, _Job] = {}
        self.idle: list[Worker] = []
        self.knows: dict[Worker, set[int]] = {}  # the stages that each process has made

    def begin(self, made: Sequence[bytes]) -> None:
        """Give the waiting jobs to processes, and start processes while there is room.

        made: the pickled `Stage.make` of every stage.
        """
        while self.waiting and len(self.working) < self.size:
            worker = self.idle.pop() if self.idle else self._started()
            job = heapq.heappop(self.waiting)
            new = job.stage not in self.knows[worker]
            try:
                worker.send(
                    _work,
                    job.stage,
                    made[job.stage] if new else None,
                    job.value,
                    job.attempts[job.stage] + 1,
                )
            except Died:  # the process died while it was idle, so the job has not begun
                heapq.heappush(self.waiting, job)
                del self.knows[worker]
                continue
            self.knows[worker].add(job.stage)
            self.working[worker] = job

    def _started(self) -> Worker:
        numbers = {worker.number for worker in self.knows}
        number = next(number for number in itertools.count() if number not in numbers)
        gpu = None if self.gpu_of is None else self.gpu_of(number)
        fitting = [worker for worker in self.spare if worker.gpu == gpu]
        if fitting:
            worker = fitting[-1]
            self.spare.remove(worker)
            worker.number = number
        else:
            worker = Worker(number, gpu)
        self.knows[worker] = set()
        return worker

    def release(self) -> None:
        """End the processes that are at work, and keep the others for the next run."""
        for worker in self.knows:
            if worker.busy:
                worker.close()
            else:
                self.spare.append(worker)

    def forget(self, worker: Worker) -> None:
        """Take a process that died out of the pool."""
        del self.knows[worker]


def _carry_out(
    stages: Sequence[Stage], pools: Sequence[_Pool], tasks: Sequence[Task], listen: Listener
) -> Generator[Any, None, None]:
    """Yield the results of all tasks as they finish. pools: the pool of every stage."""
    distinct = list({id(pool): pool for pool in pools}.values())
    made = [pickle.dumps(stage.make, protocol=5) for stage in stages]
    room = AHEAD * sum(pool.size for pool in distinct)
    jobs = (_Job(0, order, *task) for order, task in enumerate(tasks))
    in_flight = 0
    try:
        while True:
            for job in itertools.islice(jobs, room - in_flight):
                heapq.heappush(pools[0].waiting, job)
                in_flight += 1
            if not in_flight:
                return
            for pool in distinct:
                pool.begin(made)
            for job in _advanced(distinct, stages, listen):
                if job.stage == len(stages):
                    in_flight -= 1
                    yield job.value
                else:
                    heapq.heappush(pools[job.stage].waiting, job)
    finally:
        for pool in distinct:
            pool.release()


def _advanced(
    pools: Sequence[_Pool], stages: Sequence[Stage], listen: Listener
) -> Generator[_Job, None, None]:
    """Wait for answers, and yield the jobs that finished a stage or whose process died."""
    of_connection = {worker.connection: (pool, worker) for pool in pools for worker in pool.working}
    for connection in wait(list(of_connection)):
        pool, worker = of_connection[cast(Connection, connection)]
        job = pool.working.pop(worker)
        try:
            job.value = worker.receive()
        except Died as death:
            pool.forget(worker)
            _count_death(job, stages[job.stage], death, listen)
        else:
            pool.idle.append(worker)
            job.urgency -= 1
        yield job


def _count_death(job: _Job, stage: Stage, death: Died, listen: Listener) -> None:
    job.attempts[job.stage] += 1
    deaths = job.attempts[job.stage]
    listen(
        Event(
            "worker_died",
            f"a process died at {job.name}, stage {stage.name} ({death}); the stage begins again",
            {"task": job.name, "stage": stage.name, "attempt": deaths, "cause": str(death)},
        )
    )
    if deaths >= MOST_DEATHS:
        cause = f"{deaths} processes died at stage {stage.name} of {job.name}, the last {death}"
        raise ExecutorError(
            f"{cause}; free memory on this machine, or look there for what kills them."
        )


_made: dict[int, Work] = {}  # in a worker process: its stages, by their numbers


def _work(stage: int, make: bytes | None, value: Any, attempt: int) -> Any:
    """Carry out one stage of one task, in a worker process.

    make: the pickled `Stage.make`, where the process sees the stage for the first time.
    """
    if make is not None:
        _made[stage] = pickle.loads(make)()
    return _made[stage](value, attempt)
