"""Time and memory of making pair lists: each way by itself, in a process of its own.

    python benchmarks/scale/pair_lists.py [--images 10000 100000] [--only retrieval] [--out
    results.json]

exhaustive   all pairs; where they are more than a list may hold, only counted
sequential   every image with the 10 that follow and those 1, 2, 4, … 512 on
retrieval    the 20 most similar of each, of 256 numbers an image in clusters of 50, by blocks
spatial      the 20 nearest of each, of places spread over a square of 100 m² an image
write        the list of retrieval, or a random one of as many pairs, as Parquet and as text

Seconds are of the wall clock with as many threads as OMP_NUM_THREADS says. `memory` is the peak of
the process above what it held before the work began, its input included. On a GPU where there is
one: its memory is not counted.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a script sees its own folder only

from benchmarks.environment import argument_parser, write_results
from pipeline.pairs.descriptors import Descriptors
from pipeline.pairs.formats import MOST, of_pairs, write_list
from pipeline.pairs.pair_list import exhaustive
from pipeline.pairs.retrieval import similar
from pipeline.pairs.sequential import overlaps, sequences
from pipeline.pairs.spatial import Positions, neighbours

DIMENSIONS, CLUSTER, TOP_K, WINDOW = 256, 50, 20, 10


def names_of(images: int) -> list[str]:
    return [f"street{number // 1000:03}/{number:07}.jpg" for number in range(images)]


def exhaustive_list(images: int) -> tuple[float, int]:
    started = time.perf_counter()
    count = images * (images - 1) // 2
    if count <= MOST:
        count = len(exhaustive(images))
    return time.perf_counter() - started, count


def sequential_list(images: int) -> tuple[float, int]:
    names = names_of(images)
    started = time.perf_counter()
    found = overlaps(sequences(names, across_folders=True), WINDOW, quadratic=True)
    return time.perf_counter() - started, len(found.pairs)


def retrieval_list(images: int) -> tuple[float, int]:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(max(1, images // CLUSTER), DIMENSIONS)).astype(np.float32)
    vectors = centres[rng.integers(len(centres), size=images)]
    vectors += rng.normal(scale=0.5, size=vectors.shape).astype(np.float32)
    described = Descriptors(names_of(images), vectors)
    if torch.cuda.is_available():
        torch.zeros(1, device="cuda")  # starting CUDA is no part of the search
    started = time.perf_counter()
    found = similar(described, TOP_K)
    return time.perf_counter() - started, len(found.pairs)


def spatial_list(images: int) -> tuple[float, int]:
    places = np.random.default_rng(0).uniform(0, 10 * images**0.5, (images, 3)) * [1, 1, 0]
    positions = Positions(names_of(images), places)
    started = time.perf_counter()
    found = neighbours(positions, TOP_K)
    return time.perf_counter() - started, len(found.pairs)


def write(images: int, ending: str) -> tuple[float, int]:
    rng = np.random.default_rng(0)
    first = np.repeat(np.arange(images), TOP_K * 3 // 4)
    second = (first + rng.integers(1, images, size=len(first))) % images
    found = of_pairs(first, second, rng.uniform(size=len(first)).astype(np.float32))
    names = names_of(images)
    with tempfile.TemporaryDirectory() as scratch:
        started = time.perf_counter()
        write_list(f"{scratch}/pairs{ending}", names, found)
        return time.perf_counter() - started, len(found.pairs)


def write_parquet(images: int) -> tuple[float, int]:
    return write(images, ".parquet")


def write_text(images: int) -> tuple[float, int]:
    return write(images, ".txt")


WORK: dict[str, Callable[[int], tuple[float, int]]] = {
    "exhaustive": exhaustive_list,
    "sequential": sequential_list,
    "retrieval": retrieval_list,
    "spatial": spatial_list,
    "write .parquet": write_parquet,
    "write .txt": write_text,
}


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measured(name: str, images: int) -> dict[str, Any]:
    before = peak()
    seconds, pairs = WORK[name](images)
    return {
        "list": name,
        "images": images,
        "pairs": pairs,
        "seconds": seconds,
        "memory_bytes": peak() - before,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument(
        "--only", nargs="+", choices=WORK, default=[*WORK], help="some of the lists"
    )
    options = parser.parse_args(arguments)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    print(f"on {device}, {torch.get_num_threads()} threads")
    print("list               images          pairs   seconds   memory MB")
    rows = []
    for name in options.only:
        for images in options.images:
            with multiprocessing.get_context("spawn").Pool(
                1
            ) as alone:  # its peak is of this work only
                row = alone.apply(measured, (name, images))
            rows.append(row)
            numbers = f"{row['pairs']:15,}{row['seconds']:10.2f}{row['memory_bytes'] / 1e6:12,.0f}"
            print(f"{name:14}{images:11,}{numbers}", flush=True)
    if options.out:
        results = {"device": device, "threads": torch.get_num_threads(), "rows": rows}
        write_results(options.out, results, "torch", "numpy", "scipy", "pyarrow")
    return 0


if __name__ == "__main__":
    sys.exit(main())
