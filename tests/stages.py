"""Stages and executors for tests, and the processes that they start.

They are pickled by reference, so they live in a module that processes can import.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import StorageError
from pipeline.events import Event, Listener, nobody
from pipeline.execute.executor import Actors, Executor, Stage, Task, Work

if TYPE_CHECKING:  # a process that carries out small stages starts sooner without them
    from pipeline.match.run import Run
    from pipeline.reconstruct.blocks.task import BlockTask, MappedBlock
    from pipeline.reconstruct.mapping import MappingOptions


ANY = Actors()  # as many as there is room for


def match_here(run: Run, part: int = 0, parts: int = 1) -> None:
    """Match every `parts`-th pending shard in this process, from number `part` on: the job without
    an executor.
    """
    from pipeline.match.finish import FinishShard
    from pipeline.match.match import MatchShard
    from pipeline.match.read import ReadShard
    from pipeline.match.shards import planned_shards

    shards = planned_shards(run.pending())
    if part == 0:
        run.begin()
    how = run.options.limits, run.options.matching.long_side, False, run.masks
    read = ReadShard(run.source, *how)
    match = MatchShard(run.model, run.options.matching)
    finish = FinishShard(run.folder, run.options.verification)
    for shard in shards[part::parts]:
        finish(match(read(shard)))


class Stop(Exception):
    """A caller gives up."""


def workers() -> set[int]:
    """The processes that this one started for calls."""
    return {
        pid for pid in children() if b"execute.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    }


class KillsWorkers:
    """A listener that kills all new workers but COLMAP's when the first task is done."""

    def __init__(self) -> None:
        self.others, self.killed = workers(), list[int]()

    def __call__(self, event: Event) -> None:
        if event.name == "progress" and not self.killed:
            _, *mine = sorted(workers() - self.others)  # the first one is COLMAP's
            for pid in mine:
                os.kill(pid, signal.SIGKILL)
            self.killed += mine


def results(output: Path) -> dict[str, bytes]:
    """All files below a folder but the reports, which name places, with their bytes."""
    told = ("report.txt", "summary.json")
    files = (path for path in output.rglob("*") if path.is_file() and path.name not in told)
    return {str(path.relative_to(output)): path.read_bytes() for path in files}


def children() -> set[int]:
    """Processes that this process started and that are still there."""
    tasks = Path("/proc/self/task").glob("*/children")
    return {int(child) for task in tasks for child in task.read_text().split()}


def first_time(trace: Path) -> bool:
    """Whether nobody asked this before, in any process."""
    try:
        os.close(os.open(trace, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def kill_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def killed(*arguments: object) -> None:
    """A call that its process does not survive."""
    kill_this_process()


class KilledOnce:
    """A stage whose process is killed when it first begins to work."""

    def __init__(self, make: Callable[[], Work], trace: Path) -> None:
        self.work, self.trace = make(), trace

    def __call__(self, value: Any, attempt: int) -> Any:
        if first_time(self.trace):
            kill_this_process()
        return self.work(value, attempt)


class Killing:
    """An executor that carries out stages as another one does, but their processes are killed once
    at each of them.
    """

    def __init__(self, executor: Executor, traces: Path) -> None:
        self.executor, self.traces, self.name = executor, traces, executor.name

    def __getattr__(self, name: str) -> Any:
        return getattr(self.executor, name)

    def run(
        self,
        stages: Sequence[Stage],
        tasks: Sequence[Task],
        actors: Actors = ANY,
        listen: Listener = nobody,
    ) -> Iterator[Any]:
        killed = [
            replace(stage, make=partial(KilledOnce, stage.make, self.traces / stage.name))
            for stage in stages
        ]
        return self.executor.run(killed, tasks, actors, listen)


def plus(number: int) -> Work:
    """Adds a number."""
    return partial(_plus, number)


def _plus(number: int, value: int, attempt: int) -> int:
    return value + number


def attempts() -> Work:
    """Collects the number of the attempt."""
    return lambda value, attempt: (value, attempt)


def inverse() -> Work:
    """Has a bug: it divides by what may be zero."""
    return lambda value, attempt: 1 / value


def full_disk() -> Work:
    """Fails as expected at the value 3."""

    def work(value: int, attempt: int) -> int:
        if value == 3:
            raise StorageError("/full: has no space left; free some.")
        return value

    return work


def traced(folder: Path) -> Work:
    """Leaves a file for every value that it works on; returns the process."""

    def work(value: int, attempt: int) -> int:
        (folder / str(value)).touch()
        return os.getpid()

    return work


def slowly_traced(folder: Path) -> Work:
    """The same, and takes a while."""

    def work(value: int, attempt: int) -> int:
        time.sleep(0.1)
        return traced(folder)(value, attempt)

    return work


def deadly() -> Work:
    """Kills every process that begins it."""

    def work(value: int, attempt: int) -> None:
        kill_this_process()

    return work


def pid_of() -> Work:
    """Tell which process this is."""
    return lambda value, attempt: os.getpid()


def niceness() -> Work:
    """Tells the priority of its process."""
    return lambda value, attempt: os.getpriority(os.PRIO_PROCESS, 0)


def together(folder: Path, count: int) -> Work:
    """Wait until so many processes are at it."""

    def work(value: int, attempt: int) -> int:
        (folder / str(os.getpid())).touch()
        deadline = time.monotonic() + 120
        while len([*folder.iterdir()]) < count and time.monotonic() < deadline:
            time.sleep(0.05)
        return len([*folder.iterdir()])

    return work


def held_mapper(folder: Path, options: MappingOptions) -> Work:
    """Maps blocks, but names node, process, block and attempt first; all wait to go on."""
    from pipeline.reconstruct.blocks.task import make_mapper

    mapper = make_mapper(options)

    def work(value: BlockTask, attempt: int) -> MappedBlock:
        (folder / f"{os.getppid()} {os.getpid()} {value.name} {attempt}").touch()
        deadline = time.monotonic() + 120
        while not (folder / "go on").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        return mapper(value, attempt)

    return work


class Crowd:
    """Reads as `work` does, and leaves a file that tells how many processes did at once."""

    def __init__(self, make: Callable[[], Work], place: Path) -> None:
        self.work, self.place = make(), place

    def __call__(self, value: Any, attempt: int) -> Any:
        mine = self.place / f"reading-{os.getpid()}"
        mine.touch()
        time.sleep(1)  # until the others work, too
        (self.place / f"at-once-{len([*self.place.glob('reading-*')])}").touch()
        mine.unlink()
        return self.work(value, attempt)
