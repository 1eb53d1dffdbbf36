"""Where results go: a local folder, or a URL and a working folder on this machine.

The work needs local files, as those of SQLite and COLMAP. It is done in the local folder itself, or
in a temporary one, and then what is done is published at the URL. Another machine goes on with what
is there.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.errors import ArgumentError, FolderAbsentError
from pipeline.events import Event, Listener
from pipeline.store import disk
from pipeline.store.belonging import remove_all
from pipeline.store.folder import Folder
from pipeline.store.lease import Lease

PROBE = ".writable"  # a file that is written and removed before any work
AT_ONCE = 8  # files that are copied at a time


@dataclass(frozen=True)
class Results:
    """work: local folder of the work. folder: where results go, `work` itself or one at a URL."""

    work: Path
    folder: Folder

    @property
    def shown(self) -> Path | str:
        """Where the results go, for a person: a path, or a URL without credentials."""
        return self.work if self.folder.local else self.folder.shown

    def below(self, name: str) -> Results:
        """The same of a subfolder."""
        return Results(self.work / name, replace(self.folder, url=self.folder.url_of(name)))

    def publish(self, name: str, data: bytes | pa.Buffer) -> None:
        """Write a file whole, into the working folder too. Raises as `Folder.publish`."""
        if not self.folder.local:
            disk.replace(str(self.work / name), data)
        self.folder.publish(name, data)

    def send(self, name: str) -> None:
        """Publish a file of the working folder, or all files of a folder in it, if it exists."""
        if self.folder.local:
            return
        path = self.work / name
        for file in sorted(one for one in (path, *path.rglob("*")) if one.is_file()):
            self.folder.publish_file(file.relative_to(self.work).as_posix(), file)

    def holds(self, names: Sequence[str]) -> bool:
        """Whether any of these files, or of the local folders, is there."""
        if self.folder.local:
            return any((self.work / name).exists() for name in names)
        return any(self.folder.exists(name) for name in names)

    def fetch(self) -> None:
        """Copy files that are only at the URL to the working folder, a few at a time."""
        if self.folder.local:
            return
        try:
            names = self.folder.list()
        except FolderAbsentError:
            return
        missing = [name for name in names if not (self.work / name).exists()]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in pool.map(lambda name: self.folder.copy_file(name, self.work / name), missing):
                pass

    def deliver(self, names: Sequence[str], listen: Listener) -> None:
        """Replace files and folders at the URL by those of the working folder.

        Older ones are removed first. The last name is the first to go and the last to come, so it
        stands for a result that is whole, wherever this is stopped.
        """
        if self.folder.local:
            return
        for name in reversed(names):
            self.folder.remove(name)
            remove_all(self.below(name).folder)
        for name in names:
            if (self.work / name).exists():
                listen(Event("publishing", f"publishing {name} at {self.shown}", {"name": name}))
                self.send(name)


def place_of(output: str | Path, storage: dict[str, Any] | None) -> Folder | Path:
    """The folder of a URL with its options, or a local path."""
    text = os.fspath(output)
    return Folder(text, storage or {}) if "://" in text else Path(output)


@contextmanager
def opened_results(place: Folder | Path, scratch: str | Path | None = None) -> Iterator[Results]:
    """Where results go, and a working folder if that is no local one. It is removed at the end.

    No other command may work on the results meanwhile.

    scratch: the folder in which the working folder is made; None takes that of the system for
        temporary files.

    Raises ArgumentError for a scratch beside a local folder, and LeaseError where another
    command works on the results, and StorageError where a folder cannot be opened or written to,
    also while the work goes on.
    """
    if isinstance(place, Path) or place.local:
        if scratch is not None:
            shown = place if isinstance(place, Path) else place.shown
            raise ArgumentError(
                f"{scratch}: is no use as scratch, because the work is done in the local folder "
                f"{shown}; leave it out, or give a URL for the results."
            )
        work = disk.writable_folder(place if isinstance(place, Path) else place.path())
        with Lease(Folder(str(work))) as lease, disk.full_disk_told(work):
            yield Results(work, lease.folder)
        return
    parent = disk.writable_folder(tempfile.gettempdir() if scratch is None else scratch)
    place.publish(PROBE, b"")
    place.remove(PROBE)
    with (
        Lease(place),
        tempfile.TemporaryDirectory(prefix="eloftr-", dir=parent.resolve()) as made,
        disk.full_disk_told(Path(made)),
    ):
        yield Results(Path(made), place)
