"""What the import of a run into a COLMAP database costs: seconds, memory and disk, by the number of
pairs.

    python benchmarks/scale/importing.py [--pairs 10000 100000] [--matches 300] [--processes 0 2]
    [--before CHECKOUT] [--scratch FOLDER] [--out results.json]

Writes run folders of made-up matches with the pipeline's own schemas and imports each in a process
of its own, and with so many others that merge; 0 is that process alone. CHECKOUT is another version
of the project, which imports the same runs first, in one process. Every image has pairs with 100
others, names are in no order, and half of the matches lie on points that recur in the other pairs
of an image, so that merging has its usual work. All matches are inliers. The database is opened
again and its rows are counted.

CPU        seconds of all processes together
anonymous  the largest process's own memory at its highest; with files   what it mapped of files
           besides, the kernel's to drop
disk       the database, and everything below the output folder at its highest
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a script sees its own folder only

from benchmarks.environment import PROJECT, argument_parser, write_results
from pipeline import tables
from pipeline.store.folder import Folder

WIDTH, HEIGHT, LONG_SIDE = 1600, 1200, 640
NEXT = 50  # pairs an image begins; it is in twice as many
POINTS = 4800  # places in an image that its pairs share: a cell each at 640×480
NOISE = 1.0  # pixels; the radius of merging is 5 here
SHARD_PAIRS = 1024
INTERVAL = 0.2  # seconds between looks at a process

IMPORT = """
import sys
from dataclasses import asdict
from json import dumps
from pathlib import Path
from pipeline.execute.executor import Actors
from pipeline.execute.local import LocalExecutor
from pipeline.execute.worker import Worker
from pipeline.reconstruct.carrying import Carrying
from pipeline.reconstruct.merging.job import import_matches
from pipeline.store.folder import Folder
run, database, long_side, processes = sys.argv[1:]
what = Folder(run), Path(database)
if count := int(processes):
    with LocalExecutor() as executor, Worker() as colmap:
        carrying = Carrying(executor, colmap, Actors(count, count))
        made = import_matches(*what, long_side=int(long_side), carrying=carrying)
else:
    made = import_matches(*what, long_side=int(long_side))
print(dumps(asdict(made)))
"""
BEFORE = """
import sys
from dataclasses import asdict
from json import dumps
from pathlib import Path
from pipeline.reconstruct.database import import_matches
from pipeline.store.folder import Folder
run, database, long_side, _ = sys.argv[1:]
print(dumps(asdict(import_matches(Folder(run), Path(database), long_side=int(long_side)))))
"""


def write_run(folder: Path, pairs: int, matches: int) -> int:
    """A run folder of so many pairs with so many inliers each; returns the bytes of its match
    tables.
    """
    images = max(pairs // NEXT, 2 * NEXT + 1)
    names = np.random.default_rng(0).permutation(
        [f"{i % 100:02}/{i:08}.jpg" for i in range(images)]
    )
    run, written = Folder(str(folder)), 0
    for number, start in enumerate(range(0, pairs, SHARD_PAIRS)):
        rows = np.arange(start, min(start + SHARD_PAIRS, pairs))
        first = rows // NEXT % images
        couples = np.stack([first, (first + 1 + rows % NEXT) % images], axis=1)
        run.publish_table(
            f"matches/{number:08}.parquet", matches_table(names, couples, matches, seed=number)
        )
        run.publish_table(f"images/{number:08}.parquet", images_table(names[np.unique(couples)]))
        written += os.path.getsize(folder / f"matches/{number:08}.parquet")
    return written


def matches_table(names: np.ndarray, couples: np.ndarray, matches: int, seed: int) -> pa.Table:
    """MATCHES of couples (P, 2) of image numbers."""
    rng = np.random.default_rng(seed)
    count, shape = len(couples), (len(couples), matches)
    columns: dict[str, pa.Array] = {
        "status": pa.array(["matched"] * count),
        "reason": pa.nulls(count, pa.string()),
        "scores": tables.ragged(
            [*rng.uniform(0.2, 1, shape).astype(np.float32)], pa.list_(pa.float32())
        ),
        "geometry": pa.array(["calibrated"] * count),
        "inliers": tables.ragged([*np.ones(shape, bool)], pa.list_(pa.bool_())),
        "num_inliers": pa.array(np.full(count, matches), pa.int32()),
    }
    # Different points of each pair, as one-to-one matches have; the first half recurs, the rest is
    # this pair's own.
    point = rng.integers(POINTS, size=(count, 1)) + np.arange(matches) * (POINTS // matches)
    for side in (0, 1):
        places = point % POINTS + couples[:, side, None] * POINTS
        xy = (
            np.stack([places * 0.7548776662, places * 0.5698402910], axis=2)
            % 1
            * [WIDTH - 1, HEIGHT - 1]
        )
        xy[:, : matches // 2] += rng.normal(0, NOISE, (count, matches // 2, 2))
        xy[:, matches // 2 :] = rng.uniform(
            0, [WIDTH - 1, HEIGHT - 1], (count, matches - matches // 2, 2)
        )
        xy = np.clip(xy, 0, [WIDTH - 1, HEIGHT - 1]).astype(np.float32)
        columns[f"image{side}"] = pa.array(names[couples[:, side]].tolist(), pa.string())
        columns[f"keypoints{side}"] = tables.ragged(
            [*xy], tables.MATCHES.field(f"keypoints{side}").type
        )
    for name in ("E", "F", "H", "pose"):
        kind = tables.MATCHES.field(name).type
        values = rng.normal(size=(count, kind.list_size))
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), type=kind)
    return pa.table([columns[name] for name in tables.MATCHES.names], schema=tables.MATCHES)


def images_table(names: np.ndarray) -> pa.Table:
    """IMAGES of photographs of one size without EXIF."""
    row = {
        "width": WIDTH,
        "height": HEIGHT,
        "stored_width": WIDTH,
        "stored_height": HEIGHT,
        "orientation": 1,
    }
    rows = [{"image": name, "focal": None, "camera": None, **row} for name in names.tolist()]
    return pa.Table.from_pylist(rows, schema=tables.IMAGES)


def import_run(run: Path, output: Path, processes: int, checkout: Path = PROJECT) -> dict[str, Any]:
    """Import in a process of its own and watch it: seconds, the most memory and disk it took, bytes
    and rows.

    processes: others that merge. checkout: the version of the project that imports.
    """
    database = output / "database.db"
    program = IMPORT if checkout == PROJECT else BEFORE
    command = [sys.executable, "-c", program, str(run), str(database), str(LONG_SIDE)]
    started, before = time.monotonic(), os.times()
    process = subprocess.Popen(
        [*command, str(processes)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=checkout,  # where -c looks for modules first
        env={**os.environ, "PYTHONPATH": str(checkout)},
    )
    anonymous = resident = disk = 0
    while process.poll() is None:
        for pid in (process.pid, *children(process.pid)):
            private, everything = memory(pid)
            anonymous, resident = max(anonymous, private), max(resident, everything)
        disk = max(disk, size_of(output))
        time.sleep(INTERVAL)
    seconds, after = time.monotonic() - started, os.times()
    assert process.stdout is not None
    printed = process.stdout.read()
    if process.returncode:
        raise SystemExit(
            f"importing: the import ended with code {process.returncode}; see its message above"
        )
    cpu = after.children_user + after.children_system
    return {
        "processes": processes,
        "seconds": seconds,
        "cpu_seconds": cpu - before.children_user - before.children_system,
        "anonymous_bytes": anonymous,
        "resident_bytes": resident,
        "disk_bytes": max(disk, size_of(output)),
        "database_bytes": database.stat().st_size,
        "rows": count_rows(database),
        "summary": json.loads(printed),
    }


def children(pid: int) -> list[int]:
    """Processes that a process started and that are still there."""
    try:
        tasks = Path(f"/proc/{pid}/task").glob("*/children")
        return [int(child) for task in tasks for child in task.read_text().split()]
    except OSError:  # it ends
        return []


def memory(pid: int) -> tuple[int, int]:
    """(anonymous memory now, the largest resident size so far), bytes; zeros where the process has
    ended.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    fields = dict(line.split(":", 1) for line in lines)
    return tuple(int(fields.get(name, "0 kB").split()[0]) * 1024 for name in ("RssAnon", "VmHWM"))  # type: ignore[return-value]


def size_of(folder: Path) -> int:
    total = 0
    for base, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.path.getsize(os.path.join(base, name))
            except FileNotFoundError:  # renamed or removed meanwhile
                continue
    return total


def count_rows(database: Path) -> dict[str, int]:
    """Rows of the tables that grow, and the matches in them."""
    import sqlite3

    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as opened:
        (keypoints,) = opened.execute("SELECT sum(rows) FROM keypoints").fetchone()
        pairs, matches = opened.execute("SELECT count(*), sum(rows) FROM matches").fetchone()
        geometries, inliers = opened.execute(
            "SELECT count(*), sum(rows) FROM two_view_geometries"
        ).fetchone()
    opened.close()
    return {
        "keypoints": keypoints,
        "pairs": pairs,
        "matches": matches,
        "geometries": geometries,
        "inlier_matches": inliers,
    }


def measure(
    pairs: int, matches: int, scratch: Path, processes: list[int], before: Path | None
) -> Iterator[dict[str, Any]]:
    """Write a run of so many pairs, import it in all ways, and check the rows of the databases."""
    folder = Path(tempfile.mkdtemp(dir=scratch, prefix="importing."))
    try:
        started = time.monotonic()
        run_bytes = write_run(folder / "run", pairs, matches)
        described = {
            "pairs": pairs,
            "matches_a_pair": matches,
            "run_bytes": run_bytes,
            "writing_seconds": time.monotonic() - started,
        }
        ways = [("now", PROJECT, count) for count in processes]
        if before:
            ways.insert(0, ("before", before.resolve(), 0))
        for version, checkout, count in ways:
            result = import_run(folder / "run", folder / "sfm", count, checkout)
            shutil.rmtree(folder / "sfm")
            check(pairs, result)
            yield {**described, "version": version, **result}
    finally:
        shutil.rmtree(folder)


def check(pairs: int, result: dict[str, Any]) -> None:
    """End the benchmark where a database does not hold what the import reports."""
    rows, summary = result["rows"], result["summary"]
    if not (rows["pairs"] == rows["geometries"] == summary["verified"] == pairs):
        raise SystemExit(
            f"importing: {pairs} pairs became {rows['pairs']} rows, {rows['geometries']} geometries"
        )
    if not (rows["matches"] == rows["inlier_matches"] == summary["merged_matches"]):
        raise SystemExit(
            "importing: the database holds another number of matches than the import reports"
        )


def table(rows: list[dict[str, Any]]) -> str:
    """What was measured, as Markdown."""
    counted, sized = (
        "pairs | images | keypoints | matches",
        "anonymous | with files | database | disk",
    )
    timed = "version | processes | seconds | µs a pair | CPU µs a pair"
    lines = [f"| {counted} | {timed} | {sized} |", "|" + "---|" * 13]
    for row in rows:
        counts = [
            row["pairs"],
            row["summary"]["images"],
            row["rows"]["keypoints"],
            row["rows"]["matches"],
        ]
        sizes = [
            row[f"{name}_bytes"] / 1e9 for name in ("anonymous", "resident", "database", "disk")
        ]
        cells = [f"{count:,}" for count in counts]
        cells += [row["version"], str(row["processes"]), f"{row['seconds']:.0f}"]
        cells += [f"{row[name] / row['pairs'] * 1e6:.0f}" for name in ("seconds", "cpu_seconds")]
        cells += [f"{size:.2f} GB" for size in sizes]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--pairs", type=int, nargs="+", default=[10_000, 100_000], help="sizes (%(default)s)"
    )
    parser.add_argument("--matches", type=int, default=300, help="inliers a pair (%(default)s)")
    parser.add_argument(
        "--processes", type=int, nargs="+", default=[0, 2], help="that merge (%(default)s)"
    )
    parser.add_argument("--before", type=Path, help="a checkout of an older version")
    parser.add_argument(
        "--scratch", type=Path, help="folder for runs and databases (default the temporary folder)"
    )
    options = parser.parse_args(arguments)
    scratch = options.scratch or Path(tempfile.gettempdir())
    rows: list[dict[str, Any]] = []
    for pairs in options.pairs:
        ways = options.processes, options.before
        for row in measure(pairs, options.matches, scratch, *ways):
            rows.append(row)
            lines = table(rows).splitlines()
            print("\n".join(lines[-1:] if rows[1:] else lines), flush=True)
    if options.out:
        write_results(options.out, {"rows": rows}, "pycolmap", "numpy", "pyarrow")
    return 0


if __name__ == "__main__":
    sys.exit(main())
