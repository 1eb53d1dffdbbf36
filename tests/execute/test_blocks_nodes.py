"""Blocks on a cluster of several nodes, of which one is killed while all of them map."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from job_process import PROJECT, RECONSTRUCT, Job, attached
from ray_nodes import three_nodes
from stages import results

import pipeline
from benchmarks.scale.scenes import survey
from pipeline.execute.executor import Executor

pytestmark = pytest.mark.timeout(900)
TESTS = PROJECT / "tests"


def test_a_node_that_is_killed_while_it_maps_costs_nothing(
    tmp_path: Path, kept_executor: Executor
) -> None:
    database, held = tmp_path / "given.db", tmp_path / "held"
    survey(6).write(database)
    held.mkdir()
    with three_nodes(TESTS) as three:
        paths = os.pathsep.join(map(str, (PROJECT, TESTS)))
        job = Job(
            *(database, tmp_path / "nodes", held, 3),
            cwd=tmp_path,
            program=("-c", RECONSTRUCT),
            **attached(three.cluster.address),
            PYTHONPATH=paths,
        )
        job.until(lambda: len([*held.iterdir()]) == 3)  # a block on every node
        at_work = dict(map(int, path.name.split()[:2]) for path in held.iterdir())
        node = next(pid for pid in map(three.raylet, (0, 1)) if pid != three.of_driver())
        for pid in (node, at_work[node]):  # whoever works there may live on for a while
            os.kill(pid, signal.SIGKILL)
        (held / "go on").touch()
        assert job.ended() == 0, job.out + job.err
    assert len([*held.glob("* 2")]) == 1  # the block of the node was mapped once more
    pipeline.reconstruct(
        database=database,
        output=tmp_path / "here",
        blocks=15,
        refine="none",
        executor=kept_executor,
    )
    assert results(tmp_path / "nodes") == results(tmp_path / "here")
