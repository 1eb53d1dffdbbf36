from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import ArgumentError, ExecutorError
from pipeline.execute import executor
from pipeline.execute.executor import Actors, Capacity, local_capacity
from pipeline.front.carrying import chosen_actors

MANY = 1000  # tasks


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
    text: str | None,
    actor_gpus: float | None,
    cpus: int,
    gpus: int,
    expected: tuple[int, int, float],
) -> None:
    assert Actors.parse(text, actor_gpus).resolved(Capacity(cpus, gpus), MANY) == expected


def test_there_are_no_more_actors_than_tasks() -> None:
    assert Actors().resolved(Capacity(8, 0), 3) == (3, 3, 0)
    assert Actors.parse("2-8").resolved(Capacity(8, 0), 3) == (2, 3, 0)
    assert Actors.parse("4-8").resolved(Capacity(8, 0), 1) == (1, 1, 0)


@pytest.mark.parametrize(
    ("text", "actor_gpus", "message"),
    [
        ("9", None, r"9 actors: there are 8 CPUs, and every actor needs one; give at most 8\.$"),
        ("9-12", None, "9 actors: there are 8 CPUs"),
        (
            "3",
            1,
            r"3 actors of 1 GPUs: there are 2 GPUs; give fewer actors, a smaller share, or a "
            r"range as 1-8 .*\.$",
        ),
        (None, 4, "1 actors of 4 GPUs: there are 2 GPUs"),
    ],
)
def test_actors_that_would_wait_for_ever_are_refused(
    text: str | None, actor_gpus: float | None, message: str
) -> None:
    with pytest.raises(ExecutorError, match=message):
        Actors.parse(text, actor_gpus).resolved(Capacity(8, 2), MANY)


@pytest.mark.parametrize(
    ("text", "gpus", "message"),
    [
        ("many", None, "a number or a range as 1-8, not 'many'"),
        ("0", None, "actors must be at least 1, and a range from the smaller: not 0[.]"),
        ("３", None, "a number or a range"),
        ("8-2", None, "a range from the smaller: not 8-2"),
        ("-2", None, "a number or a range"),
        (None, 1.5, "a part of one or whole ones, not 1.5"),
        (None, 0, "a part of one or whole ones, not 0"),
    ],
)
def test_actors_that_make_no_sense_are_refused(
    text: str | None, gpus: float | None, message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        Actors.parse(text, gpus)


def test_torch_counts_the_gpus_where_there_is_a_driver(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(executor, "GPU_DRIVERS", (str(tmp_path / "absent"), "/dev/null"))
    assert local_capacity().gpus == 3


def test_a_machine_without_a_driver_has_no_gpus_and_needs_no_torch_to_know(tmp_path: Path) -> None:
    code = f"""
import sys
from pipeline.execute import executor
executor.GPU_DRIVERS = ({str(tmp_path / "absent")!r},)
sys.exit(executor.local_capacity().gpus or "torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("given", [(1, 2), [1, 2], 1.5, True])
def test_what_is_no_number_of_actors_is_refused_in_a_sentence(given: Any) -> None:
    with pytest.raises(ArgumentError, match=r"actors are a number or a range as 1-8, not .*\."):
        chosen_actors(given)
