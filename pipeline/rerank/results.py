"""The tables that a reranking writes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from pipeline.pairs.formats import trec_run
from pipeline.rerank.evaluation import judge, measured
from pipeline.rerank.ranking import Order, Support, saturated
from pipeline.rerank.task import RerankTask
from pipeline.store.folder import Folder
from pipeline.tables import QUERIES, RANKING
from pipeline.vocabulary import CandidateStatus


def ranking_table(
    task: RerankTask, found: Support, final: Order, saturation: float | None
) -> pa.Table:
    """Build the RANKING table, ordered by query and rank."""
    candidates = task.candidates
    known = found.known & ~found.failed
    cases = [found.failed, ~found.known, found.inliers > 0]
    words = (CandidateStatus.FAILED, CandidateStatus.SKIPPED, CandidateStatus.VERIFIED)
    status = np.select(cases, [word.value for word in words], CandidateStatus.UNVERIFIED.value)
    columns = {
        "query": candidates.query,
        "candidate": candidates.candidate,
        "rank": pa.array(final.rank),
        "score": pa.array(saturated(found.score, saturation), pa.float32(), mask=~known),
        "num_inliers": pa.array(found.inliers, mask=~known),
        "retrieval_score": candidates.score,
        "retrieval_rank": pa.array(task.retrieval_rank),
        "status": pa.array(status, pa.string()),
        "reason": found.reason,
    }
    starts = np.repeat(candidates.starts[:-1], np.diff(candidates.starts))
    table = pa.table([columns[name] for name in RANKING.names], schema=RANKING)
    return table.take(pa.array(np.argsort(starts + final.rank)))


def judged(
    task: RerankTask, found: Support, by_support: Order, final: Order
) -> tuple[dict[str, Any], pa.Table]:
    """Measure the queries before and after reranking.

    by_support, final: the order without and with the gate.
    Returns the evaluation for JSON, which is empty without a truth, and the QUERIES table.
    """
    candidates, count = task.candidates, len(final.margin)
    before, after = (
        pa.array(np.flatnonzero(rank == 1)) for rank in (task.retrieval_rank, final.rank)
    )  # a row for each query, in their order
    columns: dict[str, pa.Array] = {
        "query": task.queries,
        "candidates": pa.array(np.diff(candidates.starts), pa.int32()),
        "matched": pa.array(
            np.bincount(task.query, found.known & ~found.failed, count), pa.int32()
        ),
        "margin": pa.array(final.margin),
        "gated": pa.array(final.gated),
        "first_before": candidates.candidate.take(before),
        "first_after": candidates.candidate.take(after),
    }
    evaluation: dict[str, Any] = {}
    if task.positives is not None:
        ranks = {
            "retrieval": task.retrieval_rank,
            **({"screened": candidates.rank} if task.options.screen else {}),
            "reranked": final.rank,
            "reranked without the gate": by_support.rank,
        }
        judged = {
            label: judge(task.query, rank, task.true, task.positives)
            for label, rank in ranks.items()
        }
        of_retrieval, reranked = judged["retrieval"], judged["reranked"]
        evaluation = {
            "queries": int((task.positives > 0).sum()),
            "queries_without_truth": int((task.positives == 0).sum()),
            "truth_without_candidates": task.others,
            "gate": task.options.least_margin,
            "measures": {label: measured(found.values) for label, found in judged.items()},
            "change": measured(reranked.values - of_retrieval.values),
        }
        for label, one in (("before", of_retrieval), ("after", reranked)):
            columns[f"positive_{label}"] = pa.array(one.positive, mask=one.positive == 0)
            columns[f"ap_{label}"] = pa.array(one.values[:, -1], pa.float32(), from_pandas=True)
    empty = {f.name: pa.nulls(count, f.type) for f in QUERIES if f.name not in columns}
    columns |= empty
    return evaluation, pa.table([columns[name] for name in QUERIES.names], schema=QUERIES)


def publish_results(
    folder: Folder,
    ranking: pa.Table,
    queries: pa.Table,
    failures: pa.Table,
    evaluation: dict[str, Any],
) -> None:
    """Write all tables, also as CSV and TREC run, and the evaluation where there is one."""
    folder.publish_table("failures/candidates.parquet", failures)
    for name, table in (("ranking", ranking), ("queries", queries)):
        folder.publish_table(f"{name}.parquet", table)
        sink = pa.BufferOutputStream()
        pa.csv.write_csv(table, sink)
        folder.publish(f"{name}.csv", sink.getvalue())
    folder.publish("ranking.trec", trec_run(ranking))
    if evaluation:
        folder.publish_json("evaluation.json", evaluation)
    else:  # An earlier command with a truth may have left one.
        folder.remove("evaluation.json")
