"""Refining over both executors: the same bytes, also after it was stopped and killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from rendered import Rendered, adjusted_model, render

import pipeline
from pipeline.events import Event, Listener, nobody
from pipeline.execute.executor import Executor
from pipeline.execute.local import LocalExecutor
from pipeline.reconstruct.tracks.options import RefineOptions

OPTIONS = RefineOptions(sizes=(200, 320))


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    return render(tmp_path_factory.mktemp("rendered") / "images")


@pytest.fixture(scope="module")
def model(rendered: Rendered) -> Path:
    folder = rendered.images.parent / "model"
    folder.mkdir()
    adjusted_model(rendered.scene).write_binary(folder)
    return folder


def refine(
    model: Path,
    output: Path,
    executor: Executor,
    listen: Listener = nobody,
    **more: int,
) -> dict[str, bytes]:
    """Refine, and return all files with their bytes."""
    pipeline.refine(
        model,
        model.parent / "images",
        output,
        options=OPTIONS,
        executor=executor,
        progress=listen,
        **more,
    )
    files = (path for path in output.rglob("*") if path.is_file() and path.name != "report.txt")
    return {str(path.relative_to(output)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def whole(model: Path, kept_executor: Executor) -> dict[str, bytes]:
    return refine(model, model.parent / "whole", kept_executor, actors=1)


def test_executors_and_their_processes_do_not_change_the_result(
    model: Path, whole: dict[str, bytes], executor: Executor, tmp_path: Path
) -> None:
    assert "images.bin" in whole
    assert refine(model, tmp_path / "again", executor, actors=2) == whole


class Stop(Exception):
    pass


@pytest.mark.parametrize("when", ["0.progress", "1.refining", "0.refined", "1.progress"])
def test_a_refinement_that_is_stopped_goes_on_to_the_same_bytes(
    model: Path, whole: dict[str, bytes], kept_executor: Executor, tmp_path: Path, when: str
) -> None:
    """when: the round, and the event of it, at which the caller gives up."""
    number, _, name = when.partition(".")
    rounds = 0

    def stop(event: Event) -> None:
        nonlocal rounds
        rounds += event.name == "refined"
        if event.name == name and rounds >= int(number):
            raise Stop

    with pytest.raises(Stop):
        refine(model, tmp_path / "out", kept_executor, stop)
    measured = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.parquet")}
    assert refine(model, tmp_path / "out", kept_executor) == whole
    assert all(path.stat().st_mtime_ns == time for path, time in measured.items())


def test_a_process_that_is_killed_while_it_measures_costs_nothing(
    model: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    killed: list[int] = []
    others = workers()

    def kill(event: Event) -> None:
        if event.name == "progress" and not killed:
            _, *mine = sorted(workers() - others)  # the first one is COLMAP's
            for pid in mine:
                os.kill(pid, signal.SIGKILL)
            killed.extend(mine)

    with LocalExecutor() as executor:
        assert refine(model, tmp_path / "out", executor, kill, actors=1) == whole
    assert killed


def workers() -> set[int]:
    """The processes that this one started for calls."""
    tasks = Path("/proc/self/task").glob("*/children")
    children = {int(child) for task in tasks for child in task.read_text().split()}
    return {
        pid for pid in children if b"execute.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    }


def test_other_options_begin_anew(
    model: Path, whole: dict[str, bytes], kept_executor: Executor, tmp_path: Path
) -> None:
    pipeline.refine(
        model,
        model.parent / "images",
        tmp_path / "out",
        options=RefineOptions(sizes=(150,)),
        executor=kept_executor,
    )
    assert refine(model, tmp_path / "out", kept_executor) == whole
