"""What a read of a small object costs through fsspec's s3fs and through obstore, side by side.

    pip install obstore; apt-get install nginx
    python benchmarks/speed/object_store.py [--objects 100000] [--rounds 3] [--out FILE]

nginx serves a folder of objects on loopback with the paths of S3, so that the server costs little
and both clients send signed requests. All sides take turns in one run: s3fs, obstore, and
`Folder.read_bytes` as the pipeline reads, by as many threads as read headers of photographs; and
each library's own way to ask for many objects at once. Every side's bytes are checked.
"""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a script sees its own folder only

from benchmarks.environment import argument_parser, write_results
from pipeline.photos.exif import HEADER_THREADS
from pipeline.store.folder import Folder

SIZE = 4096  # bytes of an object
A_FOLDER = 1000  # objects
AT_ONCE = 50  # requests of a library that asks for many objects itself
BUCKET = "bucket"
CONFIGURATION = """
worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log; daemon off; user root;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 1000000; sendfile on; client_body_temp_path {folder};
  proxy_temp_path {folder}; fastcgi_temp_path {folder}; uwsgi_temp_path {folder};
  scgi_temp_path {folder};
  server {{ listen 127.0.0.1:{port}; root {folder}/objects; }}
}}
"""
PORT = 18333
OPTIONS = {"endpoint_url": f"http://127.0.0.1:{PORT}", "key": "user", "secret": "password"}


def make_objects(folder: Path, number: int) -> list[str]:
    """Write objects into folders of a bucket; their names in it."""
    names = [f"{index // A_FOLDER:04}/{index % A_FOLDER:03}" for index in range(number)]
    for index, name in enumerate(names):
        path = folder / "objects" / BUCKET / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(index.to_bytes(8, "big") * (SIZE // 8))
    return names


@contextmanager
def served(folder: Path) -> Iterator[None]:
    """Serve the objects on loopback."""
    if not (nginx := shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")):
        raise SystemExit("object_store: there is no nginx; apt-get install nginx")
    written = folder / "nginx.conf"
    written.write_text(CONFIGURATION.format(folder=folder, port=PORT))
    server = subprocess.Popen([nginx, "-c", str(written)], stderr=subprocess.DEVNULL)
    time.sleep(1)
    try:
        yield
    finally:
        server.terminate()
        server.wait()


def readers(names: list[str]) -> dict[str, Callable[[], Iterator[bytes]]]:
    """Every side: what reads all objects, in the order of their names."""
    try:
        import obstore
        from obstore.store import S3Store
    except ImportError as error:
        raise SystemExit(f"object_store: {error}; pip install obstore") from error
    folder = Folder(f"s3://{BUCKET}", OPTIONS)
    store = S3Store(
        BUCKET,
        endpoint=OPTIONS["endpoint_url"],
        access_key_id=OPTIONS["key"],
        secret_access_key=OPTIONS["secret"],
        region="us-east-1",
        client_options={"allow_http": True},
    )

    def by_threads(read: Callable[[str], bytes]) -> Iterator[bytes]:
        with ThreadPoolExecutor(HEADER_THREADS) as threads:
            yield from threads.map(read, names)

    # Behind the quick reads of a folder.
    s3fs: Any = getattr(folder._fs, "filesystem", folder._fs)

    def by_s3fs(name: str) -> bytes:
        return bytes(s3fs.cat_file(f"{BUCKET}/{name}"))

    def by_obstore(name: str) -> bytes:
        return bytes(obstore.get(store, name).bytes())

    async def all_by_obstore() -> list[bytes]:
        free = asyncio.Semaphore(AT_ONCE)

        async def read(name: str) -> bytes:
            async with free:
                answer = await obstore.get_async(store, name)
                return bytes(await answer.bytes_async())

        return await asyncio.gather(*map(read, names))

    def all_by_fsspec() -> Iterator[bytes]:
        keys = [f"{BUCKET}/{name}" for name in names]
        found = s3fs.cat(keys, batch_size=AT_ONCE)
        return iter([found[key] for key in keys])

    return {
        "fsspec, s3fs's cat_file": lambda: by_threads(by_s3fs),
        "obstore, get": lambda: by_threads(by_obstore),
        "the pipeline, Folder.read_bytes": lambda: by_threads(folder.read_bytes),
        "fsspec, s3fs's cat of many": all_by_fsspec,
        "obstore, get_async of many": lambda: iter(asyncio.run(all_by_obstore())),
    }


def measure(names: list[str], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Microseconds an object of every side, by the clock and of this process's CPU."""
    sides = readers(names)
    found: dict[str, dict[str, list[float]]] = {name: {"wall": [], "cpu": []} for name in sides}
    for _ in range(rounds):
        for side, read in sides.items():
            started, used = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
            right = sum(
                data == index.to_bytes(8, "big") * (SIZE // 8) for index, data in enumerate(read())
            )
            if right != len(names):
                raise SystemExit(f"object_store: {side}: {len(names) - right} objects are wrong")
            wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF)
            cpu = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
            found[side]["wall"].append(wall / len(names) * 1e6)
            found[side]["cpu"].append(cpu / len(names) * 1e6)
    return found


def table(found: dict[str, dict[str, list[float]]]) -> str:
    """What was measured, as Markdown."""
    lines = ["| side | µs an object | CPU µs an object | times as fast |", "|---|---|---|---|"]
    first: float | None = None
    for side, figures in found.items():
        wall, cpu = (statistics.median(figures[name]) for name in ("wall", "cpu"))
        first = wall if side.startswith("fsspec") else first
        assert first is not None  # fsspec stands before obstore
        lines.append(f"| {side} | {wall:.0f} | {cpu:.0f} | {first / wall:.1f} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--objects", type=int, default=100_000, help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of every side (%(default)s)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        names = make_objects(Path(scratch), options.objects)
        with served(Path(scratch)):
            found = measure(names, options.rounds)
    print(table(found), end="")
    if options.out:
        results = {
            "objects": options.objects,
            "bytes": SIZE,
            "rounds": options.rounds,
            "threads": HEADER_THREADS,
            "at_once": AT_ONCE,
            "microseconds": found,
        }
        write_results(options.out, results, "obstore", "fsspec", "s3fs", "aiobotocore")
    return 0


if __name__ == "__main__":
    sys.exit(main())
