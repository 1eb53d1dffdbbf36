"""Commands as processes of their own, and what the main one leaves."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

PROJECT = Path(__file__).resolve().parents[1]
JOB = PROJECT / "jobs" / "match_dataset.py"
WAIT = 280  # seconds for anything that starts Ray; the machine may be busy
CONDITIONS = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_OVERRIDE_RESOURCES": '{"CPU": 2}',
    "CUDA_VISIBLE_DEVICES": "",
}
# Workers of clusters that tests start: Ray's own default is the lowest priority.
CONDITIONS |= {"RAY_worker_niceness": "0"}
# Nobody counts the clusters of tests, and what would count them is an actor that takes seconds.
CONDITIONS |= {"RAY_USAGE_STATS_ENABLED": "0"}
COMMAND = "import sys; from pipeline.cli import main; sys.exit(main())"
# The main job with another class for its stage of matching: `Stage` of `substituted.py`.
DRIVEN = """
import sys
from functools import partial
from substituted import Stage
from pipeline.cli import main
from pipeline.match import job

job.match_photographs = partial(job.match_photographs, stage=Stage)
sys.exit(main(["match", *sys.argv[1:]]))
"""
# Blocks on Ray, by `held_mapper` of `stages.py`. The process of the suite may have its own Ray.
RECONSTRUCT = """
import sys
from functools import partial
from pathlib import Path
import pipeline, stages
from pipeline.reconstruct.joining import job

database, output, held = map(Path, sys.argv[1:4])
job.make_mapper = partial(stages.held_mapper, held)
how = {"blocks": 15, "refine": "none", "executor": "ray", "actors": sys.argv[4]}
pipeline.reconstruct(database=database, output=output, **how)
"""
MARK = "ELOFTR_TEST_MARK"  # in the environment of a job, whose processes are found by it


def attached(address: str) -> dict[str, str]:
    """The environment of a job that works on a Ray cluster which is there before it."""
    return {"RAY_ADDRESS": address, "RAY_OVERRIDE_RESOURCES": "{}"}


def eloftr(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command line of `eloftr`, carried out by a process of its own on this machine."""
    command = [sys.executable, "-c", COMMAND, *map(str, arguments)]
    conditions = {"PYTHONPATH": str(PROJECT), "CUDA_VISIBLE_DEVICES": "", **environment}
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.run(
        command,
        cwd=cwd,
        env={**inherited, **conditions},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def marked(mark: str, title: str = "") -> list[int]:
    """Processes that inherited this mark, are still there and have `title` in their command."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            command = (path.parent / "cmdline").read_bytes()
            if f"{MARK}={mark}".encode() in path.read_bytes() and title.encode() in command:
                found.append(int(path.parent.name))
        except OSError:  # it has ended, or is somebody else's
            continue
    return found


class Job:
    """The main job in a process group of its own, in `cwd`.

    A Ray node that it starts has two CPUs, unless the environment says else.
    """

    def __init__(
        self,
        *arguments: object,
        cwd: Path,
        program: tuple[str, ...] = (str(JOB),),
        **environment: str,
    ) -> None:
        self.mark = uuid.uuid4().hex
        self.environment = {
            **{
                name: value
                for name, value in os.environ.items()
                if name not in ("RAY_ADDRESS", "PYTHONPATH")
            },
            **CONDITIONS,
            **environment,
            MARK: self.mark,
        }
        self.logs = [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115  read while the job runs
        self.process = subprocess.Popen(
            [sys.executable, *program, *map(str, arguments)],
            cwd=cwd,
            env=self.environment,
            stdout=self.logs[0],
            stderr=self.logs[1],
            start_new_session=True,
            # A suite that a shell runs in the background ignores Ctrl-C, as would its children.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )

    @property
    def out(self) -> str:
        return self._text(0)

    @property
    def err(self) -> str:
        return self._text(1)

    def _text(self, which: int) -> str:
        self.logs[which].seek(0)
        return self.logs[which].read()

    def until(self, met: Callable[[], bool]) -> None:
        """Wait for something to happen while the job runs."""
        deadline = time.monotonic() + WAIT
        while not met():
            assert self.process.poll() is None, (
                f"ended with {self.process.poll()}: {self.out}{self.err}"
            )
            assert time.monotonic() < deadline, f"waited too long: {self.out}{self.err}"
            time.sleep(0.02)

    def ended(self) -> int:
        """Wait for the end, and for that of every process it started; its exit code."""
        try:
            self.code = self.process.wait(WAIT)
            deadline = time.monotonic() + 60
            while self.left() and time.monotonic() < deadline:
                time.sleep(0.1)
            assert not self.left(), "processes are left over"
        finally:
            for pid in self.left():
                os.kill(pid, signal.SIGKILL)
        return self.code

    def left(self, title: str = "") -> list[int]:
        """Processes that inherited this job's environment and are still there."""
        return marked(self.mark, title)


def done(run: Path) -> int:
    return len([*(run / "done").glob("*.json")])


def shards(run: Path) -> int:
    return pq.read_metadata(run / "plan" / "shards.parquet").num_rows


def tables(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*.parquet")}


def rows(run: Path) -> list[dict]:
    return pa.concat_tables(
        [pq.read_table(path) for path in sorted((run / "matches").iterdir())]
    ).to_pylist()


def free_port() -> int:
    """A port of loopback that nobody has.

    It lies below the ports that the system gives to connections, of which one would take it before
    its server does.
    """
    with socket.socket() as any_port:
        while True:
            port = random.randrange(20_000, 32_000)
            try:
                any_port.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
