"""Open the fsspec filesystem of a URL, with its options."""

from __future__ import annotations

import json
import os
from typing import Any

import fsspec
from fsspec.core import url_to_fs
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

    Raises StorageError where the driver is not installed, the URL is malformed, or the URL names no
    bucket.
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
    return filesystem, root.rstrip("/")


def _own_options(protocol: str, options: dict[str, Any]) -> dict[str, Any]:
    own = options.get(protocol)
    if isinstance(own, dict):
        return own
    others = PROTOCOLS if protocol not in ("http", "https") else options
    return {name: value for name, value in options.items() if name not in others}
