"""Clusters of several nodes on this machine, by Ray's own utility."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from job_process import CONDITIONS, MARK, PROJECT, marked


class Nodes:
    """A cluster of three nodes of one CPU. nodes: the two that are not its head."""

    def __init__(self, mark: str) -> None:
        from ray.cluster_utils import Cluster

        self.mark = mark
        of_node = {"num_cpus": 1, "object_store_memory": 100_000_000}
        self.cluster = Cluster(
            initialize_head=True, head_node_args={**of_node, "include_dashboard": False}
        )
        self.nodes = [self.cluster.add_node(**of_node) for _ in range(2)]

    def actors(self) -> list[int]:
        return marked(self.mark, "ray::MapWorker")

    def raylet(self, number: int) -> int:
        """The process that is a node, and the parent of all that works on it."""
        (raylet,) = self.nodes[number].all_processes["raylet"]
        return int(raylet.process.pid)

    def of_driver(self) -> int:
        """The node that a driver has joined, by the counter of attempts beside it.

        On one machine it may be any of them, and elsewhere it is the driver's own machine.
        """
        (counter,) = marked(self.mark, "ray::Attempts")
        return int(Path(f"/proc/{counter}/stat").read_text().rpartition(")")[2].split()[1])


@contextmanager
def three_nodes(*paths: Path) -> Iterator[Nodes]:
    """The cluster. paths: where its processes find modules, beside the project."""
    with pytest.MonkeyPatch.context() as environment:
        mark = uuid.uuid4().hex
        for name, value in {
            **CONDITIONS,
            MARK: mark,
            # as if installed on the nodes
            "PYTHONPATH": os.pathsep.join(map(str, (PROJECT, *paths))),
            "RAY_health_check_period_ms": "500",  # a killed node is missed in 3 s, not in 15
        }.items():
            environment.setenv(name, value)
        environment.delenv("RAY_OVERRIDE_RESOURCES")
        handler = signal.getsignal(signal.SIGTERM)
        nodes = Nodes(mark)
        signal.signal(signal.SIGTERM, handler)  # Ray's would drain the cluster first
        try:
            yield nodes
        finally:
            nodes.cluster.shutdown()
            deadline = time.monotonic() + 60
            while marked(mark, "ray") and time.monotonic() < deadline:
                time.sleep(0.1)
            for pid in marked(mark, "ray"):
                os.kill(pid, signal.SIGKILL)
