"""What every executor promises. The same tests run over this machine's processes and over Ray."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import stages
from pictures import write_views

from pipeline.errors import ArgumentError, ExecutorError, StorageError
from pipeline.events import Event
from pipeline.execute.choose import make_executor
from pipeline.execute.executor import Actors, Executor, Stage, tasks_of
from pipeline.execute.local import MOST_DEATHS, LocalExecutor
from pipeline.match.job import match_photographs
from pipeline.match.options import MatchingOptions, RunOptions, VerificationOptions

PROJECT = Path(__file__).resolve().parents[2]
LONG_SIDE = 192
PAIRS = 6  # of four views, two in a shard


def numbers(count: int) -> list[Any]:
    return tasks_of((f"task {k}" for k in range(count)), range(count))


def test_every_task_has_its_result_once(executor: Executor) -> None:
    steps = [
        Stage("ten", partial(stages.plus, 10)),
        Stage("hundred", partial(stages.plus, 100), holds_model=True),
    ]
    found = list(executor.run(steps, numbers(12)))
    assert sorted(found) == [110 + k for k in range(12)]


def test_no_tasks_have_no_results(executor: Executor) -> None:
    assert list(executor.run([Stage("ten", partial(stages.plus, 10))], [])) == []


def test_an_expected_error_ends_the_run_and_is_raised_as_it_is(executor: Executor) -> None:
    steps = [Stage("write", stages.full_disk), Stage("ten", partial(stages.plus, 10))]
    with pytest.raises(StorageError, match=r"^/full: has no space left; free some\.$"):
        list(executor.run(steps, numbers(6)))


def test_a_bug_is_raised_with_the_trace_of_the_process_that_met_it(executor: Executor) -> None:
    with pytest.raises(ZeroDivisionError) as raised:
        list(executor.run([Stage("inverse", stages.inverse)], numbers(3)))
    told = f"{raised.value}{raised.value.__cause__}"
    assert "stages.py" in told
    assert "return lambda value, attempt: 1 / value" in told


def test_a_process_that_is_killed_costs_one_attempt(executor: Executor, tmp_path: Path) -> None:
    steps = [
        Stage("read", partial(stages.KilledOnce, stages.attempts, tmp_path / "read")),
        Stage(
            "hold", partial(stages.KilledOnce, stages.attempts, tmp_path / "hold"), holds_model=True
        ),
        Stage("write", partial(stages.KilledOnce, stages.attempts, tmp_path / "write")),
    ]
    found = list(executor.run(steps, numbers(3), Actors.parse("1")))
    assert {path.name for path in tmp_path.iterdir()} == {"read", "hold", "write"}
    values, told = [], []
    for ((value, read), held), written in found:
        values.append(value)
        told.append((read, held, written))
    assert sorted(values) == [0, 1, 2]
    for stage in zip(*told, strict=True):
        assert sorted(stage) == [1, 1, 2]  # the one task that was killed there


def test_results_that_are_not_taken_hold_up_the_work(tmp_path: Path) -> None:
    with LocalExecutor() as executor:
        results = executor.run(
            [Stage("trace", partial(stages.traced, tmp_path))], numbers(100), Actors.parse("1")
        )
        next(results)
        time.sleep(0.3)
        assert len([*tmp_path.iterdir()]) <= 4
        results.close()  # type: ignore[attr-defined]


def test_processes_of_a_run_serve_the_next_one() -> None:
    with LocalExecutor() as executor:
        one = Actors.parse("1")
        first, second = (
            set(executor.run([Stage("pid", stages.pid_of)], numbers(3), one)) for _ in range(2)
        )
        assert first == second
        assert len(first) == 1
        pid = first.pop()
    assert not os.path.exists(f"/proc/{pid}")


def test_a_closed_iterator_ends_the_work_and_no_process_outlives_the_executor(
    executor: Executor, tmp_path: Path
) -> None:
    before = stages.children()
    results = executor.run(
        [Stage("trace", partial(stages.slowly_traced, tmp_path), holds_model=True)], numbers(100)
    )
    pid = next(results)
    results.close()  # type: ignore[attr-defined]
    if executor.name == "local":
        executor.__exit__()
    deadline = time.monotonic() + 20
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{pid}")
    if executor.name == "local":
        assert stages.children() == before
    assert len([*tmp_path.iterdir()]) < 50


def in_threads(work: Callable[[], Any], count: int) -> list[Any]:
    """What `work` returns in as many threads at once."""
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(work())) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return found


@pytest.mark.parametrize("threads", [1, 2])
def test_it_works_in_threads(executor: Executor, threads: int) -> None:
    step = Stage("ten", partial(stages.plus, 10))
    found = in_threads(lambda: sorted(executor.run([step], numbers(4))), threads)
    assert found == [[10, 11, 12, 13]] * threads


def test_it_works_again_after_an_error(executor: Executor) -> None:
    for _ in range(2):
        with pytest.raises(StorageError):
            list(executor.run([Stage("write", stages.full_disk)], numbers(6)))
        assert sorted(executor.run([Stage("ten", partial(stages.plus, 10))], numbers(2))) == [
            10,
            11,
        ]


def test_work_that_kills_every_process_ends_with_a_sentence() -> None:
    heard: list[Event] = []
    with pytest.raises(
        ExecutorError,
        match=r"^10 processes died at stage deadly of task 0, the last killed by SIGKILL",
    ):
        list(LocalExecutor().run([Stage("deadly", stages.deadly)], numbers(1), listen=heard.append))
    assert len(heard) == MOST_DEATHS
    assert heard[0].fields == {
        "task": "task 0",
        "stage": "deadly",
        "attempt": 1,
        "cause": "killed by SIGKILL",
    }


def test_more_actors_than_cpus_are_refused_before_any_work(
    executor: Executor, tmp_path: Path
) -> None:
    with pytest.raises(ExecutorError, match="99 actors"):
        list(
            executor.run(
                [Stage("trace", partial(stages.traced, tmp_path))], numbers(100), Actors.parse("99")
            )
        )
    assert [*tmp_path.iterdir()] == []


def test_processes_have_the_priority_of_their_caller() -> None:
    step = Stage("niceness", stages.niceness)
    mine = os.getpriority(os.PRIO_PROCESS, 0)
    assert list(LocalExecutor().run([step], numbers(1))) == [mine]
    program = """
import os
from stages import niceness
from pipeline.execute.executor import Stage, tasks_of
from pipeline.execute.local import LocalExecutor
os.nice(3)
print(*LocalExecutor().run([Stage("niceness", niceness)], tasks_of(["a"], [0])))
"""
    assert script(program).strip() == str(mine + 3)


def script(program: str) -> str:
    """What a program prints that is a script without a guard."""
    paths = os.pathsep.join(map(str, (PROJECT, PROJECT / "tests")))
    environment = {**os.environ, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-"],
        input=program,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_a_script_needs_no_guard_and_no_ray(tmp_path: Path) -> None:
    write_views(tmp_path / "photos", 2, (160, 120))
    program = f"""
import sys
import pipeline
photos, run = {str(tmp_path / "photos")!r}, {str(tmp_path / "run")!r}
summary = pipeline.match(photos, run, long_side=96, executor="local")
print(summary["pairs"], "ray" in sys.modules)
"""
    assert script(program).split() == ["1", "False"]


def test_another_name_is_refused() -> None:
    with pytest.raises(
        ArgumentError, match=r"executor 'dask' is unknown; give auto, local, ray\.$"
    ):
        make_executor("dask")


def test_a_cluster_s_address_chooses_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert make_executor().name == "local"
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert make_executor().name == "ray"
    assert make_executor("local").name == "local"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("input") / "photos"
    write_views(folder, 4, (192, 144))
    return folder


def matched(photos: Path, output: Path, executor: Executor, actors: str) -> dict[str, bytes]:
    """The tables that a run leaves."""
    matching, verification = MatchingOptions(LONG_SIDE), VerificationOptions(long_side=LONG_SIDE)
    options = RunOptions(
        str(photos), str(output), matching=matching, verification=verification, max_pairs=2
    )
    summary = match_photographs(options, executor, Actors.parse(actors))
    assert (summary["pairs"], summary["failed"]) == (PAIRS, {})
    assert summary["verified"] > 0
    return {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*.parquet")}


@pytest.fixture(scope="module")
def expected(
    photos: Path, tmp_path_factory: pytest.TempPathFactory, kept_executor: Executor
) -> dict[str, bytes]:
    """What one process writes."""
    return matched(photos, tmp_path_factory.mktemp("expected") / "run", kept_executor, "1")


def test_two_processes_write_the_same_bytes_as_one(
    kept_executors: Executor, photos: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    tables_of_run = 4  # plan, its failures, headings, files; and three tables a shard
    assert len(expected) == tables_of_run + 3 * PAIRS // 2
    assert matched(photos, tmp_path / "run", kept_executors, "2") == expected


def test_a_run_whose_processes_are_killed_at_every_stage_writes_the_same_bytes(
    executor: Executor, photos: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    (tmp_path / "killed").mkdir()
    killing = stages.Killing(executor, tmp_path / "killed")
    assert matched(photos, tmp_path / "run", killing, "1") == expected
    assert {path.name for path in (tmp_path / "killed").iterdir()} == {"read", "match", "finish"}
