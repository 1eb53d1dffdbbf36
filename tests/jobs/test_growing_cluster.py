"""A pool of actors on a cluster that grows for it: Ray's own autoscaler, whose nodes are processes
of this machine.

Ray's `AutoscalingCluster` would do, but its template is not in the wheel, and it stops every Ray of
the machine.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from job_process import DRIVEN, PROJECT, RECONSTRUCT, Job, free_port
from quiet_run import check_whole, start

from benchmarks.scale.scenes import survey

pytestmark = pytest.mark.timeout(900)
HEAD = 51 * "f" + "00000"  # as Ray's provider of such nodes calls the head
NODES = {
    "cluster_name": "growing",
    "max_workers": 2,
    "provider": {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "head_node_id": HEAD,
        "launch_multiple": True,
    },
    "head_node_type": "ray.head.default",
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
        "gpu": {
            "resources": {"CPU": 1, "GPU": 1, "object_store_memory": 100_000_000},
            "node_config": {},
            "max_workers": 2,
        },
    },
    "auth": {},
    "file_mounts": {},
    "cluster_synced_files": [],
    "initialization_commands": [],
    "setup_commands": [],
    "head_setup_commands": [],
    "worker_setup_commands": [],
    "head_start_ray_commands": [],
    "worker_start_ray_commands": [],
}
ENVIRONMENT = {
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": HEAD,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_OVERRIDE_RESOURCES": "{}",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    "CUDA_VISIBLE_DEVICES": "98,99",  # GPUs that do not exist; Ray wants their names
    "OMP_NUM_THREADS": "1",  # as an actor without a GPU, which rounds likewise
}

# Every shard takes long until the pool has grown: Ray takes its time to see that an actor
# is busy.
SLOW = """
import time
from pathlib import Path
from pipeline.match.match import MatchShard

class Stage(MatchShard):
    def _match(self, shard, seconds):
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not Path({grown!r}).exists():
            time.sleep(0.1)
        return super()._match(shard, seconds)
"""


def paths(folder: Path) -> str:
    """Where processes find the project and the stage of this test."""
    return os.pathsep.join(map(str, (folder, PROJECT, PROJECT / "tests")))


# Ray Data sees what a new node has within 30 seconds, so an idle one has to live longer.
LASTING = pytest.mark.parametrize("head", [0.6], indirect=True)


@pytest.fixture
def head(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Job, str]]:
    """A head of one CPU whose autoscaler adds up to two nodes that say they have a GPU; its
    address. The parameter is the minutes after which an idle node is given back.
    """
    port, folder = (
        free_port(),
        tempfile.mkdtemp(prefix="ray", dir="/tmp"),
    )  # a long path would not fit into sockets
    address = f"127.0.0.1:{port}"
    provider = {**NODES["provider"], "gcs_address": address}
    nodes = {**NODES, "provider": provider, "idle_timeout_minutes": request.param}
    (tmp_path / "nodes.json").write_text(json.dumps(nodes))
    (tmp_path / "substituted.py").write_text(SLOW.format(grown=str(tmp_path / "has grown")))
    ports = (
        f"--port={port}",
        f"--ray-client-server-port={free_port()}",
        "--include-dashboard=false",
    )
    head = Job(
        *(
            *ports,
            "--num-cpus=1",
            "--num-gpus=0",
            "--object-store-memory=100000000",
            f"--temp-dir={folder}",
        ),
        f"--autoscaling-config={tmp_path / 'nodes.json'}",
        cwd=tmp_path,
        program=("-m", "ray.scripts.scripts", "start", "--head", "--block"),
        PYTHONPATH=paths(tmp_path),
        **ENVIRONMENT,
    )
    try:
        head.until(lambda: "Ray runtime started" in head.out)
        yield head, address
    finally:
        head.process.terminate()
        head.process.wait()
        for pid in head.left():  # such nodes leave processes behind
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("head", [0.05], indirect=True)
def test_a_pool_gets_nodes_with_gpus_does_its_work_and_gives_them_back(
    head: tuple[Job, str], place: Path, tmp_path: Path
) -> None:
    cluster, address = head
    options = ("--actors", "1-2", "--actor-gpus", 1, "--dtype", "float32")
    how = {
        "RAY_OVERRIDE_RESOURCES": "{}",
        "RAY_DATA_MIN_GAP_BETWEEN_AUTOSCALING_REQUESTS": "2",
        "RAY_ADDRESS": address,
        "PYTHONPATH": paths(tmp_path),
    }
    job = start(place, "grown", *options, program=("-c", DRIVEN), **how)
    job.until(lambda: len(cluster.left("ray::MapWorker")) == 2)
    (tmp_path / "has grown").touch()
    assert job.ended() == 0, job.out + job.err
    assert "2 actors of 1 GPUs: there are 0 now, the others wait for new nodes" in job.out
    check_whole(place / "grown", place / "quiet")
    cluster.until(lambda: len(cluster.left("raylet/raylet")) == 1)


@LASTING
def test_a_range_without_gpus_gets_a_cpu_for_each_actor(
    head: tuple[Job, str], place: Path, tmp_path: Path
) -> None:
    cluster, address = head
    how = {"RAY_OVERRIDE_RESOURCES": "{}", "RAY_ADDRESS": address, "PYTHONPATH": paths(tmp_path)}
    job = start(place, "spread", "--actors", "1-3", program=("-c", DRIVEN), **how)
    job.until(lambda: len(cluster.left("ray::MapWorker")) == 3)
    assert len(cluster.left("raylet/raylet")) == 3
    (tmp_path / "has grown").touch()
    assert job.ended() == 0, job.out + job.err
    check_whole(place / "spread", place / "quiet")


@LASTING
def test_a_range_of_blocks_gets_nodes(head: tuple[Job, str], tmp_path: Path) -> None:
    """One CPU is there, and a block takes one. Nodes come while the first block is mapped."""
    database, held = tmp_path / "given.db", tmp_path / "held"
    survey(6).write(database)
    held.mkdir()
    job = Job(
        *(database, tmp_path / "sfm", held, "1-3"),
        cwd=tmp_path,
        program=("-c", RECONSTRUCT),
        RAY_OVERRIDE_RESOURCES="{}",
        RAY_DATA_MIN_GAP_BETWEEN_AUTOSCALING_REQUESTS="2",
        RAY_ADDRESS=head[1],
        PYTHONPATH=paths(tmp_path),
    )
    job.until(lambda: len({path.name.split()[0] for path in held.iterdir()}) > 1)
    assert not [*(tmp_path / "sfm/blocks/0/done").glob("*")]
    (held / "go on").touch()
    assert job.ended() == 0, job.out + job.err
    assert len([*(tmp_path / "sfm/blocks/0/done").iterdir()]) == 3
