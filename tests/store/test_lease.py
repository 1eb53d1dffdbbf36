from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import LeaseError, StorageError
from pipeline.store.folder import Folder
from pipeline.store.lease import LOCK, Lease, _process

HOLDER = """
import sys, time
from pipeline.store.lease import Lease
from pipeline.store.folder import Folder
with Lease(Folder(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    if request.param == "s3":
        return Folder(f"s3://bucket/{tmp_path.name}", request.getfixturevalue("s3"), pause=0.01)
    return Folder(str(tmp_path / "run"))


def lock(**other: Any) -> dict[str, Any]:
    """The lock of a driver on another machine, renewed just now."""
    elsewhere = {"id": "other", "host": "node7", "pid": 12, "machine": "elsewhere", "started": 1}
    return {**elsewhere, "since": "2026-01-01 00:00:00 UTC", "renewed": time.time(), **other}


def test_a_folder_is_held_by_one_and_free_afterwards(folder: Folder) -> None:
    for _ in range(2):
        with Lease(folder) as lease:
            with pytest.raises(
                LeaseError, match=rf"another command, process {os.getpid()} on .* since \d{{4}}-"
            ):
                Lease(folder).__enter__()
            lease.check()
        assert not folder.exists(LOCK)


def test_a_folder_that_may_only_be_read_is_told_as_such() -> None:
    sentence = r"^/sys: may only be read \([^)]+\), and .* rights, or see .* by eloftr info\.$"
    with pytest.raises(StorageError, match=sentence):
        Lease(Folder("/sys")).__enter__()


def test_of_many_at_once_one_gets_the_folder(folder: Folder) -> None:
    def attempt(_: int) -> Lease | None:
        try:
            return Lease(Folder(folder.url, folder.options)).__enter__()
        except LeaseError:
            return None

    with ThreadPoolExecutor(8) as threads:
        held = [lease for lease in threads.map(attempt, range(8)) if lease is not None]
    for lease in held:
        lease.__exit__()  # else it renews its lock while other tests run
    assert len(held) == 1


def test_the_lock_of_a_killed_process_is_taken_over_at_once(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(LeaseError, match=f"process {holder.pid} on"):
        Lease(Folder(str(tmp_path))).__enter__()
    holder.kill()  # not waited for yet: a zombie is dead, too
    while _process(holder.pid)["started"] is not None:
        time.sleep(0.01)
    with Lease(Folder(str(tmp_path)), settle=0.01) as lease:
        lease.check()
    holder.wait()


def test_a_number_that_another_process_has_now_is_not_its_driver(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.publish_json(LOCK, lock(**{**_process(os.getpid()), "started": 1}))
    with Lease(folder, settle=0.01) as lease:
        lease.check()


def test_the_lock_of_another_machine_counts_until_it_is_not_renewed(folder: Folder) -> None:
    folder.publish_json(LOCK, lock())
    with pytest.raises(LeaseError, match="process 12 on node7, works on it since 2026-01-01"):
        Lease(folder).__enter__()
    folder.publish_json(LOCK, lock(renewed=time.time() - 121))
    with Lease(folder, settle=0.01) as lease:
        lease.check()
    assert not folder.exists(LOCK)


def test_a_driver_that_is_taken_over_stops_and_leaves_the_other_s_lock(folder: Folder) -> None:
    with Lease(folder, beat=0.02) as lease:
        renewed = folder.read_json(LOCK)["renewed"]
        while folder.read_json(LOCK)["renewed"] == renewed:
            time.sleep(0.01)
        lease.check()
        folder.publish_json(LOCK, lock())
        deadline = time.monotonic() + 20
        while not lease.lost and time.monotonic() < deadline:
            if folder.read_json(LOCK)["id"] != "other":  # a renewal that was under way
                folder.publish_json(LOCK, lock())
            time.sleep(0.01)
        with pytest.raises(LeaseError, match="was taken over by process 12 on node7"):
            lease.check()
    assert folder.read_json(LOCK)["id"] == "other"


def test_of_two_that_take_over_the_later_one_gets_it(tmp_path: Path) -> None:
    class Slow(Folder):
        """Another driver writes its lock right after this one."""

        def publish_json(self, name: str, value: Any) -> None:
            super().publish_json(name, value)
            (tmp_path / LOCK).write_text(json.dumps(lock()))

    Folder(str(tmp_path)).publish_json(LOCK, lock(renewed=0))
    with pytest.raises(LeaseError, match="was taken over by process 12"):
        Lease(Slow(str(tmp_path)), settle=0.01).__enter__()
    assert Folder(str(tmp_path)).read_json(LOCK)["id"] == "other"
