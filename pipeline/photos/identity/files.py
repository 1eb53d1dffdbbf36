"""What the files of photographs were when a run began: their sizes, and digests of a part.

A photograph that was edited or taken again has another size, or other first or last bytes. Of an
image format without compression, a change in the middle of the file alone is not seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pyarrow as pa

from pipeline.errors import StorageError
from pipeline.events import Listener, Progress, nobody
from pipeline.photos.exif import HEADER_THREADS
from pipeline.store.folder import Folder
from pipeline.tables import FILES

FILES_FILE = "files.parquet"  # of a run folder
PART = 64 << 10  # bytes at the beginning and at the end of a file that its digest is made of
BLOCK = 1000  # files between two reports

FileIdentity = tuple[int, str] | None  # bytes and digest; None of a file that cannot be read


def files_table(source: Folder, names: Sequence[str], listen: Listener = nobody) -> pa.Table:
    """A table of FILES: what the files of some photographs are now."""
    found = identities(source, names, listen)
    columns = [[*found], *zip(*(one or (None, None) for one in found.values()), strict=True)]
    arrays = [pa.array(column, kind) for column, kind in zip(columns, FILES.types, strict=True)]
    return pa.Table.from_arrays(arrays, schema=FILES) if names else FILES.empty_table()


def identities(
    source: Folder, names: Sequence[str], listen: Listener = nobody
) -> dict[str, FileIdentity]:
    """What the files of some photographs are now, by name.

    At most twice PART bytes of each are read. listen: told after every BLOCK files.
    """
    found: list[FileIdentity] = []
    progress = Progress(len(names), "files", listen)
    with ThreadPoolExecutor(HEADER_THREADS) as threads:
        for start in range(0, len(names), BLOCK):
            block = names[start : start + BLOCK]
            found += threads.map(lambda name: _identity(source, name), block)
            if len(block) == BLOCK:
                progress.advance(BLOCK)
    return dict(zip(names, found, strict=True))


def recorded(run: Folder) -> Mapping[str, FileIdentity] | None:
    """What the files of a run's photographs were; None of a run that did not note it."""
    if not run.exists(FILES_FILE):
        return None
    rows = run.read_table(FILES_FILE).to_pylist()
    return {
        row["image"]: None if row["bytes"] is None else (row["bytes"], row["digest"])
        for row in rows
    }


def of_another_size(run: Folder, source: Folder) -> list[str]:
    """Sorted names of the run's photographs whose files on this machine have another size now.

    Files that are gone are not among them, and of a folder elsewhere there are none.
    """
    found = []
    for name, was in (recorded(run) or {}).items() if source.local else ():
        with suppress(StorageError, OSError):
            if was is not None and source.size(name) != was[0]:
                found.append(name)
    return sorted(found)


def _identity(source: Folder, name: str) -> FileIdentity:
    try:
        size = source.size(name)
        data = source.read_bytes(name, limit=PART - 1)
        if size > PART:
            data += source.read_range(name, max(PART, size - PART), size)
    except (StorageError, OSError):
        return None
    return size, hashlib.sha256(data).hexdigest()
