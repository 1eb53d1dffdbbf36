"""What matching a hundred million photographs would take: bytes, hours, shards and objects,
computed from unit costs; and what reconstructing up to a million of them in blocks would take.

    python benchmarks/scale/scale_plan.py                  prints the tables of results/scale.md
    python benchmarks/scale/scale_plan.py --write          writes them into it
    python benchmarks/scale/scale_plan.py --measure RUN    measures the unit costs anew

RUN is a finished run folder of real photographs made on this machine; its files and summary give
bytes and seconds. The network's operations are counted, and its CPU seconds taken, at 640×480 in
the published configuration, one thread, for pairs that match everywhere: an upper bound. The unit
costs are written to results/scale.json. Import costs are those that benchmarks/scale/importing.py
wrote to results/importing.json, those of a driver are of streaming.py, and those of blocks of
mapping.py; see `reconstruction_plan`. What is assumed and not measured stands in ASSUMED, and is
printed as such.

A table stands in results/scale.md between `<!-- NAME -->` and `<!-- end of NAME -->`.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a script sees its own folder only

from benchmarks.environment import PROJECT, argument_parser, write_results
from benchmarks.scale import importing, reconstruction_plan, streaming

RESULTS = PROJECT / "benchmarks" / "results"
DOCUMENT = RESULTS / "scale.md"
UNITS, IMPORTING, STREAMING = (
    RESULTS / f"{name}.json" for name in ("scale", "importing", "streaming")
)
MAPPING, REFINING = RESULTS / "mapping.json", RESULTS / "refining.json"
UNMEASURED = (
    "Not measured yet. `benchmarks/scale/mapping.py --sides 32 64 100` makes the numbers; `--out` "
    "has to name `mapping.json` in this folder.\n"
)

ASSUMED = {
    "images": 100_000_000,
    "pairs": 2_000_000_000,
    "matches a pair": 300,
    "MB a photograph": 1.5,
    "effective TFLOP/s of a GPU": 40.0,  # in float16; about a third of what an A10G's maker names
    "images a sub-model": 50_000,
    "kB a pair in the mapper": 24.0,  # COLMAP's, seen at 100,000 pairs of 500 matches
}
Row = tuple[str, str, str]  # what, arithmetic, result


def measure_files(run: Path) -> dict[str, float]:
    """Bytes of a finished run folder; CPU seconds of reading its photographs and verifying its
    pairs once more.
    """
    from pipeline.match.options import VerificationOptions
    from pipeline.match.verify import VerifyShard
    from pipeline.photos.source import read_image
    from pipeline.store.folder import Folder

    summary, described = (
        json.loads((run / f"{name}.json").read_text()) for name in ("summary", "run")
    )
    sizes = {
        kind: sum(path.stat().st_size for path in (run / kind).iterdir())
        for kind in ("matches", "images", "done")
    }
    folder, photographs = Folder(str(run)), Folder(described["images"])
    tables = [
        (folder.read_table(f"matches/{path.name}"), folder.read_table(f"images/{path.name}"))
        for path in (run / "images").iterdir()
    ]
    names = sorted({name for _, images in tables for name in images["image"].to_pylist()})
    started = time.process_time()
    for name in names:
        read_image(photographs, name)
    read = time.process_time()
    verify = VerifyShard(VerificationOptions(**described["options"]["verification"]))
    for matches, images in tables:
        verify(matches, images)
    return {
        "bytes a match": sizes["matches"] / summary["matches"],
        "bytes an image row": sizes["images"] / summary["encodes"],
        "bytes a marker": sizes["done"] / summary["shards"],
        "s to read an image": (read - started) / len(names),
        "s to verify a pair": (time.process_time() - read) / summary["pairs"],
    }


def measure_plan(images: int = 20_000) -> dict[str, float]:
    """A retrieval list of 20 neighbours cut into shards of the sizes for GPUs, and its bytes."""
    from benchmarks.scale.planning import retrieval
    from pipeline.match.plan import SHARD_SIZES
    from pipeline.match.shards import encodes, plan_shards, shards_table
    from pipeline.store.folder import Folder
    from pipeline.tables import PAIRS
    from pipeline.vocabulary import Device

    pairs = retrieval(images)
    started = time.process_time()
    shards = plan_shards(pairs, *SHARD_SIZES[Device.CUDA])
    seconds = time.process_time() - started
    names = np.array([f"{i % 1000:03}/{i:09}.jpg" for i in range(images)], dtype=object)
    listed = [
        pa.array(names[pairs[:, 0]]),
        pa.array(names[pairs[:, 1]]),
        pa.nulls(len(pairs), pa.float32()),
    ]
    with tempfile.TemporaryDirectory() as scratch:
        Folder(scratch).publish_table("plan.parquet", shards_table(names.tolist(), shards))
        Folder(scratch).publish_table("pairs.parquet", pa.table(listed, schema=PAIRS))
        plan, listing = (
            (Path(scratch) / f"{name}.parquet").stat().st_size for name in ("plan", "pairs")
        )
    return {
        "encodes an image": encodes(shards) / images,
        "pairs a shard": len(pairs) / len(shards),
        "µs to plan a pair": seconds / len(pairs) * 1e6,
        "bytes a planned pair": plan / len(pairs),
        "bytes a listed pair": listing / len(pairs),
    }


def measure_network(height: int = 480, width: int = 640) -> dict[str, float]:
    """Operations of an encode and of a pair, fusion of both whole images counted; CPU seconds where
    all cells match.
    """
    import torch

    from benchmarks.speed.images import texture
    from benchmarks.speed.matcher import operations, published
    from eloftr import Matcher, load_model

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        weights = published(Path(scratch))
        stages = operations(weights, height, width)
        matcher = Matcher(load_model(weights), torch.device("cpu"), torch.float32)
    found = {
        f"GFLOP {what}": sum(count for stage, count in stages.items() if stage.startswith(of)) / 1e9
        for what, of in (("an encode", "image:"), ("a pair", "pair:"))
    }
    image = texture(height, width, 0)[None]
    for _ in range(2):  # the first warms up
        started = time.process_time()
        features = matcher.encode(image)
        encoded = time.process_time()
        matcher.match_features(features, features)
        found |= {
            "CPU s an encode": encoded - started,
            "CPU s a pair": time.process_time() - encoded,
        }
    return found


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a result."""
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"]
    return rows


def measured_import() -> dict[str, float]:
    """Costs a pair of the largest import that was measured, and how memory grows with pairs."""
    rows = [row for row in rows_of(IMPORTING) if (row["version"], row["processes"]) == ("now", 2)]
    row = max(rows, key=lambda row: row["pairs"])
    slope, base = grown(rows, "anonymous_bytes")
    return {
        "pairs of the largest import": row["pairs"],
        "µs to import a pair": row["seconds"] / row["pairs"] * 1e6,
        "kB a pair in the database": row["database_bytes"] / row["pairs"] / 1e3,
        "kB a pair of disk": row["disk_bytes"] / row["pairs"] / 1e3,
        "GB of memory of that import": row["anonymous_bytes"] / 1e9,
        "kB a pair in the import": slope / 1e3,
        "GB of an import of no pairs": base / 1e9,
    }


def measured_driver() -> dict[str, float]:
    """How the memory of a process that drives a matching job grows with pairs."""
    slope, base = grown(rows_of(STREAMING), "driver_bytes_peak")
    return {"kB a pair in the driver": slope / 1e3, "GB of the driver of no pairs": base / 1e9}


def grown(rows: list[dict[str, Any]], what: str) -> tuple[float, float]:
    """Of a line through all rows: growth a pair, and the value without pairs."""
    slope, base = np.polyfit([row["pairs"] for row in rows], [row[what] for row in rows], 1)
    return float(slope), float(base)


def all_units() -> dict[str, float]:
    """All unit costs that matching and importing have."""
    units: dict[str, float] = json.loads(UNITS.read_text())["units"]
    return {**units, **measured_import(), **measured_driver()}


def plan(unit: dict[str, float], assumed: dict[str, float]) -> list[Row]:
    """The plan, a row a line: what, arithmetic, result."""
    images, pairs = assumed["images"], assumed["pairs"]
    encodes, shards = images * unit["encodes an image"], pairs / unit["pairs a shard"]
    models, pairs_a_model = (
        images / assumed["images a sub-model"],
        pairs / images * assumed["images a sub-model"],
    )
    rate, matches, photograph = (
        assumed[name]
        for name in ("effective TFLOP/s of a GPU", "matches a pair", "MB a photograph")
    )
    flop = encodes * unit["GFLOP an encode"] + pairs * unit["GFLOP a pair"]
    gpu_hours = flop / (rate * 1e3) / 3600
    read_hours, verify_hours = (
        encodes * unit["s to read an image"] / 3600,
        pairs * unit["s to verify a pair"] / 3600,
    )
    cpu_hours = (encodes * unit["CPU s an encode"] + pairs * unit["CPU s a pair"]) / 3600

    def product(count: float, name: str, scale: float, ending: str) -> tuple[str, str]:
        return (
            f"{number(count)} × {number(unit[name])} {name}",
            f"{number(count * unit[name] / scale)} {ending}",
        )

    return [
        (
            "photographs",
            f"{number(images)} × {number(photograph)} MB",
            f"{number(images * photograph / 1e6)} TB",
        ),
        ("pair lists", *product(pairs, "bytes a listed pair", 1e9, "GB")),
        (
            "sub-models, a run each",
            f"{number(images)} / {number(assumed['images a sub-model'])}",
            number(models),
        ),
        ("pairs of a run", f"{number(pairs)} / {number(models)}", number(pairs_a_model)),
        ("planning a run", *product(pairs_a_model, "µs to plan a pair", 1e6, "s")),
        (
            "shards",
            f"{number(pairs)} / {number(unit['pairs a shard'])} pairs a shard",
            number(shards),
        ),
        ("shards of a run", f"{number(shards)} / {number(models)}", number(shards / models)),
        ("objects", f"{number(shards)} × 3 (matches, images, marker)", number(shards * 3)),
        ("encodes", *(product(images, "encodes an image", 1, "")[0], number(encodes))),
        (
            "requests",
            f"{number(encodes)} reads + {number(shards * 3)} writes",
            number(encodes + shards * 3),
        ),
        (
            "bytes read",
            f"{number(encodes)} × {number(photograph)} MB",
            f"{number(encodes * photograph / 1e6)} TB",
        ),
        ("match tables", *product(pairs * matches, "bytes a match", 1e12, "TB")),
        ("image tables", *product(encodes, "bytes an image row", 1e9, "GB")),
        ("plans", *product(pairs, "bytes a planned pair", 1e9, "GB")),
        ("markers", *product(shards, "bytes a marker", 1e9, "GB")),
        (
            "network",
            f"{number(encodes)} × {number(unit['GFLOP an encode'])} GFLOP"
            f" + {number(pairs)} × {number(unit['GFLOP a pair'])} GFLOP",
            f"{number(flop / 1e9)} EFLOP",
        ),
        (
            "**GPU hours**",
            f"{number(flop / 1e9)} EFLOP / {number(rate)} TFLOP/s",
            f"{number(gpu_hours)} h",
        ),
        ("days on 100 GPUs", f"{number(gpu_hours)} h / 100 / 24", number(gpu_hours / 2400)),
        ("reading, CPU", *product(encodes, "s to read an image", 3600, "h")),
        ("verifying, CPU", *product(pairs, "s to verify a pair", 3600, "h")),
        (
            "CPU cores beside a GPU",
            f"({number(read_hours)} h + {number(verify_hours)} h) / {number(gpu_hours)} h",
            number((read_hours + verify_hours) / gpu_hours),
        ),
        (
            "without GPUs",
            f"{number(encodes)} × {number(unit['CPU s an encode'])} s"
            f" + {number(pairs)} × {number(unit['CPU s a pair'])} s",
            f"{number(cpu_hours)} core hours",
        ),
        ("import of a run", *product(pairs_a_model, "µs to import a pair", 6e7, "min")),
        ("its disk", *product(pairs_a_model, "kB a pair of disk", 1e6, "GB")),
        ("its database", *product(pairs_a_model, "kB a pair in the database", 1e6, "GB")),
        ("imports, CPU", *product(pairs, "µs to import a pair", 3.6e9, "h")),
        ("databases", *product(pairs, "kB a pair in the database", 1e9, "TB")),
        (
            "memory of a mapper",
            f"{number(pairs_a_model)} × {number(assumed['kB a pair in the mapper'])} kB",
            f"{number(pairs_a_model * assumed['kB a pair in the mapper'] / 1e6)} GB",
        ),
    ]


def number(value: float) -> str:
    """Three digits, with commas."""
    if value >= 999.5:
        digits = len(str(round(value))) - 3
        return f"{round(value / 10**digits) * 10**digits:,}"
    return f"{value:.3g}"


def tables(mapping: Path = MAPPING) -> dict[str, str]:
    """The tables of results/scale.md as Markdown, by their names."""
    unit = all_units()
    rows = [
        f"| {what} | {arithmetic} | {result} |" for what, arithmetic, result in plan(unit, ASSUMED)
    ]
    reconstruction = UNMEASURED
    if mapping.exists():
        measured = json.loads(mapping.read_text()), json.loads(REFINING.read_text())
        reconstruction = reconstruction_plan.tables(unit, *measured, number)
    return {
        "assumed": named(ASSUMED, "assumed"),
        "measured": named(unit, "measured"),
        "plan": "\n".join(["| what | arithmetic | |", "|---|---|---|", *rows]) + "\n",
        "reconstruction": reconstruction,
        "streams": streaming.table(rows_of(STREAMING)),
        "imports": importing.table(rows_of(IMPORTING)),
    }


def named(values: dict[str, float], heading: str) -> str:
    """A table of names and numbers."""
    lines = [f"| {name} | {number(value)} |" for name, value in values.items()]
    return "\n".join([f"| {heading} | |", "|---|---|", *lines]) + "\n"


def document(mapping: Path = MAPPING) -> str:
    """results/scale.md with its tables made anew."""
    text = DOCUMENT.read_text(encoding="utf-8")
    for name, table in tables(mapping).items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, found, rest = text.partition(begin)
        assert found, f"{DOCUMENT} has no {begin}"
        text = f"{before}{begin}\n\n{table.strip()}\n\n{end}{rest.partition(end)[2]}"
    return text


def main(arguments: list[str] | None = None) -> int:
    parser = argument_parser(__doc__, out=None)
    parser.add_argument(
        "--measure", type=Path, metavar="RUN", help="a finished run folder of real photographs"
    )
    parser.add_argument(
        "--mapping", type=Path, metavar="FILE", default=MAPPING, help="what mapping.py wrote"
    )
    parser.add_argument("--write", action="store_true", help="write the tables into the document")
    options = parser.parse_args(arguments)
    if options.measure:
        unit: dict[str, Any] = {
            **measure_files(options.measure),
            **measure_plan(),
            **measure_network(),
        }
        write_results(UNITS, {"units": unit}, "torch", "numpy", "pyarrow", "pillow", "pycolmap")
    if options.write:
        DOCUMENT.write_text(document(options.mapping), encoding="utf-8")
    print("\n".join(tables(options.mapping).values()), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
