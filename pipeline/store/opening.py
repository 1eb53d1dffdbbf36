"""Open the fsspec filesystem of a URL, with its options and, of S3, with quick reads.

obstore reads objects of S3 at a tenth of what a read by s3fs costs, which
`benchmarks/speed/object_store.py` measures. Everything else is asked of s3fs, and so is every
object that obstore does not read. Answers and errors are therefore those of s3fs.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from functools import cache
from typing import Any

import fsspec
from fsspec.core import url_to_fs
from fsspec.exceptions import FSTimeoutError
from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import StorageError
from pipeline.store.retries import redacted

DRIVERS = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
}
DRIVERS |= {"s3a": "s3fs", "http": "aiohttp", "https": "aiohttp"}
PROTOCOLS = {*DRIVERS, "file", "memory"}
# In these stores an object appears only when its upload is complete.
ATOMIC_PUT = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"}
# Options of s3fs that have the same meaning here, or none. With any other one s3fs reads alone.
UNDERSTOOD = {"anon", "endpoint_url", "key", "profile", "secret", "token"}
PARTS_UNDERSTOOD = {
    "client_kwargs": {"endpoint_url", "region_name"},
    "config_kwargs": {"max_pool_connections", "retries"},  # obstore tries once
}
# Reads that fail one after the other. After them obstore is not asked any more, because what it
# cannot do each read would ask for twice.
ENOUGH = 5
ASKED_AGAIN = timedelta(minutes=10)  # for credentials; botocore renews them so long before they end
NO_REGION = (None, "aws-global")  # as botocore says where none is chosen


def storage_options(text: str) -> dict[str, Any]:
    """Options of the filesystems from JSON.

    Raises StorageError without showing the text, because the text may hold a password.
    """
    try:
        options = json.loads(text)
    except ValueError:
        options = None
    if not isinstance(options, dict):
        raise StorageError(
            'storage options: not a JSON object; give one, as {"endpoint_url": "https://…"}.'
        )
    return options


def protocol_of(url: str) -> str:
    """`s3` of `s3://bucket`; empty for a local path."""
    return url.partition("://")[0] if "://" in url else ""


def open_filesystem(url: str, options: dict[str, Any]) -> tuple[fsspec.AbstractFileSystem, str]:
    """The filesystem of a folder's URL, and the folder in it.

    Raises StorageError where the driver is not installed, the URL is malformed or names no bucket,
    and where the driver of S3 takes no option of such a name or value.
    """
    protocol, shown = protocol_of(url), redacted(url)
    if not protocol:
        return LocalFileSystem(), url
    try:
        filesystem, root = url_to_fs(url, **_own_options(protocol, options))
    except ImportError as error:
        cure = f"pip install {DRIVERS[protocol]}" if protocol in DRIVERS else str(error)
        raise StorageError(
            f"{shown}: the driver for {protocol}:// is not installed; {cure}."
        ) from error
    # The drivers raise these for a URL or an option that they do not know.
    except (ValueError, TypeError) as error:
        raise StorageError(
            f"{shown}: cannot be opened ({redacted(error)}); check the URL."
        ) from error
    if isinstance(filesystem, LocalFileSystem):
        return filesystem, os.path.abspath(root)
    if not root.strip("/"):
        raise StorageError(f"{shown}: names no bucket; give {protocol}://bucket/folder.")
    if protocol in ("s3", "s3a"):
        try:
            filesystem.connect()  # asks nobody, but finds out about options
        except Exception as error:  # botocore has many of its own
            raise StorageError(
                f"{shown}: cannot be opened ({redacted(error)}); correct the storage options."
            ) from error
        filesystem = _with_quick_reads(filesystem, _own_options(protocol, options))
    return filesystem, root.rstrip("/")


def _own_options(protocol: str, options: dict[str, Any]) -> dict[str, Any]:
    own = options.get(protocol)
    if isinstance(own, dict):
        return own
    others = PROTOCOLS if protocol not in ("http", "https") else options
    return {name: value for name, value in options.items() if name not in others}


def _with_quick_reads(
    filesystem: fsspec.AbstractFileSystem, options: dict[str, Any]
) -> fsspec.AbstractFileSystem:
    """The connected filesystem of s3fs with quick reads, or itself where they cannot be had.

    options: what the filesystem was made with.
    """
    parts = {name: set(options.get(name) or ()) for name in PARTS_UNDERSTOOD}
    known = all(part <= PARTS_UNDERSTOOD[name] for name, part in parts.items())
    if not known or not set(options) <= UNDERSTOOD | set(parts):
        return filesystem
    try:
        from obstore.store import S3Store
    except ImportError:
        return filesystem
    access = _access(options)
    if access is None:
        return filesystem

    @cache
    def open_bucket(bucket: str, timeout: float | None) -> Any:
        meta = filesystem.s3.meta  # what botocore made of options, environment and configuration
        client: Any = {"allow_http": meta.endpoint_url.startswith("http://")}
        if timeout is not None:
            client["timeout"] = timedelta(seconds=timeout)
        return S3Store(
            bucket,
            endpoint=meta.endpoint_url,
            region="us-east-1" if meta.region_name in NO_REGION else meta.region_name,
            client_options=client,
            retry_config={"max_retries": 0},  # `Folder` tries again
            **access,
        )

    return _QuickReads(filesystem, open_bucket)


class _QuickReads:
    """A filesystem in all but `cat_file`.

    open_bucket: obstore's store of a bucket, for requests of so many seconds.
    """

    def __init__(
        self,
        filesystem: fsspec.AbstractFileSystem,
        open_bucket: Callable[[str, float | None], Any],
    ) -> None:
        self.filesystem = filesystem
        self.open_bucket = open_bucket
        self.failures = 0  # one after the other

    def __getattr__(self, name: str) -> Any:
        return getattr(self.filesystem, name)

    def cat_file(
        self,
        path: str,
        start: int | None = None,
        end: int | None = None,
        timeout: float | None = None,
    ) -> bytes:
        """As fsspec's: the bytes of an object, all or from `start` to `end`."""
        if (start is None) == (end is None) and self.failures < ENOUGH:
            begun = time.monotonic()
            try:
                data = self._by_obstore(path, start, end, timeout)
            except FileNotFoundError:
                pass  # s3fs says so in its own words
            except Exception as error:  # obstore has many of its own
                self.failures += 1
                if timeout is not None and time.monotonic() - begun >= timeout:
                    raise FSTimeoutError from error
            else:
                self.failures = 0
                return data
        kept: bytes = self.filesystem.cat_file(path, start=start, end=end, timeout=timeout)
        return kept

    def _by_obstore(
        self, path: str, start: int | None, end: int | None, timeout: float | None
    ) -> bytes:
        import obstore

        bucket, _, key = path.partition("/")
        store = self.open_bucket(bucket, timeout)
        if start is None or end is None:
            return bytes(obstore.get(store, key).bytes())
        return bytes(obstore.get(store, key, options={"range": (start, end)}).bytes())


def _access(options: dict[str, Any]) -> dict[str, Any] | None:
    """Arguments of obstore that let it in as the options let s3fs in; None where nothing does."""
    if options.get("anon"):
        return {"skip_signature": True}
    if "key" in options:
        names = {"key": "access_key_id", "secret": "secret_access_key", "token": "session_token"}
        return {theirs: options[ours] for ours, theirs in names.items() if options.get(ours)}
    import botocore.session

    found = botocore.session.Session(profile=options.get("profile")).get_credentials()
    if found is None:
        return None

    def credentials() -> dict[str, Any]:
        frozen = found.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(timezone.utc) + ASKED_AGAIN,
        }

    return {"credential_provider": credentials}
