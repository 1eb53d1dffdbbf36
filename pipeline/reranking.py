"""Rerank retrieval's candidates by matching them: rounds of pairs, each a run of the main job, and what they say.

rounds/<n>/                        the pairs of round n, a run folder as the main job writes it
ranking.parquet, .csv, .trec       every candidate of every query in its new place
queries.parquet, .csv              what became of every query
evaluation.json                    recall and average precision before and after, where a truth is given
failures/candidates.parquet        lines of the list that cannot be matched
pictures/<n>.png                   some queries with their first candidates before and after
summary.json                       counts of it all

All candidates are one round. Where the first `top` places are all that is wanted, rounds grow from ROUND candidates a
query, each twice the last, and a query whose places are decided has no pairs in the next: see `ranking.decided`.
A pair of one folder that is asked for in both directions is matched once.
"""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from pipeline.candidates import Candidates, read_candidates, read_truth
from pipeline.drawing import draw_ranking
from pipeline.evaluation import judge, measured
from pipeline.images import ImageError, decode_image, image_source, list_images
from pipeline.lists import trec_run
from pipeline.pairs import PairListError, pairs_table
from pipeline.progress import TEXT
from pipeline.ranking import SCORES, Order, Support, decided, order, pair_keys, pair_scores, saturated, support
from pipeline.run import RunOptions, place
from pipeline.schemas import QUERIES, RANKING
from pipeline.storage import Folder, StorageError, redacted

ROUND = 5  # candidates a query in the first round
DRAWN = 6  # candidates of a drawn query
READ = {"inliers": (), "ratio": ("scores",), "sum": ("scores", "inliers")}  # columns of MATCHES a score needs


@dataclass(frozen=True)
class RerankOptions:
    """What a reranking is asked to do.

    run: the main job's options; `images` are the folders by the labels query and database, `pairs` stays empty.
    candidates, truth: lists, see `read_candidates` and `read_truth`. score: one of SCORES.
    budget: most candidates of a query that are matched. saturation: scores above it count as equal.
    top: places that must be final; the rest of a query's pairs are left out once they are. It needs a saturation.
    gate: inliers, see `ranking.order`; None takes the least that a verified pair has, 0 is no gate.
    draw: number of queries to draw.
    """

    run: RunOptions
    candidates: str
    truth: str | None = None
    score: str = "inliers"
    budget: int | None = None
    saturation: float | None = None
    top: int | None = None
    gate: int | None = None
    draw: int = 0

    def __post_init__(self) -> None:
        if self.score not in SCORES:
            raise ValueError(f"score {self.score!r}: choose {', '.join(SCORES)}.")
        if min(value for value in (self.budget, self.top, 1) if value is not None) < 1 or self.draw < 0:
            raise ValueError("budget and top must be at least 1, and the number of drawn queries not negative.")
        if self.saturation is not None and not self.saturation > 0:
            raise ValueError(f"saturation must be above 0, not {self.saturation}.")
        if self.top is not None and self.saturation is None:
            raise ValueError("top needs a saturation: without one a later candidate may always have more support.")

    @property
    def least_margin(self) -> int:
        """The gate in inliers."""
        return self.run.verification.min_num_inliers if self.gate is None else self.gate


Matcher = Callable[[RunOptions], dict[str, Any]]  # the main job: its options → its summary, or the counts of its plan


class _Task:
    """What is asked, read and checked: candidates, truth, and pairs (N,) the key of every candidate's, −1 for none."""

    def __init__(self, options: RerankOptions) -> None:
        run = options.run
        assert isinstance(run.images, dict)
        self.options = options
        self.parts = {label: Folder(run.images[label], run.storage) for label in ("query", "database")}
        places = {label: place(folder) for label, folder in self.parts.items()}
        one = places["query"] == places["database"]
        self.images = run.images["query"] if one else run.images
        self.names = pa.array(list_images(image_source(self.images, run.storage)), pa.string())
        prefix = {label: "" if one else f"{label}/" for label in self.parts}
        known = {
            label: pc.utf8_slice_codeunits(self.names.filter(pc.starts_with(self.names, start)), len(start), None)
            for label, start in prefix.items()
        }

        def same(query: pa.Array, candidate: pa.Array) -> pa.Array:
            return pc.equal(*(_joined(places[k], side) for k, side in (("query", query), ("database", candidate))))

        self.candidates = read_candidates(options.candidates, known["query"], known["database"], same, run.storage)
        names = (self.candidates.query, self.candidates.candidate)
        sides = (_joined(start, side) for start, side in zip(prefix.values(), names, strict=True))
        self.longest = min(options.budget or len(self.candidates.rank), int(self.candidates.rank.max()))
        # Beyond the budget a candidate has no pair, even where another query asks for the same one: what a query is
        # reranked by must not depend on how far the others got.
        self.pairs = np.where(self.candidates.rank <= self.longest, pair_keys(self.names, *sides), -1)
        self.query = np.cumsum(self.candidates.rank == 1) - 1
        self.true = np.zeros(len(self.pairs), bool)  # of every candidate
        self.positives: np.ndarray | None = None  # (Q,) true images of every query, None without a truth
        self.others = 0  # queries of the truth without candidates
        if options.truth is not None:
            truth = read_truth(options.truth, run.storage)
            self._judge_by(options.truth, truth.filter(pc.invert(same(truth["query"], truth["candidate"]))))

    @property
    def queries(self) -> pa.Array:
        """(Q,) names of the queries."""
        return self.candidates.query.take(pa.array(self.candidates.starts[:-1]))

    def run(self, name: str, keys: np.ndarray) -> RunOptions:
        """The round of that name, with the pairs of these keys."""
        pairs = pairs_table(self.names, np.stack(np.divmod(keys, len(self.names)), axis=1))
        output = f"{self.options.run.output.rstrip('/')}/rounds/{name}"
        return replace(self.options.run, images=self.images, output=output, pairs=pairs)

    def counts(self) -> dict[str, int]:
        """What is asked: queries, candidates, distinct pairs; repeated and unusable lines of the list."""
        return {
            "queries": len(self.queries),
            "candidates": len(self.candidates.rank),
            "pairs": len(np.unique(self.pairs[self.pairs >= 0])),
            "duplicates": self.candidates.duplicates,
            "unusable": self.candidates.failures.num_rows,
        }

    def described(self) -> str:
        """The same for a person, in one line."""
        n = self.counts()
        line = f"{n['queries']:,} queries, {n['candidates']:,} candidates, {n['pairs']:,} pairs"
        if n["duplicates"]:
            line += f"; {n['duplicates']:,} duplicates dropped"
        if n["unusable"]:
            first = self.candidates.failures["detail"][0].as_py()
            line += f"; {n['unusable']:,} lines cannot be matched ({first})"
        return line

    def _judge_by(self, name: str, truth: pa.Table) -> None:
        counts = truth.group_by("query").aggregate([("candidate", "count")])
        at = pc.index_in(self.queries, value_set=counts["query"].combine_chunks())
        positives = pc.fill_null(counts["candidate_count"].combine_chunks().take(at), 0).to_numpy()
        self.positives, self.others = positives, counts.num_rows - int((positives > 0).sum())
        if not positives.any():
            example = self.queries[0].as_py()
            raise PairListError(f"{redacted(name)}: names none of the queries, {example} for one; check their names.")
        keys = (
            pc.binary_join_element_wise(*sides, "\n")
            for sides in ((self.candidates.query, self.candidates.candidate), (truth["query"], truth["candidate"]))
        )
        mine, theirs = keys
        self.true = pc.is_in(mine, value_set=theirs.combine_chunks()).to_numpy(zero_copy_only=False)


def _joined(start: str, names: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(pa.scalar(start), names, "")


def round_sizes(longest: int, adaptive: bool) -> list[int]:
    """Up to which place of retrieval's order candidates are matched after each round."""
    sizes = [min(ROUND, longest) if adaptive else longest]
    while sizes[-1] < longest:
        sizes.append(min(2 * sizes[-1], longest))
    return sizes


def rerank(
    options: RerankOptions, match: Matcher, say: Callable[..., None] = TEXT.say, dry_run: bool = False
) -> dict[str, Any]:
    """Match candidates in rounds, order them, write the results and return the summary.

    match: carries out a round, a run of the main job, as `dataflow.match_dataset` does. say: as `progress.Log.say`.
    dry_run: `match` plans only. The first round that is not done is planned, and all that may come after it, at most;
    nothing is written, nothing returned.
    Whatever is wrong with the arguments is raised before any work, as `run.Run` does, and PairListError for lists.
    The results depend on the arguments alone; a command that was stopped goes on where it was.
    """
    started = time.monotonic()
    task = _Task(options)
    candidates, folder = task.candidates, Folder(options.run.output, options.run.storage)
    counts = task.counts()
    say("candidates", task.described(), **counts)
    found, tables = support(candidates, task.pairs, None), []
    session: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    history = []
    for number, size in enumerate(round_sizes(task.longest, options.top is not None)):
        left = (task.pairs >= 0) & ~found.known
        if options.top is not None and options.saturation is not None:
            left &= ~decided(candidates, found, options.saturation, options.top)[task.query]
        wanted = left & (candidates.rank <= size)
        keys = np.unique(task.pairs[wanted])
        if not len(keys):
            continue
        queries = len(np.unique(task.query[wanted]))
        line = f"round {number}: up to {size} candidates of {queries:,} queries"
        say("round", line, number=number, up_to=size, queries=queries)
        run = task.run(f"{number:02}", keys)
        summary = match(run)
        if not dry_run:
            session.update({name: summary["session"][name] for name in ("pairs", "ray_start_seconds")})
            totals.update({name: summary[name] for name in ("encodes", "matches", "inliers")})
        elif summary["done"] < summary["shards"]:
            later = np.setdiff1d(task.pairs[left], keys)
            if len(later):
                say("later", "later rounds, at most: less for every query whose first places are final by then")
                match(task.run("later", later))
            break
        history.append({"up_to": size, "queries": queries, "pairs": len(keys)})
        tables += _results(Folder(run.output, run.storage), task.names, options.score)
        found = support(candidates, task.pairs, pa.concat_tables(tables))
    if dry_run:
        return {}
    by_support = order(candidates, found, options.saturation)
    final = order(candidates, found, options.saturation, options.least_margin)
    ranking = ranking_table(candidates, found, final, options.saturation)
    evaluation, queries_table = _judged(task, found, by_support, final)
    _publish(folder, ranking, queries_table, candidates.failures, evaluation)
    pictures = _draw(task, folder, ranking, queries_table)
    matched = sum(row["pairs"] for row in history)
    changed = pc.not_equal(queries_table["first_before"], queries_table["first_after"])
    statuses = Counter(ranking["status"].to_pylist())
    result = {
        "queries": counts["queries"],
        "candidates": counts["candidates"],
        "duplicate_candidates": counts["duplicates"],
        "unusable_lines": counts["unusable"],
        "planned_pairs": counts["pairs"],
        "pairs": matched,
        "saved_pairs": counts["pairs"] - matched,
        "rounds": history,
        **{status: statuses[status] for status in ("verified", "unverified", "skipped")},
        "failed": dict(sorted(Counter(reason for reason in ranking["reason"].to_pylist() if reason).items())),
        "gated_queries": int(final.gated.sum()),
        "changed_first": pc.sum(changed).as_py(),
        "options": {
            **{name: getattr(options, name) for name in ("score", "budget", "saturation", "top")},
            "gate": options.least_margin,
        },
        "pictures": pictures,
        **totals,
        "session": {**session, "seconds": round(time.monotonic() - started, 1)},
    }
    folder.publish_json("summary.json", result)
    return {**result, "evaluation": evaluation}


def _results(folder: Folder, names: pa.Array, score: str) -> list[pa.Table]:
    """What `pair_scores` gives of every pair of a finished run."""
    columns = ("image0", "image1", "status", "reason", "num_inliers", *READ[score])
    return [pair_scores(folder.read_table(name, columns), names, score) for name in folder.names("matches")]


def ranking_table(candidates: Candidates, found: Support, final: Order, saturation: float | None) -> pa.Table:
    """A table of RANKING, by query and rank."""
    known = found.known & ~found.failed
    cases = [found.failed, ~found.known, found.inliers > 0]
    status = np.select(cases, ["failed", "skipped", "verified"], "unverified")
    columns = {
        "query": candidates.query,
        "candidate": candidates.candidate,
        "rank": pa.array(final.rank),
        "score": pa.array(saturated(found.score, saturation), pa.float32(), mask=~known),
        "num_inliers": pa.array(found.inliers, mask=~known),
        "retrieval_score": candidates.score,
        "retrieval_rank": pa.array(candidates.rank),
        "status": pa.array(status, pa.string()),
        "reason": found.reason,
    }
    starts = np.repeat(candidates.starts[:-1], np.diff(candidates.starts))
    table = pa.table([columns[name] for name in RANKING.names], schema=RANKING)
    return table.take(pa.array(np.argsort(starts + final.rank)))


def _judged(task: _Task, found: Support, by_support: Order, final: Order) -> tuple[dict[str, Any], pa.Table]:
    """Measures before and after, empty without a truth, and a table of QUERIES."""
    candidates, count = task.candidates, len(final.margin)
    starts = candidates.starts[:-1]
    first = np.empty(count, np.int64)
    first[task.query[final.rank == 1]] = np.flatnonzero(final.rank == 1)
    columns: dict[str, pa.Array] = {
        "query": task.queries,
        "candidates": pa.array(np.diff(candidates.starts), pa.int32()),
        "matched": pa.array(np.bincount(task.query, found.known & ~found.failed, count), pa.int32()),
        "margin": pa.array(final.margin),
        "gated": pa.array(final.gated),
        "first_before": candidates.candidate.take(pa.array(starts)),
        "first_after": candidates.candidate.take(pa.array(first)),
    }
    evaluation: dict[str, Any] = {}
    if task.positives is not None:
        ranks = {
            "retrieval": candidates.rank,
            "reranked": final.rank,
            "reranked without the gate": by_support.rank,
        }
        judged = {label: judge(task.query, rank, task.true, task.positives) for label, rank in ranks.items()}
        before, after = judged["retrieval"], judged["reranked"]
        evaluation = {
            "queries": int((task.positives > 0).sum()),
            "queries_without_truth": int((task.positives == 0).sum()),
            "truth_without_candidates": task.others,
            "gate": task.options.least_margin,
            "measures": {label: measured(found.values) for label, found in judged.items()},
            "change": measured(after.values - before.values),
        }
        for label, one in (("before", before), ("after", after)):
            columns[f"positive_{label}"] = pa.array(one.positive, mask=one.positive == 0)
            columns[f"ap_{label}"] = pa.array(one.values[:, -1], pa.float32(), from_pandas=True)
    empty = {f.name: pa.nulls(count, f.type) for f in QUERIES if f.name not in columns}
    columns |= empty
    return evaluation, pa.table([columns[name] for name in QUERIES.names], schema=QUERIES)


def _publish(
    folder: Folder, ranking: pa.Table, queries: pa.Table, failures: pa.Table, evaluation: dict[str, Any]
) -> None:
    folder.publish_table("failures/candidates.parquet", failures)
    for name, table in (("ranking", ranking), ("queries", queries)):
        folder.publish_table(f"{name}.parquet", table)
        sink = pa.BufferOutputStream()
        pa.csv.write_csv(table, sink)
        folder.publish(f"{name}.csv", sink.getvalue())
    folder.publish("ranking.trec", trec_run(ranking))
    if evaluation:
        folder.publish_json("evaluation.json", evaluation)
    else:  # of an earlier command, with a truth
        folder.remove("evaluation.json")


def _draw(task: _Task, folder: Folder, ranking: pa.Table, queries: pa.Table) -> list[str]:
    """Draw the queries that moved most, by average precision or else by their margin; the names of the pictures."""
    moved = np.abs(pc.subtract(queries["ap_after"], queries["ap_before"]).to_numpy())
    changed = pc.not_equal(queries["first_before"], queries["first_after"]).to_numpy()
    by = (-queries["margin"].to_numpy(), ~changed) if task.positives is None else (-np.nan_to_num(moved),)
    truth = set(np.flatnonzero(task.true))
    pictures = []
    for number, row in enumerate(np.lexsort(by)[: task.options.draw]):
        start, stop = task.candidates.starts[row : row + 2]
        query = task.queries[int(row)].as_py()
        of = ranking.slice(start, stop - start).to_pylist()
        true = {task.candidates.candidate[k].as_py() for k in range(start, stop) if k in truth}
        rows = {}
        for label, key in (("retrieval", "retrieval_rank"), ("reranked", "rank")):
            shown = sorted(of, key=lambda one: one[key])[:DRAWN]
            rows[label] = [
                (
                    _photograph(task.parts["database"], one["candidate"], task.options),
                    one["candidate"],
                    f"{one[key]}  ·  {_said(one)}" + (f"  ·  was {one['retrieval_rank']}" if key == "rank" else ""),
                    None if task.positives is None else one["candidate"] in true,
                )
                for one in shown
            ]
        picture = draw_ranking(_photograph(task.parts["query"], query, task.options), query, rows)
        picture.save(data := io.BytesIO(), "PNG")
        pictures.append(f"pictures/{number:02}.png")
        folder.publish(pictures[-1], data.getvalue())
    for name in set(folder.names("pictures")) - set(pictures):  # of an earlier command, with another order
        folder.remove(name)
    return pictures


def _said(row: dict[str, Any]) -> str:
    return f"{row['num_inliers']} inliers" if row["num_inliers"] is not None else row["reason"] or row["status"]


def _photograph(folder: Folder, name: str, options: RerankOptions) -> np.ndarray | None:
    """Grey pixels, None where they cannot be had."""
    try:
        return decode_image(folder.read_bytes(name), options.run.limits).gray
    except (ImageError, StorageError, OSError):
        return None
