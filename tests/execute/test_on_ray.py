"""What is Ray's alone: whose node it is, who reads beside whom, and how its processes live."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import stages

from pipeline.execute import on_ray
from pipeline.execute.choose import make_executor
from pipeline.execute.executor import Actors, Capacity, MadeTasks, Stage, tasks_of
from pipeline.execute.starting import sigterm_kept


@pytest.mark.usefixtures("embedded_ray")
def test_a_ray_that_the_caller_started_is_used_and_left_running() -> None:
    import ray

    with make_executor("ray") as executor:
        executor.start()
        assert executor.capacity() == Capacity(2, 0)
    assert ray.is_initialized()


def test_a_sigterm_that_ray_loses_while_it_starts_reaches_the_handler_of_before() -> None:
    reached: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: reached.append(number))
    try:
        with sigterm_kept():
            signal.signal(signal.SIGTERM, lambda number, frame: None)  # as Ray's, and it loses it
            signal.raise_signal(signal.SIGTERM)
        assert reached == [signal.SIGTERM]
        with sigterm_kept():
            pass
        assert reached == [signal.SIGTERM]
        assert signal.set_wakeup_fd(-1) == -1
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("embedded_ray")
def test_without_gpus_one_process_reads_for_two_cpus(tmp_path: Path) -> None:
    read = Stage("read", partial(stages.Crowd, partial(stages.plus, 1), tmp_path))
    hold = Stage("hold", partial(stages.plus, 1), holds_model=True)
    with make_executor("ray") as executor:
        found = executor.run([read, hold], tasks_of("abcd", range(4)), Actors.parse("2"))
        assert sorted(found) == [2, 3, 4, 5]
    assert [path.name for path in tmp_path.glob("at-once-*")] == ["at-once-1"]


@pytest.mark.usefixtures("embedded_ray")
def test_a_range_without_gpus_has_an_actor_for_each_cpu_and_no_more(tmp_path: Path) -> None:
    read, write = (Stage(name, partial(stages.plus, 1)) for name in ("read", "write"))
    make = partial(stages.Crowd, partial(stages.plus, 1), tmp_path)
    hold = Stage("hold", make, holds_model=True)
    with make_executor("ray") as executor:
        names = "abcdefghijklmnopqrstuvwx"
        tasks = tasks_of(names, range(len(names)))
        found = executor.run([read, hold, write], tasks, Actors.parse("1-8"))
        assert sorted(found) == [*range(3, 27)]
    crowds = {int(path.name.rpartition("-")[2]) for path in tmp_path.glob("at-once-*")}
    assert max(crowds) == 2


@pytest.mark.usefixtures("embedded_ray")
@pytest.mark.parametrize(("actors", "most"), [("1", 1), ("1-8", 2)])
def test_a_stage_alone_has_a_cpu_for_each_of_its_processes(
    tmp_path: Path, actors: str, most: int
) -> None:
    work = Stage("work", partial(stages.Crowd, partial(stages.plus, 1), tmp_path))
    with make_executor("ray") as executor:
        found = executor.run([work], tasks_of("abcdef", range(6)), Actors.parse(actors))
        assert sorted(found) == [1, 2, 3, 4, 5, 6]
    crowds = {int(path.name.rpartition("-")[2]) for path in tmp_path.glob("at-once-*")}
    assert max(crowds) <= most


@pytest.mark.usefixtures("embedded_ray")
def test_large_tasks_are_made_a_wave_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the driver never holds the databases of all blocks."""
    made: list[int] = []

    def make(row: int) -> int:
        made.append(row)
        return row

    monkeypatch.setattr(on_ray, "WAVE", 1)  # of two processes
    found, after = [], []
    with make_executor("ray") as executor:
        work = Stage("work", partial(stages.plus, 10))
        for result in executor.run([work], MadeTasks("abcdef", make), Actors.parse("2")):
            found.append(result)
            after.append(len(made))
    assert sorted(found) == [*range(10, 16)]
    assert after == [2, 2, 4, 4, 6, 6]


@pytest.mark.usefixtures("embedded_ray")
def test_a_stage_alone_uses_all_cpus(tmp_path: Path) -> None:
    """Blocks are such a stage."""
    work = Stage("work", partial(stages.together, tmp_path, 2))
    with make_executor("ray") as executor:
        assert [*executor.run([work], tasks_of("abcd", range(4)))] == [2, 2, 2, 2]


WORKERS = """
import os, tempfile, time, ray
from pathlib import Path
from pipeline.cli.app import _own_process
from pipeline.execute.on_ray import RayExecutor
from pipeline.execute.shares import STEADY

_own_process()  # as every command does

@ray.remote(num_cpus=STEADY.task)
def process(folder):
    (folder / str(os.getpid())).touch()
    deadline = time.monotonic() + 60
    while len([*folder.iterdir()]) < 4 and time.monotonic() < deadline:  # the others run, too
        time.sleep(0.05)
    return os.getpid(), os.getpriority(os.PRIO_PROCESS, 0)

def processes():
    with tempfile.TemporaryDirectory() as folder:
        return set(ray.get([process.remote(Path(folder)) for _ in range(4)]))

with RayExecutor() as executor:
    executor.start()
    before = processes()
    time.sleep(2.5)
    print(len(before), len(processes() - before), *{niceness for _, niceness in before})
print(ray.is_initialized())
"""


def test_a_command_s_processes_wait_for_the_next_shard_and_have_its_priority() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["RAY_OVERRIDE_RESOURCES"] = '{"CPU": 2}'
    done = subprocess.run(
        ["nice", "-n", "2", sys.executable, "-c", WORKERS],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["4", "0", str(os.nice(0) + 2), "False"]
