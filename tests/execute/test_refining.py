"""Refining over both executors: the same bytes, also after it was stopped and killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from stages import KillsWorkers, Stop, results, workers

import pipeline
from pipeline.errors import ReconstructionError
from pipeline.events import Event, Listener, nobody
from pipeline.execute.executor import Executor
from pipeline.execute.local import LocalExecutor
from pipeline.reconstruct.models import refining
from pipeline.reconstruct.tracks.options import RefineOptions

OPTIONS = RefineOptions(sizes=(200, 320))


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
    return results(output)


@pytest.fixture(scope="module")
def whole(model: Path, kept_executor: Executor) -> dict[str, bytes]:
    return refine(model, model.parent / "whole", kept_executor, actors=1)


@pytest.fixture
def kept_colmap(kept_executor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """COLMAP's process is one of `kept_executor`, which has worked before."""
    monkeypatch.setattr(refining, "Worker", kept_executor.worker)


@pytest.mark.usefixtures("kept_colmap")
def test_executors_and_their_processes_do_not_change_the_result(
    model: Path, whole: dict[str, bytes], kept_executors: Executor, tmp_path: Path
) -> None:
    assert "images.bin" in whole
    assert refine(model, tmp_path / "again", kept_executors, actors=2) == whole


@pytest.mark.usefixtures("kept_colmap")
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
    kill = KillsWorkers()
    with LocalExecutor() as executor:
        assert refine(model, tmp_path / "out", executor, kill, actors=1) == whole
    assert kill.killed


def test_the_death_of_colmap_s_process_is_one_sentence(
    model: Path, whole: dict[str, bytes], kept_executor: Executor, tmp_path: Path
) -> None:
    others = workers()

    def kill(event: Event) -> None:
        if event.text == "adjusting the model":
            os.kill(min(workers() - others), signal.SIGKILL)

    with pytest.raises(ReconstructionError, match="was killed by SIGKILL; free memory"):
        refine(model, tmp_path / "out", kept_executor, kill)
    assert refine(model, tmp_path / "out", kept_executor) == whole


@pytest.mark.usefixtures("kept_colmap")
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
