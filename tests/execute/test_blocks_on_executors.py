"""Blocks over both executors: the same bytes, also after they were stopped and killed."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from PIL import Image
from stages import KillsWorkers, Stop, killed, results, workers

import pipeline
from benchmarks.scale.scenes import survey
from pipeline.cli import main
from pipeline.errors import ReconstructionError
from pipeline.events import Event, Listener, nobody
from pipeline.execute.executor import Executor
from pipeline.execute.local import LocalExecutor
from pipeline.reconstruct import given
from pipeline.reconstruct.blocks.options import BlockOptions


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("survey") / "given.db"
    survey(6).write(made)
    return made


def reconstruct(
    database: Path,
    output: Path,
    executor: Executor,
    listen: Listener = nobody,
    final: str = "auto",
) -> dict[str, bytes]:
    """Reconstruct in blocks, and return the results with their bytes."""
    pipeline.reconstruct(
        database=database,
        output=output,
        blocks=BlockOptions(15, final=final),
        refine="none",
        executor=executor,
        progress=listen,
    )
    return results(output)


@pytest.fixture(scope="module")
def whole(database: Path, kept_executor: Executor) -> dict[str, bytes]:
    return reconstruct(database, database.parent / "whole", kept_executor)


@pytest.fixture(scope="module")
def adjusted(database: Path, whole: dict[str, bytes], kept_executor: Executor) -> dict[str, bytes]:
    """Adjusted by blocks in place of as a whole."""
    output = database.parent / "adjusted"
    shutil.copytree(database.parent / "whole" / "blocks", output / "blocks")
    return reconstruct(database, output, kept_executor, final="blocks")


def test_executors_do_not_change_the_models(
    database: Path, whole: dict[str, bytes], executor: Executor, tmp_path: Path
) -> None:
    assert {"sparse/0/images.bin", "blocks/0/plan.parquet", "blocks/0/done/00002.json"} <= {*whole}
    assert reconstruct(database, tmp_path / "again", executor) == whole


def test_the_model_is_drawn_in_the_colours_of_its_blocks(
    database: Path, whole: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "map.png"
    code = main(["draw", "--blocks", str(database.parent / "whole"), "--output", str(place)])
    assert code == 0
    assert re.search(r"map\.png: 36 cameras of 3 blocks, [\d,]+ points", capsys.readouterr().out)
    with Image.open(place) as picture:
        assert picture.width == 1000


def test_executors_do_not_change_what_is_adjusted_by_blocks(
    database: Path, adjusted: dict[str, bytes], executor: Executor, tmp_path: Path
) -> None:
    shutil.copytree(database.parent / "whole" / "blocks", tmp_path / "out" / "blocks")
    assert reconstruct(database, tmp_path / "out", executor, final="blocks") == adjusted


def test_an_adjustment_by_blocks_that_is_stopped_is_done_again_and_nothing_else(
    database: Path, adjusted: dict[str, bytes], kept_executor: Executor, tmp_path: Path
) -> None:
    shutil.copytree(database.parent / "adjusted" / "blocks", tmp_path / "out" / "blocks")

    def stop(event: Event) -> None:
        if event.name == "adjusted":
            raise Stop

    with pytest.raises(Stop):
        reconstruct(database, tmp_path / "out", kept_executor, stop, "blocks")
    assert not (tmp_path / "out" / ".joined").exists()
    done = [*(tmp_path / "out" / "blocks").rglob("done/*.json")]
    before = {path: path.stat().st_mtime_ns for path in done}
    assert reconstruct(database, tmp_path / "out", kept_executor, final="blocks") == adjusted
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


@pytest.mark.parametrize("when", ["blocks", "progress", "joining", "joined", "adjusted"])
def test_blocks_that_are_stopped_go_on_to_the_same_bytes(
    database: Path, whole: dict[str, bytes], kept_executor: Executor, tmp_path: Path, when: str
) -> None:
    """when: the event at which the caller gives up."""

    def stop(event: Event) -> None:
        if event.name == when:
            raise Stop

    with pytest.raises(Stop):
        reconstruct(database, tmp_path / "out", kept_executor, stop)
    done = [*(tmp_path / "out" / "blocks").rglob("done/*.json")]
    assert len(done) == {"blocks": 0, "progress": 1}.get(when, 3)
    before = {path: path.stat().st_mtime_ns for path in done}
    assert reconstruct(database, tmp_path / "out", kept_executor) == whole
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_a_process_that_is_killed_while_it_maps_costs_nothing(
    database: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    kill = KillsWorkers()
    with LocalExecutor() as executor:
        assert reconstruct(database, tmp_path / "out", executor, kill) == whole
    assert kill.killed


def test_other_options_map_anew(
    database: Path, whole: dict[str, bytes], kept_executor: Executor, tmp_path: Path
) -> None:
    reconstruct(database, tmp_path / "out", kept_executor)
    pipeline.reconstruct(
        database=database,
        output=tmp_path / "out",
        blocks=30,
        refine="none",
        executor=kept_executor,
    )
    assert len([*(tmp_path / "out" / "blocks" / "0" / "done").iterdir()]) == 2
    assert reconstruct(database, tmp_path / "out", kept_executor) == whole


def test_blocks_are_mapped_by_as_many_processes_as_are_asked_for(
    database: Path, tmp_path: Path
) -> None:
    others, seen = workers(), set[int]()

    def look(event: Event) -> None:
        if event.name == "progress":
            seen.update(workers() - others)

    with LocalExecutor() as executor:
        pipeline.reconstruct(
            database=database,
            output=tmp_path / "out",
            blocks=15,
            refine="none",
            executor=executor,
            actors=1,
            progress=look,
        )
    assert len(seen) == 2  # one of them is COLMAP's


def test_the_death_of_colmap_s_process_in_a_dry_run_is_one_sentence(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The process kills itself, because a signal from here could come after its last answer.
    monkeypatch.setattr(given, "take_database", killed)
    with pytest.raises(ReconstructionError, match="was killed by SIGKILL; free memory"):
        pipeline.plan_blocks(database=database, output=tmp_path / "out")
