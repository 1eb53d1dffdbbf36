"""What is Ray's alone: whose node it is, and who reads beside whom."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import stages

from pipeline.execute.choose import make_executor
from pipeline.execute.executor import Actors, Capacity, Stage, tasks_of

pytestmark = pytest.mark.usefixtures("embedded_ray")


def test_a_ray_that_the_caller_started_is_used_and_left_running() -> None:
    import ray

    with make_executor("ray") as executor:
        executor.start()
        assert executor.capacity() == Capacity(2, 0)
    assert ray.is_initialized()


def test_without_gpus_one_process_reads_for_two_cpus(tmp_path: Path) -> None:
    read = Stage("read", partial(stages.Crowd, partial(stages.plus, 1), tmp_path))
    hold = Stage("hold", partial(stages.plus, 1), holds_model=True)
    with make_executor("ray") as executor:
        found = executor.run([read, hold], tasks_of("abcd", range(4)), Actors.parse("2"))
        assert sorted(found) == [2, 3, 4, 5]
    assert [path.name for path in tmp_path.glob("at-once-*")] == ["at-once-1"]
