"""Stages, tasks, and the protocol of executors, which carry them out here or on a cluster.

    tasks ──► stage ──► stage ──► stage ──► results, as they finish, in any order

A task has a name and a small value. It can run twice: the names of the files it writes follow from
its own name, and their content is the same. The files alone say what is done, so a stopped run goes
on when the rest of its tasks is given again. A process that dies costs the task one attempt. The
stage is told the number of the attempt and decides what to leave out.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, overload

from pipeline.errors import ArgumentError, ExecutorError
from pipeline.events import Listener, nobody

# the environment variable that names a cluster; Ray sets it inside its jobs
CLUSTER = "RAY_ADDRESS"
# Without a driver's device, torch sees no GPU: NVIDIA's, its Tegra's, that of WSL, and AMD's.
GPU_DRIVERS = ("/dev/nvidiactl", "/dev/nvmap", "/dev/dxg", "/dev/kfd")


class Task(NamedTuple):
    """One unit of work. value: what the first stage is given. It is pickled."""

    name: str
    value: Any


# What a stage does with a task: (value, attempt) → value of the next stage. attempt counts from 1,
# and grows each time a process dies while it is at this stage of this task.
Work = Callable[[Any, int], Any]


@dataclass(frozen=True)
class Stage:
    """One step of every task.

    make: called once, without arguments, in every process that carries out the stage. It must be
        picklable, as a partial of a class is.
    holds_model: whether the few actors that hold a model carry out the stage. They are on a GPU
        where there is one. Other stages run wherever a CPU is free.
    """

    name: str
    make: Callable[[], Work]
    holds_model: bool = False


class Capacity(NamedTuple):
    """What there is to work with now: CPUs (at least 1) and GPUs."""

    cpus: int
    gpus: int


@dataclass(frozen=True)
class Actors:
    """How many processes hold the model, and what each of them takes.

    first, most: the number to begin with, and the largest number. Where they differ, the pool grows
        and shrinks with the work, and an autoscaling cluster with it. None: one for each GPU there
        is now, or one for each CPU where there are no GPUs.
    gpus: GPUs of one actor, a part of one GPU or whole GPUs. None: one each, or a part where a
        fixed number of actors exceeds the GPUs.

    Raises ArgumentError for numbers out of range.
    """

    first: int | None = None
    most: int | None = None
    gpus: float | None = None

    def __post_init__(self) -> None:
        if self.first is not None and not 1 <= self.first <= (self.most or 0):
            given = str(self.first) if self.first == self.most else f"{self.first}-{self.most}"
            raise ArgumentError(
                f"actors must be at least 1, and a range from the smaller: not {given}."
            )
        if self.gpus is not None and not (0 < self.gpus <= 1 or self.gpus in range(2, 65)):
            raise ArgumentError(
                f"GPUs of an actor are a part of one or whole ones, not {self.gpus:g}."
            )

    @classmethod
    def parse(cls, text: str | None, gpus: float | None = None) -> Actors:
        """Actors from a text, `4` or `1-8`, or None. Raises ArgumentError for other texts."""
        if text is None:
            return cls(gpus=gpus)
        found = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", text)
        if not found:
            raise ArgumentError(f"actors are a number or a range as 1-8, not {text!r}.")
        return cls(int(found[1]), int(found[2] or found[1]), gpus)

    @property
    def ranged(self) -> bool:
        """Whether the pool may grow and shrink."""
        return self.first != self.most

    def resolved(self, capacity: Capacity, tasks: int) -> tuple[int, int, float]:
        """The number of actors to begin with, their largest number, and the GPUs of one.

        Raises ExecutorError for more actors than CPUs, because each computes on one. Raises it also
        for more actors than the GPUs suffice for, because the others would wait without end.
        Neither holds for a range with a share of GPUs: its actors may wait for new nodes.
        """
        cpus, gpus = capacity
        share = self.gpus or 0.0
        if gpus and not share:
            share = 1.0 if self.ranged else 1 / math.ceil((self.most or gpus) / gpus)
        fit = min(cpus, math.floor(gpus / share + 1e-6)) if share else cpus
        first = self.first or fit
        if first > cpus and not (self.ranged and self.gpus):
            cause = f"{first} actors: there are {cpus} CPUs, and every actor needs one"
            raise ExecutorError(f"{cause}; give at most {cpus}.")
        if max(first, 1) > fit and not (self.ranged and self.gpus):
            cure = "give fewer actors, a smaller share, or a range as 1-8 where nodes are added"
            cause = f"{max(first, 1)} actors of {share:g} GPUs: there are {gpus} GPUs"
            raise ExecutorError(f"{cause}; {cure}.")
        most = min(self.most or fit, tasks)
        return min(first, most), most, share


DEFAULT_ACTORS = Actors()


class Executor(Protocol):
    """Carries out stages.

    Use an executor as a context manager. It starts what it needs when it is first asked to work.
    """

    name: str

    def __enter__(self) -> Executor: ...

    def __exit__(self, *error: object) -> None: ...

    def start(self) -> None:
        """Join or start what the work runs on, where that takes time.

        A second call does nothing.
        """

    def capacity(self) -> Capacity:
        """What there is to work with now."""

    def threads(self, actors: Actors, tasks: int) -> int:
        """Threads for each process that holds the model, so that no CPU is idle."""
        ...

    def run(
        self,
        stages: Sequence[Stage],
        tasks: Sequence[Task],
        actors: Actors = DEFAULT_ACTORS,
        listen: Listener = nobody,
    ) -> Generator[Any, None, None]:
        """Yield the last stage's result of every task, in the order in which they finish.

        An exception of a stage ends the run and is raised here. Expected errors (EloftrError) are
        raised as they are. At most a few tasks are in flight, so the work waits where results are
        not taken. Closing the iterator stops the work.
        """

    def count(self, metric: str, amount: float, labels: Mapping[str, str]) -> None:
        """Add to a counter that operators watch, where the executor has such counters."""


def local_capacity() -> Capacity:
    """The CPUs that this process may use, and the GPUs that torch sees."""
    gpus = 0
    if any(map(os.path.exists, GPU_DRIVERS)):
        import torch  # takes seconds, and much of the work needs no torch

        gpus = torch.cuda.device_count()
    return Capacity(max(1, len(os.sched_getaffinity(0))), gpus)


def tasks_of(names: Iterable[str], values: Iterable[Any]) -> list[Task]:
    """Tasks from their names and values, which must be equally many."""
    return [Task(name, value) for name, value in zip(names, values, strict=True)]


class MadeTasks(Sequence[Task]):
    """Tasks whose values are made when they are asked for, so that few of them are in memory.

    make: the value of the task of a row of `names`.
    """

    def __init__(self, names: Sequence[str], make: Callable[[int], Any]) -> None:
        self.names, self.make = names, make

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> list[Task]: ...
    def __getitem__(self, index: int | slice) -> Task | list[Task]:
        if isinstance(index, slice):
            return [self[row] for row in range(len(self))[index]]
        return Task(self.names[index], self.make(index))
