"""A handful of processes on this machine.

No Ray, no start-up: a process is made when the first task is there for it.

Every stage of a task is one call of a process, and its result comes back before the next stage
begins. So a process that dies costs one stage of one task, and the caller knows which. Without a
GPU all processes carry out all stages, one on each CPU. With one, the actors that hold the model
have processes of their own, and reading and writing go on beside.
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
from pipeline.execute.executor import Actors, Capacity, Stage, Task, Work, local_capacity
from pipeline.execute.worker import Died, Worker

AHEAD = 2  # tasks in flight for every process
# at one stage of one task; stages give up earlier, unless the process dies before they can
MOST_DEATHS = 10


class LocalExecutor:
    """Stages in processes of this machine; see `Executor`."""

    name = "local"

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def start(self) -> None:
        """Nothing needs starting: `run` makes its processes itself."""

    def capacity(self) -> Capacity:
        """The CPUs and GPUs of this machine that this process may use."""
        return local_capacity()

    def threads(self, actors: Actors, tasks: int) -> int:
        """More than one where there are fewer tasks than CPUs, no GPU, and nobody asked for a
        number of processes.
        """
        capacity = self.capacity()
        _, most, share = actors.resolved(capacity, tasks)
        return 1 if share or actors.first else capacity.cpus // most

    def count(self, metric: str, amount: float, labels: Mapping[str, str]) -> None:
        """Nobody watches the counters of one machine."""

    def run(
        self,
        stages: Sequence[Stage],
        tasks: Sequence[Task],
        actors: Actors = Actors(),
        listen: Listener = nobody,
    ) -> Generator[Any, None, None]:
        """See `Executor.run`.

        Raises ExecutorError for more actors than this machine holds, before any work, and where a
        process dies at the same stage of the same task again and again.
        """
        capacity = self.capacity()
        _, most, share = actors.resolved(capacity, len(tasks))
        pool = _Pool(most)
        pools = [pool] * len(stages)
        if share:
            helpers = _Pool(max(1, min(capacity.cpus // 2, len(tasks))))
            per_gpu = max(1, int(1 / share + 1e-6))
            pool.gpu_of = lambda number: number // per_gpu
            pools = [pool if stage.holds_model else helpers for stage in stages]
        return _carry_out(stages, pools, tasks, listen)


@dataclass(order=True)
class _Job:
    """A task on its way.

    Jobs at later stages come first, so that work is finished before more is begun.
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
    """Processes, and the jobs that wait for one."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.gpu_of: Callable[[int], int] | None = None
        self.waiting: list[_Job] = []
        self.working: dict[Worker, _Job] = {}
        self.idle: list[Worker] = []
        self.knows: dict[Worker, set[int]] = {}  # the stages that a process has made

    def begin(self, made: Sequence[bytes]) -> None:
        """Give waiting jobs to processes, new ones where there is room.

        made: pickled `Stage.make`, of every stage.
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
            except Died:  # while it had nothing to do; the job has not begun
                heapq.heappush(self.waiting, job)
                del self.knows[worker]
                continue
            self.knows[worker].add(job.stage)
            self.working[worker] = job

    def _started(self) -> Worker:
        numbers = {worker.number for worker in self.knows}
        number = next(number for number in itertools.count() if number not in numbers)
        worker = Worker(number, None if self.gpu_of is None else self.gpu_of(number))
        self.knows[worker] = set()
        return worker

    def forget(self, worker: Worker) -> None:
        """A process that died."""
        del self.knows[worker]


def _carry_out(
    stages: Sequence[Stage], pools: Sequence[_Pool], tasks: Sequence[Task], listen: Listener
) -> Generator[Any, None, None]:
    """pools: of every stage."""
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
            of_connection = {
                worker.connection: (pool, worker) for pool in distinct for worker in pool.working
            }
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
                    if job.stage == len(stages):
                        in_flight -= 1
                        yield job.value
                        continue
                heapq.heappush(pools[job.stage].waiting, job)
    finally:
        for pool in distinct:
            for worker in pool.knows:
                worker.close()


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


_made: dict[int, Work] = {}  # of a worker process: its stages, by their numbers


def _work(stage: int, make: bytes | None, value: Any, attempt: int) -> Any:
    """Carry out one stage of one task, in a worker process.

    make: of the stage, where the process sees it first.
    """
    if make is not None:
        _made[stage] = pickle.loads(make)()
    return _made[stage](value, attempt)
