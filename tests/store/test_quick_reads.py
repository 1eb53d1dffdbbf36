"""Objects of S3 read by obstore: what it is asked for, and what s3fs reads in its place."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import fsspec
import pytest
from flaky_store import flaky_store

from pipeline.errors import StorageError
from pipeline.store.folder import Folder
from pipeline.store.opening import ENOUGH

pytest.importorskip("obstore", reason="obstore is not installed")
NAMES = (
    "a b.jpg",
    "a%20b.jpg",
    "ü/ß.jpg",
    "e\u0301.jpg",
    "a#b?c=1&d+e",
    "*|~^`[x]{y}'\"<>",
    "a:b@c,d;e$f!",
)


class Spy:
    """Notes what the s3fs filesystem of a folder is asked to read."""

    def __init__(self, folder: Folder, patched: pytest.MonkeyPatch) -> None:
        self.read: list[str] = []
        filesystem: Any = folder._fs
        s3fs = getattr(filesystem, "filesystem", filesystem)
        plain = s3fs.cat_file

        def cat_file(path: str, **how: Any) -> bytes:
            self.read.append(path)
            data: bytes = plain(path, **how)
            return data

        patched.setattr(s3fs, "cat_file", cat_file)


def test_objects_of_any_name_whole_or_in_part_are_read_without_s3fs(
    s3: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder("s3://bucket/quick", s3)
    spy = Spy(folder, monkeypatch)
    for name in NAMES:
        folder.publish(name, b"of " + name.encode())
        assert folder.read_bytes(name) == b"of " + name.encode()
    folder.publish("ten", b"0123456789")
    assert folder.read_bytes("ten", limit=4) == b"01234"
    assert folder.read_bytes("ten", limit=100) == b"0123456789"
    assert folder.read_range("ten", 2, 5) == b"234"
    folder.publish("ten", b"new")
    assert folder.read_bytes("ten") == b"new"
    assert spy.read == []


def test_what_obstore_does_not_read_is_read_or_refused_by_s3fs(
    s3: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder("s3://bucket/slow", s3)
    spy = Spy(folder, monkeypatch)
    folder.publish("empty", b"")
    assert folder.read_bytes("empty", limit=10) == b""  # the store refuses a range of it
    with pytest.raises(FileNotFoundError):
        folder.read_bytes("none")
    with pytest.raises(FileNotFoundError):
        Folder("s3://no-such-bucket", s3).read_bytes("none")
    assert spy.read == ["bucket/slow/empty", "bucket/slow/none", "no-such-bucket/none"]


@pytest.mark.parametrize(
    "options",
    [
        {"client_kwargs": {"verify": False}},
        {"config_kwargs": {"s3": {"addressing_style": "path"}}},
        {"default_block_size": 1 << 20},
    ],
)
def test_with_options_that_obstore_does_not_know_s3fs_reads_alone(
    s3: dict[str, str], options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder("s3://bucket/optioned", {**s3, **options})
    spy = Spy(folder, monkeypatch)
    folder.publish("a", b"x")
    assert folder.read_bytes("a") == b"x"
    assert spy.read == ["bucket/optioned/a"]


def test_without_obstore_s3fs_reads_alone(
    s3: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("obstore", "obstore.store"):
        monkeypatch.setitem(sys.modules, name, None)
    folder = Folder("s3://bucket/absent", s3)
    spy = Spy(folder, monkeypatch)
    folder.publish("a", b"x")
    assert folder.read_bytes("a") == b"x"
    assert spy.read == ["bucket/absent/a"]


@pytest.mark.parametrize("place", ["environment", "profile"])
def test_credentials_and_endpoints_are_found_where_s3fs_finds_them(
    place: str, s3: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The server takes any credentials, but obstore sends nothing without them."""
    options: dict[str, Any] = {}
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    if place == "environment":
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "hidden-user")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden-password")
        monkeypatch.setenv("AWS_ENDPOINT_URL", s3["endpoint_url"])
    else:
        keys = "aws_access_key_id = hidden-user\naws_secret_access_key = hidden-password\n"
        (tmp_path / "credentials").write_text(f"[survey]\n{keys}")
        service = f"region = eu-north-1\nendpoint_url = {s3['endpoint_url']}\n"
        (tmp_path / "config").write_text(f"[profile survey]\n{service}")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        options = {"profile": "survey"}
    Folder("s3://bucket/found", s3).publish("a", b"x")
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # another test may have found none
    folder = Folder("s3://bucket/found", options)
    spy = Spy(folder, monkeypatch)
    assert folder.read_bytes("a") == b"x"
    assert spy.read == []


def test_an_unknown_profile_is_told_as_without_obstore(
    s3: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"profile": "nobody", "endpoint_url": s3["endpoint_url"]}
    folder = Folder("s3://bucket/told", options, attempts=1)
    with pytest.raises(StorageError) as told:
        folder.read_bytes("a")
    for name in ("obstore", "obstore.store"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(StorageError) as without:
        Folder("s3://bucket/told", options, attempts=1).read_bytes("a")
    assert str(told.value) == str(without.value)


def test_obstore_is_left_alone_after_some_failures_and_a_store_that_hangs_is_waited_for_once(
    s3: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    direct = Folder("s3://bucket/failing", s3)
    for name in ("refuse", "hang", "well"):
        direct.publish(name, b"x")

    def trouble(method: str, path: str, number: int) -> str:
        name = path.rpartition("/")[2]
        return name if name in ("refuse", "hang") and method == "GET" else ""

    with flaky_store(s3["endpoint_url"], trouble) as (endpoint, made):
        options = {**s3, "config_kwargs": {"retries": {"max_attempts": 0}}}
        options["endpoint_url"] = endpoint
        folder = Folder("s3://bucket/failing", options, attempts=1, pause=0.01, patience=5)
        spy = Spy(folder, monkeypatch)
        with pytest.raises(StorageError, match="no answer in 1 tries"):
            folder.read_bytes("hang")
        assert spy.read == []
        assert folder.read_bytes("well") == b"x"
        assert spy.read == []
        for _ in range(ENOUGH + 2):
            with pytest.raises(PermissionError):
                folder.read_bytes("refuse")
        assert len(spy.read) == ENOUGH + 2
        assert made["refuse"] == len(spy.read) + ENOUGH
        assert folder.read_bytes("well") == b"x"
        assert spy.read[-1].endswith("/well")
