"""A million pairs planned and streamed through the main job with a matcher that does nothing: time
and memory.

    python benchmarks/scale/streaming.py [--pairs 10000 100000] [--executor local] [--scratch
    FOLDER] [--out results.json]

Photographs of 64×48 pixels, each with its next 50, listed in Parquet, in shards as for a GPU.
Reading, verification, writing, markers and summary are the job's own; the matcher finds 100 matches
in every hundredth pair and none in others. Afterwards the rows of matches/ are compared with the
list. Each size has a process of its own, the driver: its peak memory is that of pair list, plan,
the executor's own books, the model's weights and torch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a script sees its own folder only

from benchmarks.environment import PROJECT, argument_parser, peak_memory, write_results
from pipeline.events import Event
from pipeline.execute.choose import make_executor
from pipeline.match.job import match_photographs
from pipeline.match.match import MatchedShard, MatchShard, matches_table
from pipeline.match.options import MatchingOptions, RunOptions
from pipeline.match.plan import SHARD_SIZES
from pipeline.match.read import DecodedShard
from pipeline.pairs.pair_list import pairs_table
from pipeline.store.folder import Folder
from pipeline.vocabulary import Device

NEXT = 50  # pairs an image begins
EVERY, MATCHES = 100, 100
LONG_SIDE = 64
DRIVER = "import sys; from benchmarks.scale.streaming import drive; drive(*sys.argv[1:])"
SIDES = ["image0", "image1"]


class NoMatcher(MatchShard):
    """Matches of a zoom for every hundredth pair of a shard, none for others."""

    def __init__(self, model: Any, options: MatchingOptions) -> None:
        pass

    def __call__(self, shard: DecodedShard, attempt: int = 1) -> MatchedShard:
        from eloftr import Matches

        rng = np.random.default_rng(int(shard.shard))
        found = {}
        for pair in range(0, len(shard.pairs), EVERY):
            points = rng.uniform(2, 40, (MATCHES, 2)).astype(np.float32)
            found[pair] = Matches(points, points * 1.1, np.ones(MATCHES, np.float32))
        names = [[shard.names[i] for i in side] for side in shard.pairs.T]
        matches = matches_table(names, [None] * len(shard.pairs), found)
        return MatchedShard(
            shard.shard, shard.images, matches, shard.failures, len(shard.pixels), shard.seconds
        )


def make_input(folder: Path, count: int) -> None:
    """`photos/` and `pairs.parquet`: as many pairs, of a fiftieth as many photographs."""
    (folder / "photos").mkdir()
    images = max(count // NEXT, 2 * NEXT + 1)
    names = [f"{k:06}.png" for k in range(images)]
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64), np.uint8)).save(
        folder / "one.png"
    )
    for name in names:
        os.link(folder / "one.png", folder / "photos" / name)
    gaps = [
        (gap, images - gap) for gap in range(1, 2 * NEXT)
    ]  # beyond 50 as many as the last images lack
    pairs = np.concatenate(
        [np.stack([np.arange(n), np.arange(n) + gap], axis=1) for gap, n in gaps]
    )[:count]
    Folder(str(folder)).publish_table("pairs.parquet", pairs_table(names, pairs))


def drive(folder: str, executor: str) -> None:
    """The job; prints its summary and the memory of this process before and at most, bytes, as
    JSON.
    """
    before = peak_memory()
    images, pairs = SHARD_SIZES[Device.CUDA]
    options = RunOptions(
        *(f"{folder}/photos", f"{folder}/run", f"{folder}/pairs.parquet"),
        matching=MatchingOptions(LONG_SIDE),
        max_images=images,
        max_pairs=pairs,
        turns=0,
        scales=0,
    )
    with make_executor(executor) as carrying:
        summary = match_photographs(options, carrying, listen=say, stage=NoMatcher)
    print(json.dumps({"summary": summary, "before": before, "peak": peak_memory()}))


def say(event: Event) -> None:
    """Print what the job says, beside its results."""
    print(event.text, file=sys.stderr, flush=True)


def count_rows(planned: pa.Table, run: Path) -> dict[str, int]:
    """Rows of matches/ against the list of pairs."""
    rows = ds.dataset(run / "matches").to_table(columns=SIDES)
    distinct = rows.group_by(SIDES).aggregate([([], "count_all")])
    lost = planned.select(SIDES).join(distinct, SIDES, join_type="left anti").num_rows
    doubled = pc.sum(pc.subtract(distinct["count_all"], 1)).as_py() or 0
    return {
        "expected": planned.num_rows,
        "present": rows.num_rows,
        "doubled": doubled,
        "lost": lost,
    }


def measure(count: int, executor: str, scratch: Path) -> dict[str, Any]:
    """Plan and stream so many pairs; what it took and what is there afterwards."""
    with tempfile.TemporaryDirectory(dir=scratch, prefix="streaming.") as place:
        folder, run = Path(place), Path(place) / "run"
        make_input(folder, count)
        started = time.monotonic()
        environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
        command = [sys.executable, "-c", DRIVER, place, executor]
        driver = subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=False)
        seconds = time.monotonic() - started
        if driver.returncode:
            raise SystemExit(
                f"streaming: the job ended with code {driver.returncode}; see its message above"
            )
        result = json.loads(driver.stdout)
        files = [path.stat().st_size for path in run.rglob("*") if path.is_file()]
        summary = result["summary"]
        return {
            "pairs": count,
            **{name: summary[name] for name in ("images", "shards", "encodes", "stage_seconds")},
            "files": len(files),
            "run_bytes": sum(files),
            "seconds": seconds,
            "executor": summary["session"]["executor"],
            "start_seconds": summary["session"]["start_seconds"],
            "driver_bytes_before": result["before"],
            "driver_bytes_peak": result["peak"],
            **count_rows(Folder(place).read_table("pairs.parquet"), run),
        }


def table(rows: list[dict[str, Any]]) -> str:
    """What was measured, as Markdown."""
    counts = ("pairs", "images", "shards", "files")
    fates = ("expected", "present", "doubled", "lost")
    lines = [f"| {' | '.join([*counts, 'seconds', 'pairs/s', 'memory of the driver', *fates])} |"]
    lines.append("|" + "---|" * (len(counts) + 3 + len(fates)))
    for row in rows:
        cells = [f"{row[name]:,}" for name in counts] + [f"{row['seconds']:.0f}"]
        cells += [
            f"{row['pairs'] / row['seconds']:,.0f}",
            f"{row['driver_bytes_peak'] / 1e9:.2f} GB",
        ]
        lines.append(f"| {' | '.join([*cells, *(f'{row[name]:,}' for name in fates)])} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--pairs", type=int, nargs="+", default=[10_000, 100_000], help="sizes (%(default)s)"
    )
    parser.add_argument(
        "--executor", choices=("local", "ray"), default="ray", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--scratch",
        type=Path,
        help="folder for photographs and runs (default the temporary folder)",
    )
    options = parser.parse_args(arguments)
    scratch = options.scratch or Path(tempfile.gettempdir())
    rows = [measure(count, options.executor, scratch) for count in options.pairs]
    print(table(rows), end="")
    if options.out:
        write_results(options.out, {"rows": rows}, "ray", "pyarrow", "torch", "pycolmap", "numpy")
    return 0


if __name__ == "__main__":
    sys.exit(main())
