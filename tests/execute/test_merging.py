"""Merging over executors: the same database, also where processes are killed."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stages import workers
from synthetic_run import LONG_SIDE, Scene, write_shard

import pipeline
from pipeline.errors import ArgumentError, ReconstructionError
from pipeline.events import Event, Listener, nobody
from pipeline.execute.choose import make_executor
from pipeline.execute.executor import Actors, Executor
from pipeline.execute.local import LocalExecutor
from pipeline.execute.worker import Worker
from pipeline.reconstruct.carrying import Carrying
from pipeline.reconstruct.merging import job
from pipeline.store.folder import Folder
from pipeline.vocabulary import VERIFIED

SHARDS = 3


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("merging") / "run"
    Scene().write(made, shards=SHARDS)
    return made


@pytest.fixture(autouse=True)
def a_large_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every shard and every image are a task of their own, as if there were many of them."""
    split_up(monkeypatch)


def split_up(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(job, "FEW", 0)
    patched.setattr(job, "SHARDS_A_TASK", 1)
    patched.setattr(job, "SHARDS_A_RANGE", SHARDS / Scene().cameras)


def merged(
    run: Path,
    output: Path,
    executor: Executor,
    actors: int = 2,
    listen: Listener = nobody,
) -> dict[str, bytes]:
    """The files that an import through an executor makes, with their bytes."""
    with Worker() as colmap:
        carrying = Carrying(executor, colmap, Actors(actors, actors), listen)
        job.import_matches(
            Folder(str(run)), output / "database.db", long_side=LONG_SIDE, carrying=carrying
        )
    return {path.name: path.read_bytes() for path in output.iterdir()}


@pytest.fixture(scope="module")
def alone(run: Path) -> dict[str, bytes]:
    """The files that this process makes by itself."""
    output = run.parent / "alone"
    with pytest.MonkeyPatch.context() as patched:
        split_up(patched)
        job.import_matches(Folder(str(run)), output / "database.db", long_side=LONG_SIDE)
    return {path.name: path.read_bytes() for path in output.iterdir()}


def test_executors_do_not_change_the_database(
    run: Path, alone: dict[str, bytes], executor: Executor, tmp_path: Path
) -> None:
    before = sorted(run.iterdir())
    assert {*alone} == {"database.db", "keypoints.parquet"}
    assert merged(run, tmp_path / "two", executor) == alone
    assert sorted(run.iterdir()) == before  # what the processes handed on is removed


def test_processes_of_a_cluster_meet_in_the_store_of_the_run(
    run: Path,
    alone: dict[str, bytes],
    s3: dict[str, str],
    embedded_ray: None,
    tmp_path: Path,
) -> None:
    remote = Folder("s3://bucket/merging", {"s3": s3})
    for path in run.rglob("*.*"):
        remote.publish(path.relative_to(run).as_posix(), path.read_bytes())
    before = remote.list()
    with make_executor("ray") as executor, Worker() as colmap:
        carrying = Carrying(executor, colmap, Actors(2, 2))
        target = tmp_path / "database.db"
        job.import_matches(remote, target, long_side=LONG_SIDE, carrying=carrying)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == alone
    assert remote.list() == before


def test_one_process_makes_the_database_that_two_make(
    run: Path, alone: dict[str, bytes], kept_executor: Executor, tmp_path: Path
) -> None:
    assert merged(run, tmp_path / "one", kept_executor, actors=1) == alone


@pytest.mark.parametrize("stage", [1, SHARDS + 1, SHARDS + Scene().cameras + 1])
def test_processes_that_are_killed_while_they_merge_cost_nothing(
    run: Path, alone: dict[str, bytes], tmp_path: Path, stage: int
) -> None:
    """stage: the number of the step at which they are killed, one in each of the three stages."""
    others, killed = workers(), list[int]()

    def kill(event: Event) -> None:
        if event.name == "progress" and event.fields["done"] == stage:
            _, *mine = sorted(workers() - others)  # the first one is COLMAP's
            for pid in mine:
                os.kill(pid, signal.SIGKILL)
            killed.extend(mine)

    with LocalExecutor() as executor:
        assert merged(run, tmp_path / "out", executor, listen=kill) == alone
    assert killed


def test_a_bad_shard_is_one_sentence_and_leaves_nothing(
    run: Path, kept_executor: Executor, tmp_path: Path
) -> None:
    bad = tmp_path / "run"
    shutil.copytree(run, bad)
    table = pq.read_table(bad / "matches" / "00001.parquet")
    rows = table.to_pylist()
    rows[0]["image0"] = "nowhere.jpg"
    write_shard(bad, "00001", pa.Table.from_pylist(rows, table.schema), Scene().images())
    with pytest.raises(ReconstructionError, match=r"00001\.parquet: matches 'nowhere\.jpg'"):
        merged(bad, tmp_path / "out", kept_executor)
    assert [*(tmp_path / "out").iterdir()] == []


def test_runs_of_the_same_photographs_are_one_scene(run: Path, tmp_path: Path) -> None:
    """Pairs in two runs, one of them in both, give the database of the run that has all of them."""
    whole = pipeline.reconstruct(str(run), tmp_path / "whole", refine="none", blocks="off")
    for name, kept in (("first", "01"), ("second", "12")):
        part = tmp_path / name
        shutil.copytree(run, part)
        for shard in {*"012"} - {*kept}:
            (part / "matches" / f"0000{shard}.parquet").unlink()
    runs = [str(tmp_path / name) for name in ("first", "second")]
    both = pipeline.reconstruct(runs, tmp_path / "both", refine="none", blocks="off")
    twice = pq.read_table(run / "matches" / "00001.parquet")["geometry"].to_pylist()
    assert both.database.duplicate_pairs == sum(kind in VERIFIED for kind in twice) > 0
    for name in ("sparse/0/images.bin", "sparse/0/points3D.bin", "keypoints.parquet"):
        assert (tmp_path / "both" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert both.database.verified == whole.database.verified


def test_several_runs_are_told_what_they_lack(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ReconstructionError, match="2 runs: say with --output"):
        pipeline.reconstruct([str(run), str(tmp_path)])
    for same in (run, f"{run}/", run / ".." / "run"):
        with pytest.raises(ArgumentError, match=r"run/?: is given twice; give each run once"):
            pipeline.reconstruct([str(run), str(same)], tmp_path / "out")
    (tmp_path / "notes.txt").write_text("no run")
    with pytest.raises(ReconstructionError, match=r"notes\.txt: holds no run\.json"):
        pipeline.reconstruct(str(tmp_path / "notes.txt"), tmp_path / "out")
    other = tmp_path / "other"
    Scene(size=(640, 480)).write(other)
    with pytest.raises(ReconstructionError, match=r"its width differs .*: 720 and 640"):
        pipeline.reconstruct([str(run), str(other)], tmp_path / "out", refine="none")
