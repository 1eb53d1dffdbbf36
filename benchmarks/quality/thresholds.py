"""What the lowest score of a match decides: right matches, poses, and pairs that are verified.

    pip install .[test]
    python benchmarks/quality/thresholds.py --thresholds 0.2 0.1 0.05 --out results.json

matches, right %, AUC   as in quality.py, on at most `--pairs` pairs of each set
verified %              share of the same pairs that `eloftr match` verifies, without known cameras
apart                   pairs of photographs of two sets, of which none can be right, that it
                        verifies

The network's work is the same for every threshold. A lower one keeps more matches, so refinement,
verification and everything after them take longer.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a script sees its own folder only

import pipeline
from benchmarks.environment import commit, versions
from benchmarks.quality.datasets import LISTED, Pair, load_pairs, thinned
from benchmarks.quality.judging import AUC_DEGREES, Record, intervals, summarise
from benchmarks.quality.quality import evaluate_set
from benchmarks.quality.sets import add_matching, aligned, chosen, exit_code, report, sets_parser
from eloftr import load_matcher
from pipeline.match.turns.tries import settled_matches
from pipeline.pairs.pair_list import pairs_table
from pipeline.store.folder import Folder
from pipeline.vocabulary import VERIFIED

THRESHOLDS = (0.2, 0.1, 0.05)
SEED = 0


def pairs_apart(sets: dict[str, list[Pair]], number: int) -> list[tuple[str, str]]:
    """Photographs of two sets, drawn at random, as `SET/images/NAME`."""
    drawn = random.Random(SEED)
    names = {
        name: sorted({f"{name}/images/{side}" for pair in pairs for side in pair.names})
        for name, pairs in sets.items()
    }
    if len(names) < 2:
        return []
    apart: set[tuple[str, str]] = set()
    while len(apart) < number:
        first, second = sorted(drawn.sample(sorted(names), 2))
        apart.add((drawn.choice(names[first]), drawn.choice(names[second])))
    return sorted(apart)


def verified(
    data: Path, pairs: list[tuple[str, str]], options: argparse.Namespace, threshold: float
) -> set[tuple[str, str]]:
    """Those of the pairs, by names below `data`, that a run verifies."""
    names = sorted({name for pair in pairs for name in pair})
    number = {name: k for k, name in enumerate(names)}
    table = pairs_table(names, np.array([[number[name] for name in pair] for pair in pairs]))
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / "run"
        pipeline.match(
            images=str(data),
            output=str(run),
            pairs=table,
            weights=options.weights,
            long_side=options.long_side,
            threshold=threshold,
            turns="off",
            scales="off",
        )
        columns = ("image0", "image1", "geometry")
        rows = pa.concat_tables(
            table for _, table in settled_matches(Folder(str(run)), columns)
        ).to_pylist()
    good = {
        frozenset((row["image0"], row["image1"])) for row in rows if row["geometry"] in VERIFIED
    }
    return {pair for pair in pairs if frozenset(pair) in good}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Judge every threshold, print the table, write the JSON and return what it holds."""
    folders = chosen(options)
    sets = {name: thinned(load_pairs(folder), options.pairs) for name, folder in folders.items()}
    (data,) = {folder.parent for folder in folders.values()}
    apart = pairs_apart(sets, options.pairs)
    listed = {
        (f"{name}/images/{pair.image0}", f"{name}/images/{pair.image1}"): name
        for name, pairs in sets.items()
        for pair in pairs
    }
    found: dict[str, Any] = {}
    for threshold in options.thresholds:
        matcher = load_matcher(options.weights, threshold=threshold)
        held = verified(data, [*listed, *apart], options, threshold)
        of_sets = {}
        for name, pairs in sets.items():
            how = folders[name], pairs, options.long_side, matcher
            no_sift: dict[tuple[str, str], Record] = {pair.names: {} for pair in pairs}
            records = [record["ours"] for record in evaluate_set(*how, known=no_sift)]
            good = sum(listed.get(pair) == name for pair in held)
            of_sets[name] = {
                "pairs": len(pairs),
                **summarise(records),
                "verified": good / len(pairs),
                "intervals": intervals(records),
            }
        wrong = len(held.intersection(apart))
        found[f"{threshold:g}"] = {"sets": of_sets, "apart": len(apart), "apart_verified": wrong}
    settings = {name: getattr(options, name) for name in ("weights", "long_side", "pairs")}
    results = {
        "settings": settings,
        "versions": versions("torch", "numpy", "pycolmap", "opencv-python-headless"),
        "commit": commit(),
        "thresholds": found,
    }
    report(results, table_of(found), options.out)
    return results


def table_of(found: dict[str, Any]) -> str:
    """A Markdown table with a row for every threshold of every set."""
    rows = [["set", "lowest score", "matches", "right %", "AUC@5°", "AUC@20°", "verified %"]]
    for name in next(iter(found.values()))["sets"]:
        for threshold, judged in found.items():
            one = judged["sets"][name]
            least, _, most = AUC_DEGREES
            aucs = [
                f"{100 * one[f'auc{d}']:.1f}" if f"auc{d}" in one else "–" for d in (least, most)
            ]
            cells = [f"{one['matches']:.0f}", f"{100 * one['share']:.1f}", *aucs]
            rows.append([name, threshold, *cells, f"{100 * one['verified']:.0f}"])
    for threshold, judged in found.items():
        wrong = f"{judged['apart_verified']} of {judged['apart']}"
        rows.append(["apart", threshold, "", "", "", "", wrong])
    return aligned(rows)


def main(arguments: list[str] | None = None) -> int:
    out = "write the numbers, the settings and the versions as JSON"
    parser = sets_parser(__doc__, LISTED, out)
    add_matching(parser)
    add = parser.add_argument
    add("--thresholds", nargs="+", type=float, default=THRESHOLDS, help="(default: %(default)s)")
    add("--pairs", type=int, default=40, help="at most, of a set (default: %(default)s)")
    return exit_code("thresholds", run, parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
