"""Folders on a local disk or in an object store: list, read, publish whole, mark done.

Everything that a run reads or writes goes through `Folder`. The pipeline relies on two promises. A
file that exists was written whole, so a killed job leaves no half-written file. A name never leads
out of its folder.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import ArgumentError, FolderAbsentError, StorageError
from pipeline.store import disk
from pipeline.store.opening import ATOMIC_PUT, open_filesystem, protocol_of
from pipeline.store.parquet import parquet_bytes, read_parquet
from pipeline.store.retries import REFUSALS, cause_of, redacted, retried

T = TypeVar("T")
Names = list[str]

DONE = "done"
PART = 100_000_000  # bytes of a large file that a try may take `patience` for


@dataclass(frozen=True)
class Folder:
    """One folder: a local path or an fsspec URL (`s3://bucket/photos`, `https://…`, `file://…`).

    Names are POSIX paths relative to the folder. A name raises `StorageError` if it is absolute,
    holds `..` or a backslash, or leads out of a local folder through a symbolic link. Reading
    raises `FileNotFoundError` and `PermissionError` (locally any `OSError`) at once. Any other
    error of a remote store is tried again after random pauses that grow, and then raises
    `StorageError`. Folders are picklable: each process opens its own connection.

    url: the folder. It need not exist before the first `publish`. A local path is made absolute at
        once, so that a process with another working directory finds the same folder.
    options: keyword arguments of the fsspec filesystem (endpoint, credentials). They never appear
        in a message. A dictionary under the name of a protocol is for the URLs of that protocol
        alone. Options outside such a dictionary are never sent to a web server.
    follow_links: let symbolic links lead out of a local folder, and list the folders they point to.
    attempts: tries per remote operation.
    pause: upper bound of the pause before the second try, in seconds. It doubles for each next try.
    patience: seconds that a try may take. A store that answers too slowly counts as an error.
    """

    url: str
    options: dict[str, Any] = field(default_factory=dict, repr=False, hash=False)
    follow_links: bool = False
    attempts: int = 4
    pause: float = 0.5
    patience: float = 120.0

    def __post_init__(self) -> None:
        url = os.fspath(self.url)
        if not url:
            raise ArgumentError("a path is empty, as that of an unset variable; give a folder.")
        object.__setattr__(
            self, "url", url if "://" in url else os.path.abspath(os.path.expanduser(url))
        )
        if self.attempts < 1 or self.pause < 0 or self.patience <= 0:
            raise ValueError(
                "attempts must be at least 1, pause at least 0 and patience above 0 seconds: "
                f"{self!r}."
            )

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_opened"}

    def __repr__(self) -> str:
        return f"Folder({self.shown!r})"

    @classmethod
    def of_file(
        cls, url: str | os.PathLike[str], options: dict[str, Any] | None = None
    ) -> tuple[Folder, str]:
        """The folder of a file's URL, and the file's name in it.

        The folder follows links, because a person chose this very file.
        """
        parent, slash, name = os.fspath(url).rstrip("/").rpartition("/")
        if not name:
            raise ArgumentError("a path is empty, as that of an unset variable; give a file.")
        return cls(parent or slash or ".", options or {}, follow_links=True), name

    @cached_property
    def _opened(self) -> tuple[fsspec.AbstractFileSystem, str]:
        return open_filesystem(self.url, self.options)

    @property
    def _protocol(self) -> str:
        return protocol_of(self.url)

    @property
    def _fs(self) -> fsspec.AbstractFileSystem:
        return self._opened[0]

    @property
    def local(self) -> bool:
        """Whether the folder is on a disk of this machine."""
        return isinstance(self._fs, LocalFileSystem)

    @property
    def shown(self) -> str:
        """The URL without user, password and query, for messages and logs."""
        return redacted(self.url)

    def url_of(self, name: str) -> str:
        """The full URL or path of a name, with the credentials that the folder's URL may hold."""
        return f"{self.url.rstrip('/')}/{_checked(name)}"

    def path(self, name: str | None = None) -> str:
        """The absolute local path of a name, or of the folder without a name.

        Raises `StorageError` where the folder is remote.
        """
        if not self.local:
            raise StorageError(
                f"{self.shown}: this step needs a local folder; copy it to a disk first."
            )
        root = self._opened[1]
        path = root if name is None else os.path.join(root, _checked(name))
        if name is not None and not self.follow_links:
            real, inside = os.path.realpath(path), os.path.realpath(root)
            if os.path.commonpath([real, inside]) != inside:
                cure = "copy the file, or allow links (--follow-links)"
                raise StorageError(f"{name}: a symbolic link leads out of {self.shown}; {cure}.")
        return path

    def _key(self, name: str) -> str:
        return f"{self._opened[1]}/{_checked(name)}"

    def list(self, suffixes: Sequence[str] = (), recursive: bool = True) -> Names:
        """Sorted names of the files that end in one of `suffixes`, in upper or lower case.

        Without suffixes all files are listed. Files and folders whose name starts with a dot are
        left out. A name that is not UTF-8 is listed with its bytes escaped by a backslash, so that
        reading the file fails with a sentence. Raises `StorageError` where the folder is missing or
        cannot be read.
        """
        endings = tuple(suffix.lower() for suffix in suffixes) or ("",)
        return [name for name in self._walk("", recursive) if name.lower().endswith(endings)]

    def names(self, prefix: str) -> Names:
        """Sorted names of the files directly in the subfolder `prefix`.

        The list is empty where the subfolder does not exist yet.
        """
        try:
            return self._walk(_checked(prefix), recursive=False)
        except FolderAbsentError:
            return []

    def _walk(self, prefix: str, recursive: bool) -> Names:
        shown = f"{self.shown}/{prefix}".rstrip("/")
        try:
            if self.local:
                found = disk.walk(
                    self.path(prefix or None), self._opened[1], recursive, self.follow_links
                )
            else:
                top = f"{self._opened[1]}/{prefix}".rstrip("/")
                found = self._walk_remote(top, recursive)
        except FileNotFoundError as error:
            raise FolderAbsentError(
                f"{shown}: no such folder, or nothing in it; check the spelling."
            ) from error
        except NotADirectoryError as error:
            raise StorageError(f"{disk.file_in(shown)}: is a file; give a folder.") from error
        except PermissionError as error:
            raise StorageError(
                f"{shown}: may not be read; check rights and credentials."
            ) from error
        return sorted(name for name in found if not name.startswith(".") and "/." not in name)

    def _walk_remote(self, top: str, recursive: bool) -> Names:
        self._fs.invalidate_cache()  # another process may have written since
        keys = self._ask("find", top, maxdepth=None if recursive else 1)
        if not keys:
            self._ask("ls", top)  # `find` does not tell a missing bucket from an empty one
        start = self._opened[1] + "/"
        return [
            key[len(start) :] for key in keys if key.startswith(start) and not key.endswith("/")
        ]

    def exists(self, name: str) -> bool:
        """Whether the file exists now."""
        if self.local:
            return os.path.isfile(self.path(name))
        self._fs.invalidate_cache()
        return bool(self._ask("exists", self._key(name)))

    def read_bytes(self, name: str, limit: int | None = None) -> bytes:
        """A file's bytes.

        limit: read at most `limit + 1` bytes, which is enough to see that the file is larger.
        """
        if not self.local:
            key = self._key(name)
            return self._retried(lambda: self._read_remote(key, limit))
        path = self.path(name)
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would block without end
            raise StorageError(f"{name}: is not a regular file; remove it from {self.shown}.")
        with open(path, "rb") as file:
            return file.read(-1 if limit is None else limit + 1)

    def read_range(self, name: str, begin: int, end: int) -> bytes:
        """The bytes of a file from `begin` to `end`, which is above `begin`."""
        if not self.local:
            data = bytes(self._ask("cat_file", self._key(name), start=begin, end=end))
            return data if len(data) <= end - begin else data[begin:end]  # a server sent all
        with open(self.path(name), "rb") as file:
            file.seek(begin)
            return file.read(end - begin)

    def size(self, name: str) -> int:
        """How many bytes a file has; 0 where a store does not tell. Raises as `read_bytes`."""
        if self.local:
            return os.stat(self.path(name)).st_size
        return int(self._ask("size", self._key(name)) or 0)

    def _read_remote(self, key: str, limit: int | None) -> bytes:
        try:
            ranged = {} if limit is None else {"start": 0, "end": limit + 1}
            data: bytes = self._once("cat_file", key, **ranged)
            return data
        except REFUSALS:
            raise
        except Exception:
            # Stores refuse a range of an empty object.
            if limit is not None and self._once("size", key) == 0:
                return b""
            raise

    def read_json(self, name: str) -> Any:
        """A JSON file's value. Raises `StorageError` where the file is not JSON."""
        try:
            return json.loads(self.read_bytes(name))
        except ValueError as error:
            raise StorageError(
                f"{self.shown}/{name}: is not JSON ({error}); restore or remove it."
            ) from error

    def read_table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A Parquet file's table, all columns or those named.

        Raises `StorageError` where the file is damaged.
        """
        # pyarrow gets a path or an Arrow buffer, because with a Python file object it can abort
        # the process at exit.
        source = (
            self.path(name) if self.local else pa.BufferReader(pa.py_buffer(self.read_bytes(name)))
        )
        try:
            return read_parquet(source, columns)
        except pa.ArrowInvalid as error:
            raise StorageError(
                f"{self.shown}/{name}: is not whole Parquet; make it again."
            ) from error

    def publish(self, name: str, data: bytes | pa.Buffer, lasting: bool = True) -> None:
        """Write a file whole: readers see the old file or the new one, never a part.

        lasting: whether the file is to outlive a power cut.
        Folders are made as needed. Raises `StorageError` where the file cannot be written.
        """
        try:
            if self.local:
                disk.replace(self.path(name), data, lasting=lasting)
            elif self._protocol not in ATOMIC_PUT:
                raise StorageError(
                    f"{self.shown}: cannot be written to; "
                    "give a local folder, s3://, gs:// or az://."
                )
            else:
                self._ask("pipe_file", self._key(name), bytes(data))
        except OSError as error:
            raise self._unwritable(name, error) from error

    def publish_file(self, name: str, source: Path) -> None:
        """Publish a local file into a folder at a URL, a part in memory. Raises as `publish`."""
        try:
            self._patient(source.stat().st_size)._ask("put_file", str(source), self._key(name))
        except OSError as error:
            raise self._unwritable(name, error) from error

    def copy_file(self, name: str, target: Path) -> None:
        """Copy a file of a folder at a URL to a local path, where it appears when it is whole."""
        key, part = self._key(name), target.with_name(f".{target.name}.part")
        target.parent.mkdir(parents=True, exist_ok=True)
        self._patient(self._ask("size", key))._ask("get_file", key, str(part))
        part.replace(target)

    def _patient(self, size: int) -> Folder:
        """The same with `patience` for every PART of so many bytes."""
        return replace(self, patience=self.patience * (1 + size // PART))

    def _unwritable(self, name: str, error: OSError, done: str = "written") -> StorageError:
        no_place = isinstance(error, FileNotFoundError | NotADirectoryError)
        cure = "give another folder" if no_place else "free space or check rights"
        return StorageError(f"{self.shown}/{name}: cannot be {done}: {cause_of(error)}; {cure}.")

    def create(self, name: str, data: bytes) -> bool:
        """Publish a file that does not exist yet, and say whether it was written.

        Returns False, and writes nothing, where the file exists with other content. Of several
        processes that create one name with content of their own, one succeeds. This rests on a hard
        link on a local disk, and on a conditional write in s3, gs and az. A store that ignores the
        condition keeps what the last one wrote. Raises as `publish`.
        """
        try:
            if self.local:
                disk.replace(self.path(name), data, exclusive=True)
            else:
                self._ask("pipe_file", self._key(name), data, mode="create")
        except FileExistsError:
            return not self.local and self._holds(name, data)  # ours: an answer was lost
        except OSError as error:
            raise self._unwritable(name, error) from error
        return True

    def _holds(self, name: str, data: bytes) -> bool:
        try:
            return self.read_bytes(name) == data
        except FileNotFoundError:
            return False

    def publish_json(self, name: str, value: Any) -> None:
        """Publish a value as JSON with sorted keys."""
        self.publish(name, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())

    def publish_table(self, name: str, table: pa.Table) -> None:
        """Publish a table as Parquet (zstd): equal rows give equal bytes, whatever their chunks."""
        self.publish(name, parquet_bytes(table))

    def remove(self, name: str) -> None:
        """Remove a file; nothing happens where there is none. Raises StorageError as `publish`."""
        try:
            if self.local:
                os.remove(self.path(name))
            else:
                self._ask("rm_file", self._key(name))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise self._unwritable(name, error, "removed") from error

    def sweep(self) -> int:
        """Remove the temporary files of killed writers and count them.

        Call it only while no other process writes to the folder. Listings never show these files.
        Object stores keep none.
        """
        return disk.sweep(self.path()) if self.local else 0

    def mark_done(self, shard: str, summary: Mapping[str, Any]) -> None:
        """Say last that all files of a shard are written; without it, the shard is done again."""
        self.publish_json(f"{DONE}/{shard}.json", summary)

    def done_names(self) -> set[str]:
        """Names of the finished shards, from one listing."""
        return {name[len(DONE) + 1 : -5] for name in self.names(DONE) if name.endswith(".json")}

    def read_done(self, shard: str) -> Any:
        """The summary that `mark_done` was given."""
        return self.read_json(f"{DONE}/{shard}.json")

    def _ask(self, method: str, *arguments: Any, **named: Any) -> Any:
        return self._retried(lambda: self._once(method, *arguments, **named))

    def _once(self, method: str, *arguments: Any, **named: Any) -> Any:
        limit = {"timeout": self.patience} if self._fs.async_impl else {}
        return getattr(self._fs, method)(*arguments, **named, **limit)

    def _retried(self, call: Callable[[], T]) -> T:
        return retried(call, self.shown, self.attempts, self.pause)


def _checked(name: str) -> str:
    """The name itself where it stays inside its folder; otherwise raises `StorageError`."""
    if "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise StorageError(
            f"{name!r}: is not a plain relative path; rename the file or correct the list."
        )
    return name


def place(folder: Folder) -> str:
    """The folder's real path or URL, ending in one slash, to tell whether one lies in another."""
    return (os.path.realpath(folder.path()) if folder.local else folder.url).rstrip("/") + "/"
