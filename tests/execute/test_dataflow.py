from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pictures import write_views

from pipeline.errors import RunError
from pipeline.execute.executor import Actors

MANY = 1000  # shards


@pytest.mark.parametrize(
    ("text", "actor_gpus", "cpus", "gpus", "expected"),
    [
        (None, None, 8, 0, (8, 8, 0)),
        (None, None, 8, 2, (2, 2, 1)),
        (None, None, 2, 8, (2, 2, 1)),  # every actor also needs a CPU
        (None, 0.5, 8, 2, (4, 4, 0.5)),
        ("4", None, 8, 0, (4, 4, 0)),
        ("4", None, 8, 2, (4, 4, 0.5)),
        ("3", None, 8, 2, (3, 3, 0.5)),  # a share that all of them fit with
        ("2", 2, 8, 4, (2, 2, 2)),
        ("10", 0.1, 16, 1, (10, 10, 0.1)),
        ("1-8", None, 4, 0, (1, 8, 0)),
        ("1-8", None, 4, 1, (1, 8, 1)),
        ("2-8", 1, 1, 0, (2, 8, 1)),  # all of them wait for nodes
    ],
)
def test_actors_and_their_shares_of_gpus_follow_from_the_cluster(
    text: str | None, actor_gpus: float | None, cpus: int, gpus: int, expected: tuple[int, int, float]
) -> None:
    assert Actors.parse(text, actor_gpus).resolved(cpus, gpus, MANY) == expected


def test_there_are_no_more_actors_than_shards() -> None:
    assert Actors().resolved(8, 0, 3) == (3, 3, 0)
    assert Actors.parse("2-8").resolved(8, 0, 3) == (2, 3, 0)
    assert Actors.parse("4-8").resolved(8, 0, 1) == (1, 1, 0)


@pytest.mark.parametrize(
    ("text", "actor_gpus", "message"),
    [
        ("9", None, r"9 actors: there are 8 CPUs, and every actor needs one; give at most 8\.$"),
        ("9-12", None, "9 actors: there are 8 CPUs"),
        ("3", 1, r"3 actors of 1 GPUs: there are 2 GPUs; give fewer actors, a smaller share, or a range as 1-8 .*\.$"),
        (None, 4, "1 actors of 4 GPUs: there are 2 GPUs"),
    ],
)
def test_actors_that_would_wait_for_ever_are_refused(text: str | None, actor_gpus: float | None, message: str) -> None:
    with pytest.raises(RunError, match=message):
        Actors.parse(text, actor_gpus).resolved(8, 2, MANY)


@pytest.mark.parametrize(
    ("text", "gpus", "message"),
    [
        ("many", None, "a number or a range as 1-8, not 'many'"),
        ("0", None, "actors must be at least 1"),
        ("8-2", None, "a range from the smaller: not 8-2"),
        ("-2", None, "a number or a range"),
        (None, 1.5, "a part of one or whole ones, not 1.5"),
        (None, 0, "a part of one or whole ones, not 0"),
    ],
)
def test_actors_that_make_no_sense_are_refused(text: str | None, gpus: float | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Actors.parse(text, gpus)


WORKERS = """
import os, time, ray
from pipeline.execute.on_ray import TASK_CPUS, start

start()

@ray.remote(num_cpus=TASK_CPUS)
def process():
    time.sleep(3)  # until the others run, too
    return os.getpid()

def processes():
    return set(ray.get([process.remote() for _ in range(4)]))

before = processes()
time.sleep(2.5)
print(len(before), len(processes() - before))
"""


def test_a_process_without_work_waits_for_the_next_shard() -> None:
    done = subprocess.run([sys.executable, "-c", WORKERS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["4", "0"]


READERS = """
import os, sys, time
from pathlib import Path
from pipeline import dataflow
from pipeline.match.match import MatchingOptions
from pipeline.match.run import RunOptions

place = Path(sys.argv[1])
reading = place / "reading"
reading.mkdir()

class Read(dataflow._Read):
    def __call__(self, row):
        mine = reading / str(os.getpid())
        mine.touch()
        time.sleep(1)  # until the others read, too
        (place / f"at-once-{len(list(reading.iterdir()))}").touch()
        mine.unlink()
        return super().__call__(row)

dataflow._Read = Read
options = RunOptions(str(place / "photos"), str(place / "run"), matching=MatchingOptions(96), max_pairs=2)
dataflow.match_dataset(options)
"""


def test_without_gpus_one_process_reads_for_two_cpus(tmp_path: Path) -> None:
    write_views(tmp_path / "photos", 6, (96, 64))
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "-c", READERS, tmp_path], env=environment, capture_output=True, check=True)
    at_once = [int(found.name.removeprefix("at-once-")) for found in tmp_path.glob("at-once-*")]
    assert 1 <= max(at_once) <= max(1, len(os.sched_getaffinity(0)) // 2)
