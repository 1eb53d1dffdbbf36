"""Files of a local disk: list them, write them whole, and remove what killed writers left."""

from __future__ import annotations

import os
import re
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa

from pipeline.errors import EloftrError, StorageError
from pipeline.store.retries import redacted

ROOM = 1 << 20  # bytes
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")


def walk(top: str, root: str, recursive: bool, follow_links: bool) -> list[str]:
    """Names of the files below `top`, relative to `root`.

    The bytes of a name that is not UTF-8 are escaped. Raises OSError where a folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise error

    found: list[str] = []
    seen: set[str] = set()
    for base, folders, files in os.walk(top, onerror=fail, followlinks=follow_links):
        stem = os.path.relpath(base, root) + "/"
        folders[:] = [name for name in folders if recursive and not name.startswith(".")]
        if follow_links:  # a link to a folder above it would make the walk endless
            real = os.path.realpath(base)
            if real in seen:
                folders[:], files = [], []
            seen.add(real)
        found += [
            (stem + name).removeprefix("./").encode(errors="backslashreplace").decode()
            for name in files
        ]
    return found


def links_to_folders(top: str) -> list[str]:
    """Names of the folders below `top`, relative to it, that `walk` finds only by following links.

    A folder that cannot be read has none.
    """
    return sorted(
        os.path.relpath(os.path.join(base, name), top)
        for base, folders, _ in os.walk(top)
        for name in folders
        if os.path.islink(os.path.join(base, name))
    )


def replace(
    path: str, data: bytes | pa.Buffer, exclusive: bool = False, lasting: bool = True
) -> None:
    """Write a file whole: readers see the old file or the new one, never a part.

    exclusive: raise FileExistsError where the file exists already. lasting: wait for the disk.
    """
    folder, base = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{base[:150]}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            if lasting:
                os.fsync(file.fileno())  # without it, a power cut could leave an empty file
        if exclusive:
            os.link(temporary, path)
            os.remove(temporary)
        else:
            os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.remove(temporary)
        raise


def sweep(top: str) -> int:
    """Remove the temporary files of killed writers below a folder, and count them."""
    found = os.walk(top)
    stale = [
        os.path.join(base, name)
        for base, _, files in found
        for name in files
        if TEMPORARY.fullmatch(name)
    ]
    for path in stale:
        with suppress(FileNotFoundError):  # the lock's renewer may have renamed its file meanwhile
            os.remove(path)
    return len(stale)


def writable_folder(given: Path | str) -> Path:
    """A local folder, made where it is missing.

    Raises StorageError for an address with a protocol, and where nothing can be written.
    """
    if "://" in str(given):
        raise StorageError(
            f"{redacted(given)}: is no folder of this machine; give one without a protocol."
        )
    folder = Path(given)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StorageError(
            f"{folder}: cannot be written to ({error.strerror}); check folder and rights."
        ) from error
    return folder


def check_room(folder: Path) -> None:
    """Raise StorageError where a folder has no room for another mebibyte.

    COLMAP does not notice a full disk: what it wrote before this call may be cut off.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(ROOM))
            file.flush()
            os.fsync(file.fileno())  # some file systems know no earlier
    except OSError as error:
        raise StorageError(
            f"{folder}: cannot be written: {error.strerror}; free space or check rights."
        ) from error


def write_whole(model: Any, folder: Path, points: Path | None = None) -> None:
    """Write a COLMAP model, a `pycolmap.Reconstruction`, whole into a folder that is there.

    points: file for its points as PLY, in the same folder or beside it. Raises StorageError, see
    `check_room`.
    """
    model.write_binary(folder)
    if points is not None:
        model.export_PLY(points)
    check_room(folder)


@contextmanager
def full_disk_told(folder: Path) -> Iterator[None]:
    """Around what may fail in a folder for want of room, and does not say so.

    SQLite and COLMAP raise errors of other names. Where there is no room, they become StorageError.
    """
    try:
        yield
    except EloftrError:
        raise
    except Exception:
        check_room(folder)
        raise


def file_in(path: str) -> str:
    """The part of a local path that is a file, where a folder was wanted."""
    above = [str(one) for one in PurePath(path).parents]
    return next((one for one in above if os.path.isfile(one)), path)
