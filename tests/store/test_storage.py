from __future__ import annotations

import http.server
import os
import pickle
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pytest
from flaky_store import flaky_store

from eloftr.weights.locate import resolve
from pipeline.errors import ImageError, RunError, StorageError
from pipeline.photos.source import read_image
from pipeline.store.folder import Folder, FolderAbsentError
from pipeline.store.opening import storage_options
from pipeline.store.retries import redacted
from pipeline.store.weights import load_weights
from pipeline.tables import MATCHES, SHARDS


def table(chunks: int = 1) -> pa.Table:
    whole = pa.table(
        {"image0": ["a.jpg", "b.jpg", "a.jpg", "c.jpg"], "score": pa.array([0.1, 0.2, 0.3, None])}
    )
    return pa.concat_tables(whole.slice(i * 4 // chunks, 4 // chunks) for i in range(chunks))


@pytest.fixture(params=["local", "file", "memory", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    name = f"run{time.monotonic_ns()}"
    if request.param == "s3":
        return Folder(f"s3://bucket/{name}", request.getfixturevalue("s3"), pause=0.01)
    return Folder(
        {"local": "", "file": "file://", "memory": "memory:/"}[request.param] + str(tmp_path / name)
    )


def test_published_files_are_listed_and_read_back(folder: Folder) -> None:
    folder.publish("b.JPG", b"two")
    folder.publish("sub/a b.jpg", b"one")
    folder.publish("empty.jpg", b"")
    folder.publish(".hidden/c.jpg", b"no")
    folder.publish("notes.txt", b"no")
    assert folder.list([".jpg"]) == ["b.JPG", "empty.jpg", "sub/a b.jpg"]
    assert folder.list([".jpg"], recursive=False) == ["b.JPG", "empty.jpg"]
    assert folder.list() == ["b.JPG", "empty.jpg", "notes.txt", "sub/a b.jpg"]
    assert folder.names("sub") == ["sub/a b.jpg"]
    assert folder.names("later") == []
    assert folder.read_bytes("sub/a b.jpg") == b"one"
    assert folder.read_bytes("empty.jpg", limit=10) == b""
    assert folder.read_bytes("b.JPG", limit=10) == b"two"
    assert folder.read_bytes("b.JPG", limit=1) == b"tw"
    assert folder.read_range("b.JPG", 1, 3) == b"wo"
    assert folder.exists("b.JPG")
    folder.remove("b.JPG")
    folder.remove("b.JPG")
    assert not folder.exists("b.JPG")
    with pytest.raises(FileNotFoundError):
        folder.read_bytes("b.JPG")
    with pytest.raises(FileNotFoundError):
        folder.read_bytes("b.JPG", limit=10)


def test_a_file_is_replaced_whole(folder: Folder) -> None:
    folder.publish("run.json", b"old")
    folder.publish("run.json", b"new")
    assert folder.read_bytes("run.json") == b"new"
    assert folder.list() == ["run.json"]


def test_tables_come_back_with_their_schema_and_metadata(folder: Folder) -> None:
    empty = MATCHES.empty_table()
    folder.publish_table("matches/0.parquet", empty)
    assert folder.read_table("matches/0.parquet").schema.equals(MATCHES, check_metadata=True)
    folder.publish_table("plan/0.parquet", table())
    assert folder.read_table("plan/0.parquet", columns=["score"]).column_names == ["score"]
    assert folder.read_table("plan/0.parquet").equals(table())


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    shards = pa.table([["0"], [["a", "b"]], [[[0, 1]]]], schema=SHARDS)
    for rows in (table(1), table(2), table(4)):
        folder.publish_table(f"{rows['score'].num_chunks}.parquet", rows)
        folder.publish_table("shards.parquet", shards)
    contents = {folder.read_bytes(f"{n}.parquet") for n in (1, 2, 4)}
    assert len(contents) == 1
    assert folder.read_table("shards.parquet").equals(shards)


def test_a_folder_named_like_a_partition_adds_no_column(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "scene=7"))
    folder.publish_table("t.parquet", table())
    assert folder.read_table("t.parquet").column_names == ["image0", "score"]


def test_half_a_parquet_file_is_refused_with_a_sentence(folder: Folder) -> None:
    folder.publish_table("t.parquet", table())
    folder.publish("t.parquet", folder.read_bytes("t.parquet")[:-30])
    with pytest.raises(StorageError, match=r"t\.parquet: is not whole Parquet"):
        folder.read_table("t.parquet")
    folder.publish("run.json", b"{")
    with pytest.raises(StorageError, match="is not JSON"):
        folder.read_json("run.json")


def test_done_markers_name_the_finished_shards(folder: Folder) -> None:
    assert folder.done_names() == set()
    folder.mark_done("00000001", {"pairs": 3})
    folder.mark_done("00000000", {"pairs": 2})
    folder.mark_done("00000001", {"pairs": 3})
    assert folder.done_names() == {"00000000", "00000001"}
    assert folder.read_done("00000001") == {"pairs": 3}


@pytest.mark.parametrize(
    "name",
    [
        "../secret.jpg",
        "/etc/passwd",
        "a/../../b.jpg",
        "a\\..\\b.jpg",
        "",
        ".",
        "a//b.jpg",
        "x\0.jpg",
        "a/",
    ],
)
def test_names_that_leave_the_folder_are_refused(folder: Folder, name: str) -> None:
    for use in (
        folder.read_bytes,
        folder.exists,
        folder.remove,
        folder.url_of,
        lambda n: folder.publish(n, b""),
    ):
        with pytest.raises(StorageError, match="is not a plain relative path"):
            use(name)


def test_a_link_out_of_the_folder_is_refused_unless_allowed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"key")
    root = tmp_path / "photos"
    (root / "inner").mkdir(parents=True)
    (root / "inner" / "a.jpg").write_bytes(b"a")
    (root / "out.jpg").symlink_to(tmp_path / "secret")
    (root / "in.jpg").symlink_to("inner/a.jpg")
    (root / "loop").symlink_to(root)
    folder = Folder(str(root))
    assert folder.list() == ["in.jpg", "inner/a.jpg", "out.jpg"]
    assert folder.read_bytes("in.jpg") == b"a"
    with pytest.raises(StorageError, match="symbolic link leads out"):
        folder.read_bytes("out.jpg")
    allowed = Folder(str(root), follow_links=True)
    assert allowed.read_bytes("out.jpg") == b"key"
    assert allowed.list() == ["in.jpg", "inner/a.jpg", "out.jpg"]


def test_a_pipe_or_a_name_that_is_not_utf8_does_not_hang_or_crash(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with open(os.fsencode(tmp_path) + b"/\xff.jpg", "wb") as file:
        file.write(b"x")
    folder = Folder(str(tmp_path))
    assert folder.list() == ["\\udcff.jpg", "pipe.jpg"]
    for name in folder.list():
        with pytest.raises(StorageError):
            folder.read_bytes(name)


def test_a_missing_folder_a_file_and_a_missing_bucket_are_explained(
    tmp_path: Path, s3: dict[str, str]
) -> None:
    with pytest.raises(FolderAbsentError, match="nowhere: no such folder"):
        Folder(str(tmp_path / "nowhere")).list()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="is a file; give a folder"):
        Folder(str(tmp_path / "file")).list()
    with pytest.raises(FolderAbsentError, match="s3://nobucket/photos: no such folder"):
        Folder("s3://nobucket/photos", s3).list()
    with pytest.raises(FolderAbsentError, match="nothing in it"):
        Folder("s3://bucket/nothing", s3).list()
    with pytest.raises(StorageError, match="names no bucket"):
        Folder("s3://", s3).list()
    with pytest.raises(StorageError, match="check the URL"):
        Folder("nonsense://x").list()


def test_missing_credentials_and_a_dead_endpoint_are_explained(
    monkeypatch: pytest.MonkeyPatch, s3: dict[str, str]
) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    with pytest.raises(StorageError, match="may not be read; check rights and credentials"):
        Folder("s3://bucket/x", {"endpoint_url": s3["endpoint_url"]}).list()
    dead = {"endpoint_url": "http://127.0.0.1:9", "key": "user", "secret": "hidden"}
    quick = {
        "config_kwargs": {"retries": {"max_attempts": 0}},
    }
    with pytest.raises(StorageError, match="no answer in 2 tries") as caught:
        Folder("s3://bucket/x", dead | quick, attempts=2, pause=0.01).list()
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "module", "package"),
    [
        ("s3://bucket/x", "s3fs", "s3fs"),
        ("gs://bucket/x", "gcsfs", "gcsfs"),
        ("az://box/x", "adlfs", "adlfs"),
        ("abfs://box/x", "adlfs", "adlfs"),
        ("https://host/x", "aiohttp", "aiohttp"),
        ("http://host/x", "aiohttp", "aiohttp"),
    ],
)
def test_a_missing_driver_names_its_package(url: str, module: str, package: str) -> None:
    script = f"""
import sys
sys.modules[{module!r}] = None
from pipeline.store.folder import Folder
Folder({url!r}).list()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    cause = f"the driver for {url.partition('://')[0]}:// is not installed"
    assert f"StorageError: {url}: {cause}; pip install {package}." in done.stderr


def test_options_of_a_store_reach_no_other(
    s3: dict[str, str], tmp_path: Path, served: Callable[[Path], str]
) -> None:
    (tmp_path / "a.txt").write_bytes(b"x")
    for options in (s3, {"s3": s3}, {"s3": s3, "http": {}, "endpoint_url": "http://127.0.0.1:9"}):
        Folder("s3://bucket/mixed", options).publish("a.txt", b"x")
        for url in ("s3://bucket/mixed", served(tmp_path), f"file://{tmp_path}", str(tmp_path)):
            assert Folder(url, options).read_bytes("a.txt") == b"x"


@pytest.mark.parametrize(
    "wrong",
    [
        {"endpoint": "http://127.0.0.1:9"},
        {"region_name": "eu-west-1"},
        {"endpoint_url": "127.0.0.1:9"},
        {"profile": "nobody"},
    ],
)
def test_options_that_the_driver_does_not_take_are_one_sentence_at_once(
    wrong: dict[str, str],
) -> None:
    with pytest.raises(StorageError, match=r"^s3://bucket/x: cannot be opened \(.*\); correct the"):
        Folder("s3://bucket/x", wrong).list()


def test_a_range_is_one_of_servers_too_that_send_all(
    served: Callable[[Path], str], tmp_path: Path
) -> None:
    (tmp_path / "ten").write_bytes(b"0123456789")  # Python's own server ignores ranges
    for folder in (Folder(served(tmp_path)), Folder(str(tmp_path))):
        assert folder.read_range("ten", 2, 5) == b"234"
        assert folder.read_range("ten", 0, 4) == b"0123"
        assert folder.read_range("ten", 6, 10) == b"6789"


def test_every_trouble_of_a_store_is_tried_again_and_a_lasting_one_ends_in_a_sentence(
    s3: dict[str, str],
) -> None:
    """Each word is a trouble of the proxy: the first two answers about a file of its name are so,
    or all of them.
    """
    direct = Folder("s3://bucket/troubled", s3)
    words = ("throttle", "reset", "hang", "cut", "slow", "lost")
    for word in words:
        for name in (word, f"{word} for ever"):
            direct.publish(name, name.encode() * 10)

    def trouble(method: str, path: str, number: int) -> str:
        found = [word for word in words if path.endswith((f"/{word}", f"/{word}%20for%20ever"))]
        if not found or ("/created/" in path and method != "PUT"):
            return ""
        return found[0] if number <= 2 or "ever" in path else ""

    no_retries = {"config_kwargs": {"retries": {"max_attempts": 0}}}
    with flaky_store(s3["endpoint_url"], trouble) as (endpoint, made):
        options = {**s3, **no_retries, "endpoint_url": endpoint}
        folder = Folder("s3://bucket/troubled", options, attempts=4, pause=0.01, patience=0.5)
        for word in words:
            assert folder.read_bytes(word, limit=1000) == word.encode() * 10
            assert made[word] >= 2, word
        short = replace(folder, attempts=2)
        for word in words:
            with pytest.raises(
                StorageError, match=r"no answer in 2 tries .*; check the network"
            ) as error:
                short.read_bytes(f"{word} for ever", limit=1000)
            assert "hidden" not in str(error.value)
        with pytest.raises(ImageError) as of_image:
            read_image(short, "throttle for ever")
        assert of_image.value.reason == "unreadable"
        assert "hidden" not in str(of_image.value)
        assert "throttle" in folder.list()
        direct.remove("throttle")  # between the listing and the reading
        with pytest.raises(ImageError, match="missing"):
            read_image(folder, "throttle")
        for word in ("throttle", "reset", "hang", "lost"):
            folder.publish(word, b"new")
            assert direct.read_bytes(word) == b"new"
            assert folder.create(f"created/{word}", b"first")
            assert not folder.create(f"created/{word}", b"second")
            assert direct.read_bytes(f"created/{word}") == b"first"


def test_an_upload_that_breaks_off_is_not_there(s3: dict[str, str]) -> None:
    direct = Folder("s3://bucket/broken off", s3)
    direct.publish("t.parquet", b"old")
    address = urlsplit(s3["endpoint_url"])
    for name in ("t.parquet", "new.parquet"):
        with socket.create_connection((address.hostname, address.port)) as connection:
            lines = (
                f"PUT /bucket/broken%20off/{name} HTTP/1.1",
                f"Host: {address.netloc}",
                "Content-Length: 1000",
                "\r\nhalf of it",
            )
            connection.sendall("\r\n".join(lines).encode())
    time.sleep(0.2)
    assert direct.read_bytes("t.parquet") == b"old"
    assert direct.list() == ["t.parquet"]


def test_credentials_never_appear_in_messages() -> None:
    assert redacted("get https://user:pw@host/a?sig=1 now") == "get https://host/a now"
    assert redacted("s3://key:secret@bucket/a b.jpg") == "s3://bucket/a b.jpg"
    assert (
        redacted('wrong:\nbucket name "key:secret@bucket" must match')
        == 'wrong: bucket name "bucket" must match'
    )
    assert redacted("plain text? yes") == "plain text? yes"
    folder = Folder("https://user:pw@host/photos?sig=1", {"secret": "hidden"})
    assert repr(folder) == "Folder('https://host/photos')"


def test_a_folder_travels_to_other_processes_and_working_directories(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.publish("a.txt", b"x")
    copy = pickle.loads(pickle.dumps(folder))
    assert copy == folder
    assert copy.read_bytes("a.txt") == b"x"
    relative = Folder("photos")
    monkeypatch.chdir("/")
    assert relative.url != Folder("photos").url


def test_a_file_url_splits_into_folder_and_name(tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_bytes(b"x")
    folder, name = Folder.of_file(tmp_path / "pairs.txt")
    assert folder.read_bytes(name) == b"x"
    assert Folder.of_file("s3://bucket/plan/pairs.csv")[0].url == "s3://bucket/plan"
    assert Folder.of_file("pairs.txt")[0].url == os.getcwd()
    assert Folder.of_file("/pairs.txt")[0].url == "/"


def test_killed_writers_leave_nothing_that_is_read(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pipeline.store.folder import Folder\n"
        "folder = Folder(sys.argv[1]); print('ready', flush=True)\n"
        "while True: folder.publish('big.bin', os.urandom(1) * 4_000_000)"
    )
    folder = Folder(str(tmp_path))
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE
        )
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(0.15)
        writer.kill()
        writer.wait()
        data = folder.read_bytes("big.bin")
        assert len(data) == 4_000_000
        assert len(set(data)) == 1
    assert folder.list() == ["big.bin"]
    (tmp_path / f".big.bin.{'0' * 32}.tmp").write_bytes(b"part")
    assert folder.sweep() >= 1
    assert os.listdir(tmp_path) == ["big.bin"]


@pytest.mark.parametrize("place", ["/proc/nowhere/run", "/dev/null/run"])
def test_where_no_folder_can_be_made_another_is_asked_for(place: str) -> None:
    for write in (Folder(place).publish, Folder(place).create):
        with pytest.raises(StorageError, match=r"cannot be written: No.* directory; give another"):
            write("a.bin", b"")


def test_a_full_disk_is_one_sentence_and_leaves_nothing_behind(tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    script = (
        "import resource, signal, sys; from pipeline.store.folder import Folder\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "Folder(sys.argv[1]).publish('a.bin', bytes(5000))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert "a.bin: cannot be written: File too large" in done.stderr
    assert os.listdir(tmp_path) == []


class _Flaky(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, but every file only after two failures: a 503 and a reset connection."""

    asked: dict[str, int]

    def do_GET(self) -> None:
        count = self.asked[self.path] = self.asked.get(self.path, 0) + 1
        if "always" in self.path or count == 1:
            self.send_error(503)
        elif count == 2:
            self.connection.close()
        elif "forbidden" in self.path:
            self.send_error(403)
        else:
            super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def flaky(tmp_path: Path) -> Iterator[tuple[Path, str, dict[str, int]]]:
    asked: dict[str, int] = {}
    handler = type("Handler", (_Flaky,), {"asked": asked})
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(handler, directory=str(tmp_path))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield tmp_path, f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_throttling_and_resets_are_tried_again_and_refusals_are_not(
    flaky: tuple[Path, str, dict[str, int]],
) -> None:
    root, url, asked = flaky
    (root / "a.jpg").write_bytes(b"photo")
    (root / "sub").mkdir()
    (root / "sub" / "b.jpg").write_bytes(b"more")
    folder = Folder(url, pause=0.01)
    assert folder.list([".jpg"]) == ["a.jpg", "sub/b.jpg"]
    assert folder.read_bytes("a.jpg") == b"photo"
    assert asked["/a.jpg"] == 3
    asked["/missing.jpg"] = 2
    with pytest.raises(FileNotFoundError):
        folder.read_bytes("missing.jpg")
    assert asked["/missing.jpg"] == 3
    asked["/forbidden.jpg"] = 2
    with pytest.raises(PermissionError, match="access refused"):
        folder.read_bytes("forbidden.jpg")
    assert asked["/forbidden.jpg"] == 3
    with pytest.raises(StorageError, match=r"no answer in 4 tries .*503"):
        folder.read_bytes("always.jpg")
    assert asked["/always.jpg"] == 4
    with pytest.raises(StorageError, match="cannot be written to; give a local folder"):
        folder.publish("c.jpg", b"")


def test_wrong_arguments_are_refused() -> None:
    for wrong in ({"attempts": 0}, {"pause": -1}, {"patience": 0}):
        with pytest.raises(ValueError, match="attempts must be at least 1"):
            Folder("x", **wrong)


@pytest.mark.parametrize("text", ['{"secret": "hidden"', '["hidden"]', '"hidden"'])
def test_storage_options_are_a_json_object_and_an_error_does_not_show_them(text: str) -> None:
    assert storage_options('{"key": 1}') == {"key": 1}
    with pytest.raises(StorageError, match="not a JSON object") as refused:
        storage_options(text)
    assert "hidden" not in str(refused.value)


def test_twenty_thousand_names_are_listed_in_a_moment(tmp_path: Path) -> None:
    for k in range(20_000):
        (tmp_path / f"{k:05}.jpg").touch()
    start = time.process_time()
    names = Folder(str(tmp_path)).list([".jpg"])
    assert time.process_time() - start < 2
    assert names == [f"{k:05}.jpg" for k in range(20_000)]
    assert np.all(np.array(names[:-1]) < np.array(names[1:]))


def test_weights_at_a_url_have_the_configuration_beside_them(
    served: Callable[[Path], str], tmp_path: Path
) -> None:
    given = resolve("small")
    for name in ("model.safetensors", "config.json"):
        shutil.copy(given / name, tmp_path)
    url = f"{served(tmp_path)}/model.safetensors"
    assert load_weights(url, {}).config.to_dict() | {"_name_or_path": ""} == load_weights(
        str(tmp_path / "model.safetensors"), {}
    ).config.to_dict() | {"_name_or_path": ""}
    assert load_weights(url, {}).config.fine_matching_least_squares_radius == 5
    (tmp_path / "config.json").unlink()
    assert load_weights(url, {}).config.hidden_size == 64


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_folder_of_weights_at_a_url_is_one(
    served: Callable[[Path], str], tmp_path: Path, slash: str
) -> None:
    (tmp_path / "mine").mkdir()
    for name in ("model.safetensors", "config.json"):
        shutil.copy(resolve("small") / name, tmp_path / "mine")
    found = load_weights(f"{served(tmp_path)}/mine{slash}", {})
    assert found.config.fine_matching_least_squares_radius == 5
    with pytest.raises(RunError, match=r"none/model\.safetensors: the weights cannot be read"):
        load_weights(f"{served(tmp_path)}/none{slash}", {})


@pytest.mark.parametrize("name", ["weights.v2", "weights.v2/", "weights.v2/?token=x"])
def test_a_folder_of_weights_may_have_a_dot_and_its_url_a_query(
    served: Callable[[Path], str], tmp_path: Path, name: str
) -> None:
    shutil.copytree(resolve("small"), tmp_path / "weights.v2")
    found = load_weights(f"{served(tmp_path)}/{name}", {})
    assert found.config.fine_matching_least_squares_radius == 5
    if "?" not in name:
        assert load_weights(f"{tmp_path.as_uri()}/{name}", {}).config.hidden_size == 64
