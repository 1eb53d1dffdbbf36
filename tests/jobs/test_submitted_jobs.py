"""The main job on a real head that is there before it, of one CPU: through Ray's job server, with
what it exports, and by drivers of its own.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from flaky_store import flaky_store
from job_process import PROJECT, WAIT, Job, done, free_port, rows, shards, tables
from quiet_run import COUNT, PLAN, check_whole
from ray.job_submission import JobStatus, JobSubmissionClient

from eloftr import load_model, save_model
from pipeline.store.folder import Folder

pytestmark = pytest.mark.timeout(900)
RAY = (sys.executable, "-m", "ray.scripts.scripts")
# Commands one after another, told apart by a mark on both streams: to start a driver takes longer
# than what they do.
MARK = "\x1e"
JOBS_IN_CLUSTER = """
import json, sys, ray.data
from pipeline.cli import main

plain = ray.data.Dataset.iter_batches
def watched(dataset, **how):
    yield from plain(dataset, **how)
    print(dataset.stats())
ray.data.Dataset.iter_batches = watched
for arguments in json.loads(sys.argv[1]):
    print(main(["match", *arguments]), end=sys.argv[2], flush=True)
    print(end=sys.argv[2], flush=True, file=sys.stderr)
"""


def main_job(arguments: Iterable[object]) -> list[str]:
    """The command line of the main job in the folder that a job is submitted with."""
    return [sys.executable, "jobs/match_dataset.py", *map(str, arguments)]


class Head:
    """A Ray head of one CPU with its job server; credentials are in its environment, as on a
    cluster's nodes.
    """

    def __init__(self, credentials: dict[str, str]) -> None:
        self.dashboard, self.metrics = free_port(), free_port()
        self.folder = tempfile.mkdtemp(
            prefix="ray", dir="/tmp"
        )  # a long path would not fit into names of sockets
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        ports = {
            "port": port,
            "dashboard-port": self.dashboard,
            "metrics-export-port": self.metrics,
            **{
                name: free_port()
                for name in ("ray-client-server-port", "dashboard-agent-listen-port")
            },
        }
        self.node = Job(
            *(f"--{name}={port}" for name, port in ports.items()),
            *("--num-cpus=1", "--object-store-memory=200000000", f"--temp-dir={self.folder}"),
            cwd=PROJECT.parent,
            program=("-m", "ray.scripts.scripts", "start", "--head", "--block"),
            RAY_OVERRIDE_RESOURCES="{}",
            RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S="0",
            RAY_metrics_report_interval_ms="500",
            AWS_ACCESS_KEY_ID=credentials["key"],
            AWS_SECRET_ACCESS_KEY=credentials["secret"],
        )
        self.node.until(lambda: "Ray runtime started" in self.node.out and self.answers())

    def answers(self) -> bool:
        try:
            urllib.request.urlopen(
                f"http://127.0.0.1:{self.dashboard}/api/version", timeout=5
            ).close()
        except OSError:
            return False
        return True

    def submit(self, name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        """`ray job submit`, which waits for the job and prints its logs."""
        address = f"http://127.0.0.1:{self.dashboard}"
        how = ("--address", address, "--submission-id", name, "--working-dir", ".")
        return subprocess.run(
            [*RAY, "job", "submit", *how, "--", *main_job(arguments)],
            cwd=PROJECT,
            env=self.node.environment,
            capture_output=True,
            text=True,
            timeout=WAIT,
            check=False,
        )

    def exported(self) -> str:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{self.metrics}/metrics", timeout=10
        ) as answer:
            return answer.read().decode()


@pytest.fixture(scope="module")
def head(s3: dict[str, str]) -> Iterator[Head]:
    head = Head(s3)
    try:
        yield head
    finally:
        head.node.process.terminate()
        head.node.ended()
        shutil.rmtree(head.folder, ignore_errors=True)


def test_a_submitted_job_reads_and_writes_a_troubled_store(
    head: Head,
    place: Path,
    s3: dict[str, str],
    served: Callable[[Path], str],
    tmp_path: Path,
) -> None:
    """Images and run folder are in an object store, weights at a URL."""
    photos = Folder("s3://bucket/photos", s3)
    for path in (place / "photos").iterdir():
        photos.publish(path.name, path.read_bytes())
    save_model(load_model("small"), tmp_path / "weights")
    weights = f"{served(tmp_path / 'weights')}/model.safetensors"

    def trouble(method: str, path: str, number: int) -> str:
        return ("", "throttle", "reset", "cut" if method == "GET" else "")[
            zlib.crc32(path.encode()) % 4 * (number == 1)
        ]

    with flaky_store(s3["endpoint_url"], trouble) as (endpoint, made):
        storage = f'{{"endpoint_url": "{endpoint}"}}'
        options = (
            "--images",
            photos.url,
            "--output",
            "s3://bucket/run",
            "--weights",
            weights,
            *PLAN,
        )
        job = head.submit("store", *options, "--storage-options", storage, "--json")
    assert job.returncode == 0, job.stdout + job.stderr
    assert min(made[word] for word in ("throttle", "reset", "cut")) > 0, made
    run = Folder("s3://bucket/run", s3)
    for name in run.list():
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_bytes(run.read_bytes(name))
    check_whole(tmp_path / "run", place / "quiet")
    assert '"event": "progress"' in job.stdout
    assert '"planned_pairs"' in job.stdout
    logs = [
        path
        for path in Path(head.folder).rglob("*")
        if path.is_file() and path.suffix in (".log", ".out", ".err")
    ]
    assert len(logs) > 10
    shown = [job.stdout, job.stderr, *(path.read_text(errors="replace") for path in logs)]
    assert not [text for text in shown if s3["secret"] in text]
    assert not [
        path for path in (tmp_path / "run").rglob("*.json") if s3["secret"] in path.read_text()
    ]


def test_a_submitted_job_that_is_stopped_goes_on(head: Head, place: Path) -> None:
    """By the client of `ray job`, whose own start takes longer than the rest of the work."""
    run = place / "stopped"
    client = JobSubmissionClient(f"http://127.0.0.1:{head.dashboard}")
    line = shlex.join(main_job(("--images", place / "photos", "--output", run, *PLAN)))
    how: dict[str, Any] = {"entrypoint": line, "runtime_env": {"working_dir": str(PROJECT)}}
    client.submit_job(submission_id="stopped", **how)
    deadline = time.monotonic() + WAIT
    while done(run) == 0 or "ray_eloftr_pairs" not in head.exported():
        assert time.monotonic() < deadline, client.get_job_logs("stopped")
        time.sleep(0.2)
    exported = head.exported()
    for shown in (
        'ray_eloftr_pairs_total{.*status="matched"',
        'ray_eloftr_stage_seconds_total{.*stage="verify"',
        "ray_eloftr_encodes_total{",
    ):
        assert re.search(shown, exported), shown
    assert client.stop_job("stopped")  # what `ray job stop` asks for
    while not client.get_job_status("stopped").is_terminal():
        assert time.monotonic() < deadline, client.get_job_logs("stopped")
        time.sleep(0.2)
    assert 0 < done(run) < shards(run)
    assert "run the same command again" in client.get_job_logs("stopped")

    client.submit_job(submission_id="again", **how)
    while not client.get_job_status("again").is_terminal():
        assert time.monotonic() < deadline, client.get_job_logs("again")
        time.sleep(0.2)
    assert client.get_job_status("again") == JobStatus.SUCCEEDED, client.get_job_logs("again")
    check_whole(run, place / "quiet")
    assert len(tables(run)) > 2 * shards(run)


class Told(NamedTuple):
    """A command that has ended: what it printed and returned, and its run folder."""

    out: str
    err: str
    code: int
    run: Path


@pytest.fixture(scope="module")
def in_cluster(
    head: Head, place: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Told]:
    """Commands that one driver carried out on the head's one CPU, by their names."""
    folder = tmp_path_factory.mktemp("in cluster")
    (folder / "blocked").mkdir()
    (folder / "blocked" / "matches").touch()  # a file where a folder must be
    more = {"plain": (), "crowded": ("--actors", 2), "blocked": ()}  # two leave no room for a task
    upright = ("--turns", "off", "--scales", "off")  # one round is enough
    small = ("--images", place / "photos", *upright, "--long-side", 64, "--shard-pairs", 12)
    lines = [
        [str(word) for word in (*small, "--output", folder / name, *more[name])] for name in more
    ]
    program = ("-c", JOBS_IN_CLUSTER)
    job = Job(json.dumps(lines), MARK, cwd=PROJECT, program=program, RAY_ADDRESS=head.address)
    assert job.ended() == 0, job.out + job.err
    found = {}
    for name, out, err in zip(more, job.out.split(MARK), job.err.split(MARK), strict=False):
        printed, code = re.fullmatch(r"(.*?)(\d+)", out, re.DOTALL).groups()  # type: ignore[union-attr]
        found[name] = Told(printed, err, int(code), folder / name)
    return found


def test_a_cluster_of_one_cpu_is_enough_and_reading_is_a_stage_of_its_own(
    in_cluster: dict[str, Told],
) -> None:
    job = in_cluster["plain"]
    assert job.code == 0, job.out + job.err
    assert len(rows(job.run)) == COUNT * (COUNT - 1) // 2
    stages = re.findall(r"Operator \d+ (.*?):", job.err)  # standard output is the command's
    read, match, finish = stages[-3:]
    assert match == "MapBatches(_Held)", job.err
    assert read == finish == "MapBatches(_Carried.__call__)"


def test_more_actors_than_cpus_are_refused(in_cluster: dict[str, Told]) -> None:
    job = in_cluster["crowded"]
    assert job.code == 2
    assert "2 actors: there are 1 CPUs" in job.err
    assert "Traceback" not in job.err


def test_an_output_that_cannot_be_written_ends_with_code_two_and_one_sentence(
    in_cluster: dict[str, Told],
) -> None:
    job = in_cluster["blocked"]
    assert job.code == 2, job.out + job.err
    assert f"eloftr match: {job.run}/matches: is a file; give a folder.\n" in job.err
    assert "Traceback" not in job.err
    assert done(job.run) == 0
