"""Whatever is killed, whenever: every pair has one row, and tables are those of a quiet run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from job_process import DRIVEN, PROJECT, Job, attached, done, rows, shards
from pictures import write_views
from quiet_run import COUNT, PLAN, SHARD_PAIRS, check_whole, start
from ray_nodes import Nodes, three_nodes

from pipeline.cli import main
from pipeline.match.read import TRIES

pytestmark = pytest.mark.timeout(900)  # several starts of Ray each, on a machine that may be busy


# One machine


@pytest.fixture(params=["local", "ray"])
def executor(request: pytest.FixtureRequest) -> str:
    """What carries out the work; the same is asked of both."""
    return str(request.param)


@pytest.fixture
def anywhere(request: pytest.FixtureRequest, executor: str) -> dict[str, str]:
    """The environment of a job that uses the cluster of three nodes where it uses Ray at all.

    To start a Ray for every job takes longer than the job.
    """
    return attached(request.getfixturevalue("three").cluster.address) if executor == "ray" else {}


def test_a_second_driver_is_refused_and_instalments_give_the_same_tables(
    place: Path,
    executor: str,
    anywhere: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = place / f"instalments-{executor}"
    how = ("--executor", executor, "--actors", 1)
    first = start(place, run.name, *how, **anywhere)
    first.until(lambda: done(run) > 0)
    monkeypatch.chdir(place)
    assert main(["match", "--images", "photos", "--output", run.name, *map(str, PLAN)]) == 4
    refused = capsys.readouterr().err
    assert re.fullmatch(
        rf"eloftr match: {run}: another command, "
        rf"process {first.process.pid} on {os.uname().nodename}, works on it "
        r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC; [^\n]+\.\n",
        refused,
    )
    first.process.terminate()
    assert first.ended() == 3, first.out + first.err
    assert (
        first.err.splitlines()[-1] == "eloftr match: stopped; run the same command again to go on."
    )
    assert "Traceback" not in first.err
    before = done(run)
    assert 0 < before < shards(run)
    assert not (run / "run.lock").exists()

    second = start(place, run.name, *how, **anywhere)
    second.until(lambda: done(run) > before)
    os.killpg(second.process.pid, signal.SIGKILL)
    assert second.ended() == -signal.SIGKILL
    before = done(run)
    assert before < shards(run)
    assert not (run / "summary.json").exists()
    assert json.loads((run / "run.lock").read_text())["pid"] == second.process.pid

    third = start(place, run.name, *how, "--json", **anywhere)
    assert third.ended() == 0, third.out + third.err
    check_whole(run, place / "quiet")
    events = [json.loads(line) for line in third.err.splitlines()]
    assert (events[0]["event"], events[-1]["event"]) == ("plan", "progress")
    assert events[0]["done"] == before
    summary = json.loads(third.out)
    assert summary["pairs"] == len(rows(run))
    assert summary["session"]["pairs"] == len(rows(run)) - SHARD_PAIRS * before
    assert summary["session"]["executor"] == executor


# A matcher that takes no time, and notes the shards that it had.
NOTING = """
from pathlib import Path
from pipeline.match.match import MatchedShard, MatchShard, matches_table

class Stage(MatchShard):
    def __init__(self, model, options):
        pass

    def __call__(self, shard, attempt=1):
        (Path({noted!r}) / shard.shard).touch()
        names = [[shard.names[i] for i in side] for side in shard.pairs.T]
        matches = matches_table(names, [None] * len(shard.pairs), {{}})
        encodes = len(shard.pixels)
        return MatchedShard(
            shard.shard, shard.images, matches, shard.failures, encodes, shard.seconds
        )
"""


def driven(folder: Path, source: str) -> dict[str, Any]:
    """How a job is started whose stage of matching is `Stage` of this source."""
    (folder / "substituted.py").write_text(source)
    return {"program": ("-c", DRIVEN), "PYTHONPATH": f"{folder}{os.pathsep}{PROJECT}"}


def test_on_one_cpu_shards_are_finished_while_others_are_still_read(
    tmp_path: Path, executor: str
) -> None:
    """Else whoever kills the run, however late, takes all its work."""
    write_views(tmp_path / "photos", 40, (64, 48))
    (tmp_path / "noted").mkdir()
    how = driven(tmp_path, NOTING.format(noted=str(tmp_path / "noted")))
    small = ("--long-side", 64, "--shard-pairs", 1, "--executor", executor, "--actors", 1)
    one_cpu = {"RAY_OVERRIDE_RESOURCES": '{"CPU": 1}'}
    job = Job("--images", "photos", "--output", "run", *small, cwd=tmp_path, **how, **one_cpu)
    job.until(lambda: done(tmp_path / "run") > 0)
    noted = len([*(tmp_path / "noted").iterdir()])
    assert 0 < noted < shards(tmp_path / "run") / 2
    job.until(lambda: done(tmp_path / "run") > 100)  # and so it goes on
    assert len([*(tmp_path / "noted").iterdir()]) < 400
    os.killpg(job.process.pid, signal.SIGKILL)  # and of Ray that it started, nothing is left
    assert job.ended() == -signal.SIGKILL


def test_a_full_disk_is_one_sentence_and_the_run_goes_on_when_there_is_room(
    place: Path, tmp_path: Path, executor: str, anywhere: dict[str, str]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("file systems may not be mounted here")
    try:
        how = ("--executor", executor, "--actors", 1)
        job = start(place, str(disk / "run"), *how, **anywhere)
        assert job.ended() == 2, job.out + job.err
        message = (
            r"^eloftr match: .*/run/\S+: cannot be written: No space left on device; free space"
        )
        assert re.search(message, job.err, re.MULTILINE), job.err
        assert "Traceback" not in job.err
        assert done(disk / "run") < shards(disk / "run")
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        again = start(place, str(disk / "run"), *how, **anywhere)
        assert again.ended() == 0, again.out + again.err
        check_whole(disk / "run", place / "quiet")
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


# A process that opens `view 8.jpg` is killed, as by a broken decoder. The first process is spared,
# because it reads the headers of photographs and decodes none.
POISON = """
import os, signal, sys

first = os.environ.setdefault("FIRST_PROCESS", str(os.getpid()))

def kill(event, arguments):
    if event == "open" and str(arguments[0]).endswith("/view 8.jpg"):
        if first != str(os.getpid()):
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill)
"""
# A process that matches more than one pair of `view 6.jpg`, or any of `view 7.jpg`, is killed.
DEADLY = """
import os, signal
from pipeline.match.match import MatchShard

class Stage(MatchShard):
    def _match(self, shard, seconds):
        names = set(shard.images["image"].to_pylist())
        if "view 7.jpg" in names or ("view 6.jpg" in names and len(shard.pairs) > 1):
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._match(shard, seconds)
"""


def test_what_kills_its_process_is_set_aside_and_the_rest_goes_on(
    place: Path, tmp_path: Path, executor: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(POISON)
    view = [f"view {k}.jpg" for k in range(COUNT)]
    pairs = [*combinations(view[:6], 2)]
    pairs += [(view[6], view[k]) for k in range(2)] + [(view[7], view[2])]
    pairs += [(view[k], view[8]) for k in range(3)]
    (tmp_path / "pairs.txt").write_text("".join(f"{first}\t{second}\n" for first, second in pairs))
    places = ("--images", place / "photos", "--output", tmp_path / "run")
    how = ("--executor", executor, "--actors", 1)
    options = (*places, "--pairs", tmp_path / "pairs.txt", *how)
    job = Job(*options, *PLAN, cwd=tmp_path, **driven(tmp_path, DEADLY))
    assert job.ended() == 0, job.out + job.err

    def by_pair(run: Path) -> dict[tuple[str, str], dict]:
        found = {(row["image0"], row["image1"]): row for row in rows(run)}
        assert len(found) == len(rows(run))
        return found

    found, quiet = by_pair(tmp_path / "run"), by_pair(place / "quiet")
    assert set(found) == {tuple(sorted(pair)) for pair in pairs}
    lost = {pair for pair, row in found.items() if row["reason"] == "worker_died"}
    assert (view[2], view[7]) in lost
    assert len(lost) <= SHARD_PAIRS  # its shard
    for pair, row in found.items():
        if view[8] in pair:
            assert (row["status"], row["reason"]) == ("failed", "crash")
        elif pair not in lost:
            assert row == quiet[pair]
    failures = [row for path in (tmp_path / "run" / "failures").glob("0*") for row in read(path)]
    details = {
        (row["image0"], row["image1"]): (row["stage"], row["reason"], row["detail"])
        for row in failures
    }
    assert details[view[8], None][:2] == ("read", "crash")
    assert "the last killed by SIGKILL" in details[view[8], None][2]
    assert details[view[2], view[7]][:2] == ("match", "worker_died")
    assert f"{TRIES} processes" in details[view[2], view[7]][2]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["failed"] == {"crash": 3, "worker_died": len(lost)}
    assert summary["failed_images"] == {"crash": 1}


def read(path: Path) -> list[dict]:
    import pyarrow.parquet as pq

    return pq.read_table(path).to_pylist()


# Three nodes


# It begins five shards for each thing that has happened to the job, so that no job, however fast,
# ends before all has. A shard that was begun by a process that is gone does not wait.
HELD = """
import time
from pathlib import Path
from pipeline.match.match import MatchShard

class Stage(MatchShard):
    def __call__(self, shard, attempt=1):
        begun, happened = Path({begun!r}), Path({happened!r})
        while not (begun / shard.shard).exists():
            if len([*begun.iterdir()]) < 5 * (1 + len([*happened.iterdir()])):
                (begun / shard.shard).touch()
            else:
                time.sleep(0.02)
        return super().__call__(shard, attempt)
"""


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the processes of the three nodes find `substituted.py`."""
    return tmp_path_factory.mktemp("modules")


@pytest.fixture(scope="module")
def three(modules: Path) -> Iterator[Nodes]:
    with three_nodes(modules) as nodes:
        yield nodes


@pytest.fixture
def held(modules: Path, tmp_path: Path) -> tuple[dict[str, Any], Path]:
    """How a job is started that waits for what happens to it, and where that is noted."""
    begun, happened = tmp_path / "begun", tmp_path / "happened"
    begun.mkdir()
    happened.mkdir()
    source = HELD.format(begun=str(begun), happened=str(happened))
    return driven(modules, source), happened


def test_killed_actors_on_three_nodes_are_replaced(
    three: Nodes, held: tuple[dict[str, Any], Path], place: Path
) -> None:
    run = place / "actors"
    how, happened = held
    job = start(place, "actors", **how, **attached(three.cluster.address))
    killed: set[int] = set()
    for kills in range(1, 4):
        job.until(lambda kills=kills: done(run) >= 3 * kills and bool(set(three.actors()) - killed))
        victim = min(set(three.actors()) - killed)
        os.kill(victim, signal.SIGKILL)
        killed.add(victim)
        assert done(run) < shards(run)
        (happened / str(victim)).touch()
    assert job.ended() == 0, job.out + job.err
    assert len(killed) == 3
    check_whole(run, place / "quiet")


def test_a_node_that_is_told_to_end_and_one_that_is_killed_cost_nothing(
    three: Nodes, held: tuple[dict[str, Any], Path], place: Path
) -> None:
    """Then one CPU is left of three, for three actors' shares and a task."""
    run = place / "nodes"
    how, happened = held
    job = start(place, "nodes", **how, **attached(three.cluster.address))
    for node, graceful, after in ((three.nodes[0], True, 2), (three.nodes[1], False, 6)):
        job.until(lambda after=after: done(run) >= after)
        three.cluster.remove_node(node, allow_graceful=graceful)
        assert done(run) < shards(run)
        (happened / str(after)).touch()
    (happened / "nothing more").touch()
    assert job.ended() == 0, job.out + job.err
    check_whole(run, place / "quiet")
