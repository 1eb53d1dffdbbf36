"""How often an image is encoded: the planned shards against the lower bound and against the pairs
in the order given.

    python benchmarks/scale/planning.py [--quick] [--out results.json]

exhaustive   all pairs
sequential   every image with its 10 next ones
retrieval    every image with its 20 nearest of a city that is walked through at random; names in no
             order

as given: shards of as many pairs, cut from the list as a program that does not plan would write it.
Retrieval lists are written query by query. Every plan is checked: each pair once, no shard above
its bounds. Seconds are of one core.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a script sees its own folder only

from benchmarks.environment import argument_parser, peak_memory, write_results
from pipeline.match.shards import Shard, encodes, lower_bound, plan_shards

MAX_IMAGES, MAX_PAIRS = 128, 1024
WINDOW, TOP_K = 10, 20


def exhaustive(images: int) -> np.ndarray:
    """(N, 2) int64: all pairs, row by row."""
    return np.stack(np.triu_indices(images, 1), axis=1)


def sequential(images: int) -> np.ndarray:
    """(N, 2) int64: every image with the WINDOW that follow."""
    first = np.repeat(np.arange(images), WINDOW)
    pairs = np.stack([first, first + np.tile(np.arange(1, WINDOW + 1), images)], axis=1)
    return pairs[pairs[:, 1] < images]


def retrieval(images: int) -> np.ndarray:
    """(N, 2) int64: places in the plane, each with its TOP_K nearest, without repeats; names are
    shuffled.
    """
    rng = np.random.default_rng(0)
    streets = max(1, images // 50)
    corners, headings = (
        rng.uniform(0, streets**0.5, (streets, 2)),
        rng.uniform(0, 2 * np.pi, streets),
    )
    along = rng.uniform(-0.5, 0.5, images)
    street = rng.integers(streets, size=images)
    places = (
        corners[street]
        + along[:, None] * np.stack([np.cos(headings), np.sin(headings)], axis=1)[street]
    )
    nearest = []
    for start in range(0, images, 500):
        squared = ((places[start : start + 500, None] - places[None]) ** 2).sum(-1)
        squared[np.arange(len(squared)), np.arange(start, start + len(squared))] = np.inf
        nearest.append(
            np.argpartition(squared, TOP_K, axis=1)[:, :TOP_K].copy()
        )  # a view would keep the whole
    pairs = np.stack([np.repeat(np.arange(images), TOP_K), np.concatenate(nearest).ravel()], axis=1)
    _, first = np.unique(np.sort(pairs, axis=1), axis=0, return_index=True)
    return pairs[np.sort(first)]


def as_given(pairs: np.ndarray) -> int:
    """Encodes of shards cut from the list as it is, within the same bounds."""
    total, start = 0, 0
    while start < len(pairs):
        stop = min(start + MAX_PAIRS, len(pairs))
        _, met = np.unique(pairs[start:stop].ravel(), return_index=True)
        met.sort()  # where in the shard each of its images is met first
        if len(met) > MAX_IMAGES:
            stop = start + int(met[MAX_IMAGES]) // 2
        total += len(np.unique(pairs[start:stop]))
        start = stop
    return total


def check(pairs: np.ndarray, shards: list[Shard]) -> None:
    """Raises AssertionError where a pair is missing or doubled or a bound exceeded."""
    assert all(
        len(shard.images) <= MAX_IMAGES and len(shard.pairs) <= MAX_PAIRS for shard in shards
    )
    planned = np.concatenate([shard.images[shard.pairs] for shard in shards]).astype(np.int64)
    wanted = np.sort(pairs, axis=1)
    assert np.array_equal(np.unique(planned, axis=0), np.unique(wanted, axis=0)), (
        "other pairs than those given"
    )
    assert len(planned) == len(wanted), "a pair is planned twice"


def measure(name: str, images: int, pairs: np.ndarray) -> dict[str, Any]:
    start = time.process_time()
    shards = plan_shards(pairs, MAX_IMAGES, MAX_PAIRS)
    seconds = time.process_time() - start
    check(pairs, shards)
    return {
        "list": name,
        "images": images,
        "pairs": len(pairs),
        "shards": len(shards),
        "planned": encodes(shards) / images,
        "bound": lower_bound(images, len(pairs), MAX_IMAGES, MAX_PAIRS) / images,
        "as_given": as_given(pairs) / images,
        "seconds": seconds,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="lists of up to 2,000 images")
    options = parser.parse_args(arguments)
    sizes = {
        "exhaustive": (200, 1_415),
        "sequential": (200, 2_000, 20_000),
        "retrieval": (200, 2_000, 20_000),
    }
    makers = {"exhaustive": exhaustive, "sequential": sequential, "retrieval": retrieval}
    print(
        "list             images      pairs  shards"
        "   encodes an image: planned / least / as given   seconds"
    )
    rows = []
    for name, counts in sizes.items():
        for images in counts:
            if options.quick and images > 2_000:
                continue
            row = measure(name, images, makers[name](images))
            rows.append(row)
            print(
                f"{name:12} {images:10,} {row['pairs']:10,} {row['shards']:7,}"
                f"   {row['planned']:25.2f} / {row['bound']:5.2f} / {row['as_given']:8.2f}"
                f" {row['seconds']:9.2f}",
                flush=True,
            )
    peak = peak_memory()
    print(
        f"shards of at most {MAX_IMAGES} images and {MAX_PAIRS:,} pairs; "
        f"peak memory {peak / 1e9:.2f} GB"
    )
    if options.out:
        bounds = {"images": MAX_IMAGES, "pairs": MAX_PAIRS}
        write_results(options.out, {"bounds": bounds, "peak_bytes": peak, "rows": rows}, "numpy")
    return 0


if __name__ == "__main__":
    sys.exit(main())
