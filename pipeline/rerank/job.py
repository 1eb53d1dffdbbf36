"""Rerank retrieval's candidates by matching them, in rounds that are runs of the matching job.

    screen/                        the plan of a screening, and PROBES of all pairs
    rounds/<n>/                    the pairs of round n, a run folder as the matching job writes it
    ranking.parquet, .csv, .trec   every candidate of every query in its new place
    queries.parquet, .csv          what became of every query
    evaluation.json                recall and average precision before and after, given a truth
    failures/candidates.parquet    lines of the list that cannot be matched
    summary.json                   counts of the whole reranking

Without `top`, one round matches all candidates. With `top`, only the first `top` places matter: the
first round goes to place FIRST_ROUND of retrieval's order, and each further round twice as far. A
query whose first places are decided has no pairs in the next round, see `ranking.decided`. A pair
of one folder that is asked for in both directions is matched once.

With `screen`, all of this happens in the order of a screening in place of retrieval's, see
`screen.py`.
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

from pipeline.errors import RunError
from pipeline.events import Event, Listener, counted, nobody
from pipeline.execute.executor import DEFAULT_ACTORS, Actors, Executor
from pipeline.match.job import (
    estimate_probes,
    estimate_run,
    match_photographs,
    probe_photographs,
)
from pipeline.match.options import RunOptions
from pipeline.match.plan import PLAN_FAILURES
from pipeline.match.turns.tries import settled_matches
from pipeline.rerank.options import RerankOptions
from pipeline.rerank.ranking import decided, order, pair_keys, pair_scores, support
from pipeline.rerank.results import judged, publish_results, ranking_table
from pipeline.rerank.screen import coarse_counts, screened_order, screening
from pipeline.rerank.task import ROUNDS_FOLDER, RerankTask
from pipeline.store.folder import Folder
from pipeline.tables import FAILURES
from pipeline.vocabulary import CandidateStatus, Score

FIRST_ROUND = 5  # candidates of a query
SCREEN_FOLDER = "screen"
# The columns of MATCHES that each score needs.
SCORE_COLUMNS: dict[str, tuple[str, ...]] = {
    Score.INLIERS: (),
    Score.RATIO: ("scores",),
    Score.SUM: ("scores", "inliers"),
}

# Carries out one round: options of the matching job → its summary, or the counts of its plan.
RoundMatcher = Callable[[RunOptions], Any]
# Looks at all pairs of a run → PROBES; for a dry run None where some are left.
Screener = Callable[[RunOptions], Any]


def round_sizes(longest: int, adaptive: bool) -> list[int]:
    """For each round, the last place of retrieval's order whose candidate is matched by then."""
    sizes = [min(FIRST_ROUND, longest) if adaptive else longest]
    while sizes[-1] < longest:
        sizes.append(min(2 * sizes[-1], longest))
    return sizes


class RerankSummary(TypedDict):
    """Counts of a reranking.

    glances: pairs that a screening looked at. pairs: matched pairs. saved_pairs: planned pairs that
    were not needed. failed: number of failed candidates by reason.
    """

    queries: int
    candidates: int
    duplicate_candidates: int
    glances: int
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
    """A finished reranking: its task, the tables RANKING and QUERIES it wrote, and its summary."""

    task: RerankTask
    ranking: pa.Table
    queries: pa.Table
    summary: RerankSummary


def rerank_candidates(
    options: RerankOptions,
    executor: Executor,
    actors: Actors = DEFAULT_ACTORS,
    listen: Listener = nobody,
    dry_run: bool = False,
) -> Reranking | None:
    """Rerank with all rounds on one executor, see `rerank_with`. A dry run returns None."""
    how: dict[str, Any] = {"executor": executor, "actors": actors, "listen": listen}
    match = partial(estimate_run if dry_run else match_photographs, **how)
    screen = partial(estimate_probes if dry_run else probe_photographs, **how)
    return rerank_with(options, match, listen, dry_run, screen)


def _rerank_folder(options: RerankOptions) -> Folder:
    """The folder of the results. Raises RunError where it holds a run of the matching job."""
    folder = Folder(options.run.output, options.run.storage)
    if folder.exists("run.json"):
        raise RunError(f"{folder.shown}: holds a run of eloftr match; give another --output.")
    return folder


def rerank_with(
    options: RerankOptions,
    match: RoundMatcher,
    listen: Listener = nobody,
    dry_run: bool = False,
    screen: Screener | None = None,
) -> Reranking | None:
    """Match candidates in rounds, order them, write the results and return them.

    match: carries out one round, a run of the matching job, as `match_photographs` does. For a dry
        run it only plans, as `estimate_run` does.
    screen: looks at all pairs, as `probe_photographs` does; for a dry run `estimate_probes`.
    dry_run: plan the first round that is not done, and an upper bound of what may come after it.
        Nothing is written and None is returned.

    The results depend on the arguments alone, and a command that was stopped goes on where it was.
    Raises, before any work, PairListError for the lists and what `Run` raises for the other
    arguments.
    """
    started = time.monotonic()
    task = RerankTask(options)
    folder = _rerank_folder(options)
    listen(Event("candidates", task.described(), task.counts()))
    glances = _screen(task, screen, listen, dry_run) if options.screen else 0
    candidates, counts = task.candidates, task.counts()
    found, tables, history = support(candidates, task.pairs, None), [], []
    session: Counter[str] = Counter()
    totals: Counter[str] = Counter()
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
        run = task.run(f"{ROUNDS_FOLDER}/{number:02}", keys)
        summary = match(run)
        if not dry_run:
            session.update({name: summary["session"][name] for name in ("pairs", "start_seconds")})
            totals.update({name: summary[name] for name in ("encodes", "matches", "inliers")})
        elif summary["done"] < summary["shards"]:
            later = np.setdiff1d(task.pairs[left], keys)
            if len(later):
                text = (
                    "later rounds, at most: "
                    "less for every query whose first places are final by then"
                )
                listen(Event("later", text))
                match(task.run(f"{ROUNDS_FOLDER}/later", later))
            break
        history.append({"up_to": size, "queries": queries, "pairs": len(keys)})
        tables += _scores_of_run(Folder(run.output, run.storage), task.names, options.score)
        found = support(candidates, task.pairs, pa.concat_tables(tables))
    if dry_run:
        return None
    by_support = order(candidates, found, options.saturation)
    final = order(candidates, found, options.saturation, options.least_margin)
    ranking = ranking_table(task, found, final, options.saturation)
    evaluation, queries_table = judged(task, found, by_support, final)
    publish_results(folder, ranking, queries_table, candidates.failures, evaluation)
    matched = sum(row["pairs"] for row in history)
    changed = pc.not_equal(queries_table["first_before"], queries_table["first_after"])
    statuses = Counter(ranking["status"].to_pylist())
    reasons = Counter(reason for reason in ranking["reason"].to_pylist() if reason)
    kinds = (CandidateStatus.VERIFIED, CandidateStatus.UNVERIFIED, CandidateStatus.SKIPPED)
    result: dict[str, Any] = {
        "queries": counts["queries"],
        "candidates": counts["candidates"],
        "duplicate_candidates": counts["duplicates"],
        "glances": glances,
        "unusable_lines": counts["unusable"],
        "planned_pairs": counts["pairs"],
        "pairs": matched,
        "saved_pairs": counts["pairs"] - matched,
        "rounds": history,
        **{status.value: statuses[status] for status in kinds},
        "failed": dict(sorted(reasons.items())),
        "gated_queries": int(final.gated.sum()),
        "changed_first": pc.sum(changed).as_py(),
        "options": options.told(),
        **totals,
        "session": {**session, "seconds": round(time.monotonic() - started, 1)},
    }
    folder.publish_json("summary.json", result)
    summary = cast(RerankSummary, {**result, "evaluation": evaluation})
    return Reranking(task, ranking, queries_table, summary)


def _screen(task: RerankTask, screen: Screener | None, listen: Listener, dry_run: bool) -> int:
    """Look at all pairs of the task, give it the order that follows, and return their number.

    A dry run does not know that order until all glances are done. It counts on in retrieval's.
    """
    assert screen is not None
    keys = np.unique(task.pairs[task.pairs >= 0])
    text = f"screening: a glance at {counted(len(keys), 'pair')}"
    listen(Event("screening", text, {"pairs": len(keys)}))
    glances = screening(task.run(SCREEN_FOLDER, keys))
    probes = screen(glances)
    if probes is None:
        text = "what glances will choose is not known; the following counts retrieval's first"
        listen(Event("later", text))
        task.keep_budget()
        return len(keys)
    task.set_aside(_unreadable(Folder(glances.output, glances.storage)))
    found = pair_keys(task.names, probes["image0"], probes["image1"])
    task.screened(screened_order(task.candidates.rank, coarse_counts(probes, found, task.pairs)))
    return len(keys)


def _unreadable(folder: Folder) -> pa.Table:
    """FAILURES of the images that glances could not read, an image once or more."""
    tables = [folder.read_table(name) for name in folder.names("failures") if name != PLAN_FAILURES]
    return pa.concat_tables([FAILURES.empty_table(), *tables])


def _scores_of_run(folder: Folder, names: pa.Array, score: str) -> list[pa.Table]:
    """The tables of `pair_scores` for all pairs of a finished run, one per shard."""
    columns = ("image0", "image1", "status", "reason", "num_inliers", *SCORE_COLUMNS[score])
    return [pair_scores(table, names, score) for _, table in settled_matches(folder, columns)]
