"""A million pairs planned and streamed through the main job with a matcher that does nothing: time and memory.

    python benchmarks/streaming.py [--quick] [--out results.json]

20,000 images of 64×48 pixels, each with its next 50, listed in Parquet: 1,000,000 pairs in shards as for a GPU.
Reading, verification, writing, markers and summary are the job's own; the matcher finds 100 matches in every hundredth
pair and none in others. Every planned pair must have one row at the end. Peak memory is that of the driver's process:
pair list, plan, Ray's driver, the model's weights and torch.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
from PIL import Image

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))  # a script sees its own folder only

from benchmarks.environment import commit, versions  # noqa: E402
from pipeline.dataflow import match_dataset  # noqa: E402
from pipeline.matching import DecodedShard, MatchedShard, MatchingOptions, MatchShard, matches_table  # noqa: E402
from pipeline.pairs import pairs_table  # noqa: E402
from pipeline.run import RunOptions  # noqa: E402
from pipeline.storage import Folder  # noqa: E402

IMAGES, PAIRS, WINDOW = 20_000, 1_000_000, 50
QUICK = 100  # times fewer
EVERY, MATCHES = 100, 100
LONG_SIDE = 64


class NoMatcher(MatchShard):
    """Matches of a zoom for every hundredth pair of a shard, none for others."""

    def __init__(self, model: Any, options: MatchingOptions) -> None:
        pass

    def __call__(self, shard: DecodedShard, attempt: int = 1) -> MatchedShard:
        from eloftr.matcher import Matches

        rng = np.random.default_rng(int(shard.shard))
        found = {}
        for pair in range(0, len(shard.pairs), EVERY):
            points = rng.uniform(2, 40, (MATCHES, 2)).astype(np.float32)
            found[pair] = Matches(points, points * 1.1, np.ones(MATCHES, np.float32))
        names = [[shard.names[i] for i in side] for side in shard.pairs.T]
        matches = matches_table(names, [None] * len(shard.pairs), found)
        return MatchedShard(shard.shard, shard.images, matches, shard.failures, len(shard.pixels), shard.seconds)


def make_input(folder: Path, images: int, count: int) -> tuple[Path, Path]:
    """The photographs' folder and the list of pairs."""
    photos = folder / "photos"
    photos.mkdir()
    names = [f"{k:06}.png" for k in range(images)]
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64), np.uint8)).save(folder / "one.png")
    for name in names:
        os.link(folder / "one.png", photos / name)
    gaps = [(gap, images - gap) for gap in range(1, WINDOW + 2)]  # and as many of the next gap as are missing
    pairs = np.concatenate([np.stack([np.arange(n), np.arange(n) + gap], axis=1) for gap, n in gaps])[:count]
    Folder(str(folder)).publish_table("pairs.parquet", pairs_table(names, pairs))
    return photos, folder / "pairs.parquet"


def peak() -> int:
    """Bytes of this process's memory at its largest."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def count_rows(run: Path) -> tuple[int, int]:
    """Rows of matches/, and distinct pairs among them."""
    table = ds.dataset(run / "matches").to_table(columns=["image0", "image1"])
    return table.num_rows, table.group_by(["image0", "image1"]).aggregate([]).num_rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} times fewer images and pairs")
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    options = parser.parse_args(arguments)
    images, count = (IMAGES // QUICK, PAIRS // QUICK // 2) if options.quick else (IMAGES, PAIRS)
    with tempfile.TemporaryDirectory() as scratch:
        photos, pairs = make_input(Path(scratch), images, count)
        before, started = peak(), time.monotonic()
        run = Path(scratch) / "run"
        asked = RunOptions(
            *(str(photos), str(run), str(pairs)),
            matching=MatchingOptions(LONG_SIDE),
            max_images=128,
            max_pairs=1024,
        )
        summary = match_dataset(asked, stage=NoMatcher)
        seconds, after = time.monotonic() - started, peak()
        rows, distinct = count_rows(run)
        files = sum(len(names) for _, _, names in os.walk(run))
        size = sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
    if not rows == distinct == summary["pairs"] == count:
        raise SystemExit(f"streaming: {rows} rows and {distinct} distinct pairs of {count}")
    table = {
        "images": images,
        "pairs": count,
        "shards": summary["shards"],
        "reads": summary["encodes"],
        "files": files,
        "run_bytes": size,
        "seconds": round(seconds, 1),
        "pairs_per_second": round(count / seconds),
        "driver_bytes_before": before,
        "driver_bytes_peak": after,
    }
    for name, value in table.items():
        print(f"{name:20} {value:16,}")
    if options.out:
        results = {
            **table,
            "stage_seconds": summary["stage_seconds"],
            "versions": versions("ray", "pyarrow", "torch", "pycolmap", "numpy"),
            "cpus": os.cpu_count(),
            "commit": commit(),
        }
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
