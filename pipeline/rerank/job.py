"""Rerank retrieval's candidates by matching them: rounds of pairs, each a run of the main job, and
what they say.

rounds/<n>/                        the pairs of round n, a run folder as the main job writes it
ranking.parquet, .csv, .trec       every candidate of every query in its new place
queries.parquet, .csv              what became of every query
evaluation.json                    recall and average precision before and after, where a truth is
given failures/candidates.parquet        lines of the list that cannot be matched
summary.json                       counts of it all

All candidates are one round. Where the first `top` places are all that is wanted, rounds grow from
ROUND candidates a query, each twice the last, and a query whose places are decided has no pairs in
the next: see `ranking.decided`. A pair of one folder that is asked for in both directions is
matched once.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypedDict, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from pipeline.events import Event, Listener, nobody
from pipeline.execute.executor import Actors, Executor
from pipeline.match.job import estimate_run, match_photographs
from pipeline.match.options import RunOptions
from pipeline.rerank.options import RerankOptions
from pipeline.rerank.ranking import decided, order, pair_scores, support
from pipeline.rerank.results import judged, publish_results, ranking_table
from pipeline.rerank.task import RerankTask
from pipeline.store.folder import Folder
from pipeline.vocabulary import CandidateStatus, Score

ROUND = 5  # candidates a query in the first round
# The columns of MATCHES that a score needs.
READ: dict[str, tuple[str, ...]] = {
    Score.INLIERS: (),
    Score.RATIO: ("scores",),
    Score.SUM: ("scores", "inliers"),
}


# the main job: its options → its summary, or the counts of its plan
Matcher = Callable[[RunOptions], Any]


def round_sizes(longest: int, adaptive: bool) -> list[int]:
    """Up to which place of retrieval's order candidates are matched after each round."""
    sizes = [min(ROUND, longest) if adaptive else longest]
    while sizes[-1] < longest:
        sizes.append(min(2 * sizes[-1], longest))
    return sizes


class RerankSummary(TypedDict):
    """What a reranking came to.

    pairs: matched; saved_pairs: planned and not needed; failed: candidates by reason.
    """

    queries: int
    candidates: int
    duplicate_candidates: int
    unusable_lines: int
    planned_pairs: int
    pairs: int
    saved_pairs: int
    rounds: list[dict[str, int]]
    verified: int
    unverified: int
    skipped: int
    failed: dict[str, int]
    gated_queries: int
    changed_first: int
    options: dict[str, Any]
    encodes: int
    matches: int
    inliers: int
    session: dict[str, Any]
    evaluation: dict[str, Any]


@dataclass(frozen=True)
class Reranking:
    """What was asked, the tables RANKING and QUERIES that were written, and the summary."""

    task: RerankTask
    ranking: pa.Table
    queries: pa.Table
    summary: RerankSummary


def rerank_candidates(
    options: RerankOptions,
    executor: Executor,
    actors: Actors = Actors(),
    listen: Listener = nobody,
    dry_run: bool = False,
) -> Reranking | None:
    """The reranking job, all its rounds on one executor; see `rerank`. None of a dry run."""
    match = partial(
        estimate_run if dry_run else match_photographs,
        executor=executor,
        actors=actors,
        listen=listen,
    )
    return rerank(options, match, listen, dry_run)


def rerank(
    options: RerankOptions, match: Matcher, listen: Listener = nobody, dry_run: bool = False
) -> Reranking | None:
    """Match candidates in rounds, order them, write and return the results.

    match: carries out a round, a run of the main job, as `match_photographs` does; of a dry run it
    plans only, as `estimate_run`. The first round that is not done is planned then, and all that
    may come after it, at most; nothing is written and None returned.
    Whatever is wrong with the arguments is raised before any work, as `Run` does, and PairListError
    for lists. The results depend on the arguments alone; a command that was stopped goes on where
    it was.
    """
    started = time.monotonic()
    task = RerankTask(options)
    candidates, folder = task.candidates, Folder(options.run.output, options.run.storage)
    counts = task.counts()
    listen(Event("candidates", task.described(), counts))
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
        listen(Event("round", line, {"number": number, "up_to": size, "queries": queries}))
        run = task.run(f"{number:02}", keys)
        summary = match(run)
        if not dry_run:
            session.update({name: summary["session"][name] for name in ("pairs", "start_seconds")})
            totals.update({name: summary[name] for name in ("encodes", "matches", "inliers")})
        elif summary["done"] < summary["shards"]:
            later = np.setdiff1d(task.pairs[left], keys)
            if len(later):
                text = "later rounds, at most: less for every query whose first places are final by then"
                listen(Event("later", text))
                match(task.run("later", later))
            break
        history.append({"up_to": size, "queries": queries, "pairs": len(keys)})
        tables += _results(Folder(run.output, run.storage), task.names, options.score)
        found = support(candidates, task.pairs, pa.concat_tables(tables))
    if dry_run:
        return None
    by_support = order(candidates, found, options.saturation)
    final = order(candidates, found, options.saturation, options.least_margin)
    ranking = ranking_table(candidates, found, final, options.saturation)
    evaluation, queries_table = judged(task, found, by_support, final)
    publish_results(folder, ranking, queries_table, candidates.failures, evaluation)
    matched = sum(row["pairs"] for row in history)
    changed = pc.not_equal(queries_table["first_before"], queries_table["first_after"])
    statuses = Counter(ranking["status"].to_pylist())
    kinds = (CandidateStatus.VERIFIED, CandidateStatus.UNVERIFIED, CandidateStatus.SKIPPED)
    result: dict[str, Any] = {
        "queries": counts["queries"],
        "candidates": counts["candidates"],
        "duplicate_candidates": counts["duplicates"],
        "unusable_lines": counts["unusable"],
        "planned_pairs": counts["pairs"],
        "pairs": matched,
        "saved_pairs": counts["pairs"] - matched,
        "rounds": history,
        **{status.value: statuses[status] for status in kinds},
        "failed": dict(
            sorted(Counter(reason for reason in ranking["reason"].to_pylist() if reason).items())
        ),
        "gated_queries": int(final.gated.sum()),
        "changed_first": pc.sum(changed).as_py(),
        "options": {
            **{name: getattr(options, name) for name in ("score", "budget", "saturation", "top")},
            "gate": options.least_margin,
        },
        **totals,
        "session": {**session, "seconds": round(time.monotonic() - started, 1)},
    }
    folder.publish_json("summary.json", result)
    summary = cast(RerankSummary, {**result, "evaluation": evaluation})
    return Reranking(task, ranking, queries_table, summary)


def _results(folder: Folder, names: pa.Array, score: str) -> list[pa.Table]:
    """What `pair_scores` gives of every pair of a finished run."""
    columns = ("image0", "image1", "status", "reason", "num_inliers", *READ[score])
    return [
        pair_scores(folder.read_table(name, columns), names, score)
        for name in folder.names("matches")
    ]
