"""Retrieval before and after reranking on photographs with a truth, and what an early stop saves.

    python benchmarks/quality/reranking.py --data FOLDER [--queries N] [--long-side 320] [--executor
    ray]
        [--keep FOLDER] [--out results.json]
    python benchmarks/quality/reranking.py --table results.json

FOLDER holds `retrieval.json`: queries, database and the true images of every query, names relative
to it. Candidates are the nearest by this project's own pooled descriptor, every query against the
database without itself. They are matched by the reranking job's function, twice: all of them, and
with an early stop for the first place. What the other rows differ in (gate, score, saturation)
needs no new matches. A set is the first folder of a query's name. Its seconds are those of a third
run, of its queries alone against the whole database, from start to end with the start of the
executor; it must give the ranking that they have among all. `--table` prints the document's table
from the results.

The gate is the job's default, the least inliers of a verified pair, chosen before and not by these
photographs. The other gates show how much hangs on it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a script sees its own folder only

import pipeline
from benchmarks.environment import argument_parser, write_results
from eloftr import load_model
from pipeline.execute.choose import EXECUTORS
from pipeline.pairs.descriptors import Descriptors, describe_images
from pipeline.pairs.formats import write_candidates
from pipeline.pairs.retrieval import candidates_of
from pipeline.rerank.evaluation import MEASURES, judge, measured, table_text
from pipeline.rerank.job import RerankSummary
from pipeline.store.folder import Folder
from pipeline.tables import CANDIDATES

GATES = (0, 10, 25, 50, 100)  # the third is the default
SATURATION, TOP = 100.0, 1
ALL = "all"


def set_of(name: str) -> str:
    return name.partition("/")[0]


def of_set(table: pa.Table, name: str) -> pa.Array:
    """Which rows are of a set's queries."""
    return pc.starts_with(table["query"], f"{name}/")


def retrieve(
    data: Path, queries: list[str], database: list[str], top_k: int, folder: Path
) -> float:
    """Write the nearest of every query among the database, itself left out: of all queries, and of
    each set's.

    Returns the seconds it took.
    """
    started = time.monotonic()
    found = describe_images(Folder(str(data)), load_model("small"), sorted({*queries, *database}))
    row = {name: k for k, name in enumerate(found.names)}
    sides = ([name for name in side if name in row] for side in (queries, database))
    asked, known = (
        Descriptors(names, found.vectors[[row[name] for name in names]]) for names in sides
    )
    at = {name: k for k, name in enumerate(known.names)}
    listed = candidates_of(
        asked, known, np.array([at.get(name, -1) for name in asked.names]), top_k
    )
    table = pa.table([listed.query, listed.candidate, listed.score], schema=CANDIDATES)
    write_candidates(folder / f"{ALL}.parquet", table)
    for name in {set_of(query) for query in queries}:
        write_candidates(folder / f"{name}.parquet", table.filter(of_set(table, name)))
    return time.monotonic() - started


def by_set(
    ranking: Path, positives: dict[str, list[str]], before: bool = False
) -> dict[str, np.ndarray]:
    """Values of every query (Q, measures) by set, from a ranking that was written; before: by
    retrieval's ranks.
    """
    table = pq.read_table(ranking)
    names = table["query"].to_pylist()
    queries = sorted(set(names))
    number = {name: k for k, name in enumerate(queries)}
    true = np.array(
        [c in positives[q] for q, c in zip(names, table["candidate"].to_pylist(), strict=True)]
    )
    rank = table["retrieval_rank" if before else "rank"].to_numpy()
    counts = np.array([len(set(positives[name]) - {name}) for name in queries])
    values = judge(np.array([number[name] for name in names]), rank, true, counts).values
    sets = np.array([set_of(name) for name in queries])
    return {ALL: values} | {str(name): values[sets == name] for name in np.unique(sets)}


def check_firsts(full: Path, early: Path) -> None:
    """Raises SystemExit where two rankings have other first places."""
    one, other = (
        {
            row["query"]: row["candidate"]
            for row in pq.read_table(ranking).to_pylist()
            if row["rank"] == 1
        }
        for ranking in (full, early)
    )
    if one != other:
        raise SystemExit("reranking: the early stop gives other first places than all candidates")


def pairs_by_set(ranking: Path) -> dict[str, int]:
    """Distinct pairs with a result, by the set of the query; a pair of two sets counts in both."""
    rows = [row for row in pq.read_table(ranking).to_pylist() if row["num_inliers"] is not None]
    pairs = {(set_of(row["query"]), *sorted((row["query"], row["candidate"]))) for row in rows}
    counts = {ALL: len({pair[1:] for pair in pairs})}
    for name, *_ in sorted(pairs):
        counts[name] = counts.get(name, 0) + 1
    return counts


def verified(ranking: Path, positives: dict[str, list[str]]) -> dict[str, dict[str, int]]:
    """How many of the true and of the false candidates were verified, and the most inliers that any
    of them has.
    """
    rows = pq.read_table(ranking).to_pylist()
    sides: dict[str, list[int]] = {"true": [], "false": []}
    for row in rows:
        sides["true" if row["candidate"] in positives[row["query"]] else "false"].append(
            row["num_inliers"] or 0
        )
    return {
        side: {
            "candidates": len(counts),
            "verified": sum(map(bool, counts)),
            "most_inliers": max(counts, default=0),
        }
        for side, counts in sides.items()
    }


class Measured:
    """Rerankings of one list of candidates, each judged from the ranking it wrote."""

    def __init__(
        self,
        data: Path,
        folder: Path,
        positives: dict[str, list[str]],
        long_side: int,
        executor: str,
    ) -> None:
        self.data, self.folder, self.positives, self.long_side = data, folder, positives, long_side
        self.executor = executor
        self.rankings: dict[str, dict[str, np.ndarray]] = {}

    def __call__(self, label: str, output: str = "full", **how: Any) -> RerankSummary:
        """Rerank into a folder and keep the values of every query by set, under a label."""
        result = self.rerank(output, ALL, **how)
        self.rankings[label] = by_set(self.ranking(output), self.positives)
        return result

    def rerank(self, output: str, listed: str, **how: Any) -> RerankSummary:
        """The job's function on one of the lists that `retrieve` wrote; its result."""
        found = pipeline.rerank(
            str(self.data),
            str(self.data),
            str(self.folder / f"{listed}.parquet"),
            str(self.folder / output),
            truth=str(self.data / "retrieval.json"),
            long_side=self.long_side,
            executor=self.executor,
            **how,
        )
        assert found is not None  # it is no dry run
        return found

    def ranking(self, output: str) -> Path:
        return self.folder / output / "ranking.parquet"

    def by_itself(self, name: str) -> dict[str, float]:
        """Rerank the queries of one set alone, into a folder of its own; what `timed` says."""
        result = self.rerank(f"sets/{name}", name)
        among_all, alone = (
            pq.read_table(self.ranking(output)) for output in ("full", f"sets/{name}")
        )
        if not alone.equals(among_all.filter(of_set(among_all, name))):
            raise SystemExit(
                f"reranking: {name} by itself has another ranking than among all queries"
            )
        return timed(result)


def timed(summary: RerankSummary) -> dict[str, float]:
    """Seconds of a reranking, of the executor's start in them. Raises SystemExit where some was
    done before.
    """
    session = summary["session"]
    if session["pairs"] < summary["pairs"]:
        raise SystemExit(
            "reranking: the folder of --keep holds pairs of an earlier command; give an empty one"
        )
    return {name: session[name] for name in ("seconds", "start_seconds")}


def measure(run: Measured) -> dict[str, Any]:
    """All rerankings, what the early stop saved, and how long each set takes."""
    whole = run("reranked", draw=3)
    seconds = {ALL: timed(whole)}
    run.rankings = {
        "retrieval": by_set(run.ranking("full"), run.positives, before=True),
        **run.rankings,
    }
    pairs, support = pairs_by_set(run.ranking("full")), verified(run.ranking("full"), run.positives)
    seconds |= {name: run.by_itself(name) for name in run.rankings["retrieval"] if name != ALL}
    for gate in GATES:
        run(f"gate {gate}", gate=gate)
    for score in ("ratio", "sum"):
        run(f"by {score}", score=score)
    run("saturated", saturation=SATURATION)
    early = run("saturated, early stop", "early", saturation=SATURATION, top=TOP)
    check_firsts(run.ranking("full"), run.ranking("early"))
    return {
        "gate": whole["options"]["gate"],
        "gated_queries": whole["gated_queries"],
        "candidates": support,
        "saturation": SATURATION,
        "pairs": {"all": pairs, "early": pairs_by_set(run.ranking("early"))},
        "rounds": {"all": whole["rounds"], "early": early["rounds"]},
        "encodes": {"all": whole["encodes"], "early": early["encodes"]},
        "seconds": {
            "all candidates": seconds[ALL]["seconds"],
            "early stop": timed(early)["seconds"],
        },
        "sets": {name: seconds[name] | judged(run.rankings, name) for name in seconds},
    }


def judged(rankings: dict[str, dict[str, np.ndarray]], name: str) -> dict[str, Any]:
    """What all rankings are worth on one set, and how reranking changed it."""
    before, after = rankings["retrieval"][name], rankings["reranked"][name]
    won, lost = (
        int((one[:, 0] < other[:, 0]).sum()) for one, other in ((before, after), (after, before))
    )
    return {
        "queries": len(before),
        "measures": {label: measured(values[name]) for label, values in rankings.items()},
        "change": measured(after - before),
        "first_place_won": won,
        "first_place_lost": lost,
    }


def markdown(results: dict[str, Any]) -> str:
    """The table of results/reranking.md, per cent before → after; seconds are – where they were not
    measured.
    """
    head = (
        "set",
        "queries",
        "pairs",
        "seconds",
        "early stop",
        *MEASURES,
        "first places won / lost",
    )
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, found in results["sets"].items():
        before, after = (found["measures"][label] for label in ("retrieval", "reranked"))
        cells = (
            name,
            str(found["queries"]),
            f"{results['pairs']['all'][name]:,}",
            f"{found['seconds']:.0f}" if "seconds" in found else "–",
            f"{results['pairs']['early'][name]:,}",
            *(
                f"{100 * before[measure]['mean']:.1f} → {100 * after[measure]['mean']:.1f}"
                for measure in MEASURES
            ),
            f"{found['first_place_won']} / {found['first_place_lost']}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def rankings_parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser of what `retrieved` needs to know, or the results whose table is printed."""
    parser = argument_parser(doc)
    add = parser.add_argument
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", type=Path, help="folder of the photographs and retrieval.json")
    what.add_argument(
        "--table", type=Path, metavar="JSON", help="print the document's table of these results"
    )
    add("--queries", type=int, help="a seeded sample of so many (default: all)")
    add("--long-side", type=int, default=320, help="of what the network sees, pixels (%(default)s)")
    add("--executor", choices=EXECUTORS, default="auto", help="(default: %(default)s)")
    add("--keep", type=Path, help="empty folder for candidates and runs (default: a temporary one)")
    return parser


@contextmanager
def retrieved(
    options: argparse.Namespace, top_k: int, sets: int | None = None
) -> Iterator[tuple[Measured, float]]:
    """The candidates that `rankings_parser` is asked for, to be reranked while the context is open,
    and the seconds of their retrieval; sets: of the first so many sets alone.
    """
    data = options.data.resolve()
    labels = json.loads((data / "retrieval.json").read_text())
    queries, database = sorted(labels["queries"]), labels["database"]
    if sets is not None:
        first = sorted({set_of(query) for query in queries})[:sets]
        queries, database = (
            [name for name in side if set_of(name) in first] for side in (queries, database)
        )
    if options.queries:
        chosen = np.random.default_rng(0).choice(queries, options.queries, replace=False)
        queries = sorted(chosen.tolist())
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.keep or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        seconds = retrieve(data, queries, database, top_k, folder)
        how = options.long_side, options.executor
        yield Measured(data, folder, labels["positives"], *how), seconds


def main(arguments: list[str] | None = None) -> int:
    parser = rankings_parser(__doc__)
    add = parser.add_argument
    add("--top-k", type=int, default=20, help="candidates of a query (%(default)s)")
    add(
        "--quick",
        action="store_true",
        help="8 queries of two sets, 6 candidates each from these sets, 160 pixels",
    )
    options = parser.parse_args(arguments)
    if options.table:
        print(markdown(json.loads(options.table.read_text())), end="")
        return 0
    if options.quick:
        options.queries, options.long_side, options.top_k = 8, 160, 6
    with retrieved(options, options.top_k, sets=2 if options.quick else None) as (run, retrieval):
        results = measure(run)
    results["seconds"] = {"retrieval": retrieval, **results["seconds"]}
    for name, found in results["sets"].items():
        pairs = (results["pairs"][which][name] for which in ("all", "early"))
        print(
            "\n{}: {} queries, {:,} pairs, {:,} with the early stop".format(
                name, found["queries"], *pairs
            )
        )
        print(table_text({**found["measures"], "change": found["change"]}), end="")
        print(
            f"first places won {found['first_place_won']}, lost {found['first_place_lost']}; ",
            end="",
        )
        print(
            f"{found['seconds']:.1f} s, of which {found['start_seconds']:.1f} to start the executor"
        )
    for side, counts in results["candidates"].items():
        print(
            f"{side}: {counts['candidates']:,} candidates, {counts['verified']:,} verified, "
            f"{counts['most_inliers']} inliers at most"
        )
    print(f"first places kept by the gate: {results['gated_queries']}")
    print(
        "seconds: " + ", ".join(f"{name} {value:.1f}" for name, value in results["seconds"].items())
    )
    print("\n" + markdown(results), end="")
    if options.out:
        results["options"] = {
            name: getattr(options, name) for name in ("queries", "top_k", "long_side", "executor")
        }
        write_results(
            options.out, results, "torch", "ray", "pycolmap", "pyarrow", "numpy", "pillow"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
