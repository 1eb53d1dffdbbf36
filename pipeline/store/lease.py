"""One driver a run folder: `run.lock` says which process it is and that the process is alive.

The lock is created by an operation that succeeds for one of several processes, and is renewed every
BEAT seconds. A driver that is killed leaves its lock behind. A driver on the same machine sees at
once that the process is gone. On another machine the lock counts as left after EXPIRY seconds
without a renewal.

Two drivers can still meet where a store has no conditional write, or where a driver that takes over
a left lock needs longer than SETTLE. The driver whose lock was overwritten then stops at its next
look. Even then no harm is done: names follow from the plan and files are written whole, so both
drivers write the same.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
import uuid
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pipeline.errors import LeaseError, StorageError
from pipeline.store.folder import Folder
from pipeline.store.retries import cause_of

LOCK = "run.lock"
BEAT, EXPIRY, SETTLE = 20.0, 120.0, 2.0  # seconds
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)  # of a folder that may not be written to


class Lease:
    """Hold a run folder: `with Lease(folder) as lease`.

    Raises LeaseError where another driver holds the folder, and StorageError where the folder may
    only be read.

    beat: seconds between renewals.
    expiry: seconds without a renewal until the lock counts as left.
    settle: seconds between taking over a left lock and checking that it is still ours.
    """

    def __init__(
        self, folder: Folder, beat: float = BEAT, expiry: float = EXPIRY, settle: float = SETTLE
    ) -> None:
        self.folder, self.beat, self.expiry, self.settle = folder, beat, expiry, settle
        self.mine = {"id": uuid.uuid4().hex, "since": _now(), **_process(os.getpid())}
        self.lost: str | None = None
        self.ended = threading.Event()
        self.renewer = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> Lease:
        holder = self._holder()
        if holder is None and self._created():
            self.renewer.start()
            return self
        holder = holder or self._holder()  # another driver created the lock, and may have left
        if holder and self._lives(holder):
            who = (
                f"process {holder['pid']} on {holder['host']}, works on it since {holder['since']}"
            )
            cure = (
                "wait for it or stop it "
                f"(its lock counts as left after {self.expiry:.0f} s without a renewal)"
            )
            raise LeaseError(f"{self.folder.shown}: another command, {who}; {cure}.")
        self.folder.publish_json(LOCK, self._content())
        time.sleep(self.settle)
        self._look()
        self.check()
        self.renewer.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        self.renewer.join()
        try:
            self._look()
            if not self.lost:
                self.folder.remove(LOCK)
        except (StorageError, OSError):  # the lock expires, and an earlier error matters more
            pass

    def _created(self) -> bool:
        try:
            return self.folder.create(LOCK, json.dumps(self._content()).encode())
        except StorageError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno in READ_ONLY:
                raise StorageError(
                    f"{self.folder.shown}: may only be read ({cause_of(cause)}), and a command "
                    "locks its run folder; check rights, or see what it holds by eloftr info."
                ) from cause
            raise

    def held(self) -> bool:
        """Whether a driver that is alive holds the folder."""
        holder = self._holder()
        return holder is not None and self._lives(holder)

    def check(self) -> None:
        """Raise LeaseError where another driver has taken the folder over."""
        if self.lost:
            raise LeaseError(
                f"{self.folder.shown}: {self.lost}; run the same command again when no other runs."
            )

    def _renew(self) -> None:
        renewed = time.monotonic()
        while not self.ended.wait(self.beat):
            try:
                self._look()
                if self.lost:
                    return
                self.folder.publish_json(LOCK, self._content())
                renewed = time.monotonic()
            except (StorageError, OSError) as error:
                if time.monotonic() - renewed > self.expiry:
                    self.lost = f"its lock could not be renewed for {self.expiry:.0f} s ({error})"
                    return

    def _look(self) -> None:
        holder = self._holder()
        if holder is None or holder["id"] != self.mine["id"]:
            who = (
                f"process {holder['pid']} on {holder['host']}"
                if holder
                else "somebody who removed its lock"
            )
            self.lost = f"was taken over by {who}"

    def _holder(self) -> dict[str, Any] | None:
        try:
            holder: dict[str, Any] = self.folder.read_json(LOCK)
            return holder
        except FileNotFoundError:
            return None

    def _content(self) -> dict[str, Any]:
        return {**self.mine, "renewed": time.time()}

    def _lives(self, holder: dict[str, Any]) -> bool:
        here = _process(holder["pid"])
        if holder["machine"] == here["machine"]:
            return bool(holder["started"] == here["started"])
        return bool(time.time() - holder["renewed"] < self.expiry)


def at_work(folder: Folder) -> bool:
    """Whether a command works on a run folder now, as far as its lock tells."""
    return Lease(folder).held()


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def _process(pid: int) -> dict[str, Any]:
    """What tells a process from any other process, also from one that reuses its number.

    The machine is the boot and the namespace that the number belongs to. `started` is the start
    time of the process in clock ticks since the boot, None where the process does not run.
    """
    try:
        machine = Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink(
            "/proc/self/ns/pid"
        )
    except OSError:
        machine = socket.gethostname()
    try:  # the fields follow the last bracket, because the process's name may hold brackets
        state, *words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        started = None if state in "ZX" else int(words[18])
    except OSError:
        started = None
    return {"host": socket.gethostname(), "pid": pid, "machine": machine, "started": started}
