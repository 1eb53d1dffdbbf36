"""A model that grows against one that is made of all photographs at once.

    python benchmarks/quality/growing.py --data FOLDER [--work FOLDER [--judge]] [--out FILE]

Of fox50, every fifth photograph is held back, ten of fifty. The other forty are matched and
reconstructed. Then the ten are added, and the model grows. The model to compare with is made from
scratch of one run of all photographs. Candidates are the pairs of the set's own list.

first, grown, one    the largest models of forty, of fifty grown, and of fifty in one run
rotation, pairs, position    see `reconstruction.py`, against the poses of the set
measured    observations of both rounds of refining together, without those that were kept
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a script sees its own folder only

import pipeline
from benchmarks.environment import argument_parser, write_results
from benchmarks.quality.reconstruction import load_truth, measure, say
from pipeline.match.turns.tries import settled_matches
from pipeline.store.folder import Folder
from pipeline.tables import PAIRS

SET, EVERY, FIRST = "fox50", 5, 2
TARGET = 1.1
Record = dict[str, Any]


def candidates(data: Path) -> list[tuple[str, str]]:
    """The pairs of the set's list."""
    listed = json.loads((data / SET / "pairs.json").read_text())
    return sorted((pair["image0"], pair["image1"]) for pair in listed)


def table(pairs: list[tuple[str, str]]) -> pa.Table:
    columns = [*zip(*pairs, strict=True), [None] * len(pairs)]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, PAIRS, strict=True)]
    return pa.Table.from_arrays(arrays, schema=PAIRS)


def matched(run: Path) -> set[tuple[str, str]]:
    """The pairs of a run."""
    found: set[tuple[str, str]] = set()
    for _, rows in settled_matches(Folder(str(run)), ("image0", "image1")):
        found |= {*zip(rows["image0"].to_pylist(), rows["image1"].to_pylist(), strict=True)}
    return found


def measured(output: Path) -> Record:
    """What refining the first model of some results measured, in both rounds together."""
    rounds = sorted((output / "refine" / "0").glob("round-*"))
    tables = [path for folder in rounds for path in folder.glob("image-*.parquet")]
    kept = [folder / "kept.parquet" for folder in rounds if (folder / "kept.parquet").is_file()]
    return {
        "references": len(tables),
        "observations": sum(pq.read_metadata(path).num_rows for path in tables),
        "kept": sum(pq.read_metadata(path).num_rows for path in kept),
    }


def errors(record: Record) -> Record:
    """Medians of the errors of a model."""
    kinds = {"rotation": "rotation_deg", "pairs": "pairs_deg", "position": "position"}
    return {
        name: float(np.median(list(record.get(key, {"": np.nan}).values())))
        for name, key in kinds.items()
    }


def make(data: Path, work: Path) -> None:
    """Make the three models in a folder, below `run`, `grown` and `one`."""
    truth, _ = load_truth(data / SET)
    pairs = candidates(data)
    held = sorted(truth.poses)[FIRST::EVERY]
    photographs = work / "photographs"
    photographs.mkdir(parents=True, exist_ok=True)
    for name in truth.poses:
        if name in held:  # of a benchmark that goes on
            (photographs / name).unlink(missing_ok=True)
        else:
            shutil.copy(truth.images / name, photographs / name)
    how: Record = {"executor": "local", "progress": say}
    first, grown, one = (work / name for name in ("run", "grown", "one"))
    old = table([pair for pair in pairs if not {*pair} & {*held}])
    pipeline.match(photographs, first, pairs=old, **how)
    pipeline.reconstruct(str(first), first / "sfm", **how)
    for name in held:
        shutil.copy(truth.images / name, photographs / name)
    model = first / "sfm" / "sparse" / "0"
    given: Record = {"model": model, "images": photographs, "pairs": table(pairs)}
    pipeline.grow(str(first), grown, **given, **how)
    pipeline.match(photographs, one, pairs=table(pairs), **how)
    pipeline.reconstruct(str(one), one / "sfm", **how)


def judged(data: Path, work: Path) -> Record:
    """Compare the three models of a folder."""
    truth, _ = load_truth(data / SET)
    held = sorted(truth.poses)[FIRST::EVERY]
    models = {"first": work / "run" / "sfm", "grown": work / "grown", "one": work / "one" / "sfm"}
    records = {name: measure(output / "sparse" / "0", truth) for name, output in models.items()}
    medians = {name: errors(record) for name, record in records.items()}
    runs = [matched(folder) for folder in (work / "run", work / "grown" / "run")]
    registered = records["grown"].get("rotation_deg", {})
    return {
        "settings": {"set": SET, "held": held, "target": TARGET},
        "pairs": {
            "candidates": len(candidates(data)),
            "first": len(runs[0]),
            "grown": len(runs[1]),
            "twice": len(runs[0] & runs[1]),
        },
        "registered": [name for name in held if name in registered],
        "models": {
            name: {
                **{key: value for key, value in records[name].items() if np.isscalar(value)},
                "median": medians[name],
                "measured": measured(models[name]),
            }
            for name in models
        },
        "ratio": {kind: medians["grown"][kind] / medians["one"][kind] for kind in medians["grown"]},
    }


def shown(results: Record) -> str:
    """The table."""
    lines = [
        "| model | images | points | track | px | rotation ° | pairs ° | position % | measured |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, record in results["models"].items():
        median, work = record["median"], record["measured"]
        lines.append(
            f"| {name} | {record['registered']}/{record['of']} | {record['points']:,} "
            f"| {record['track_length']:.2f} | {record['reprojection_px']:.3f} "
            f"| {median['rotation']:.4f} | {median['pairs']:.4f} "
            f"| {100 * median['position']:.4f} | {work['observations']:,} |"
        )
    ratios = ", ".join(f"{kind} {value:.3f}" for kind, value in results["ratio"].items())
    return "\n".join(
        [*lines, f"ratios: {ratios}; pairs matched twice: {results['pairs']['twice']}"]
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argument_parser(__doc__)
    add = parser.add_argument
    add("--data", type=Path, required=True, help=f"folder that holds {SET}")
    add("--work", type=Path, help="keep runs and models here, and go on with them")
    add("--judge", action="store_true", help="only compare the models that --work holds")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work or Path(scratch)
        if not options.judge:
            make(options.data, work)
        results = judged(options.data, work)
    print(shown(results))
    if options.out:
        write_results(options.out, results, "torch", "pycolmap", "numpy")
    return 0


if __name__ == "__main__":
    sys.exit(main())
