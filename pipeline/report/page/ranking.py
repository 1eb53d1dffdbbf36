"""The tables of a reranking for the page: queries, their candidates, and recall and precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.rerank.evaluation import LEVEL, MEASURES
from pipeline.store.folder import Folder

MOST_QUERIES = 500  # whose candidates stand in the page
MOST_CANDIDATES = 20  # of a query
# As a reranking names them.
ORDERS = ("retrieval", "screened", "reranked", "reranked without the gate")


def ranking_tables(folder: Folder) -> dict[str, Any] | None:
    """The tables of a finished reranking, ready for JSON; None where it is not finished.

    queries: the first MOST_QUERIES of them, those that changed most first: by average precision
    where a truth is known, and else by a new first place and its margin. Each has its candidates
    in their new order, up to place MOST_CANDIDATES. true: the first true candidate, before and
    after, where a truth is known.
    """
    if not folder.exists("ranking.parquet"):
        return None
    ranking, queries = (folder.read_table(f"{name}.parquet") for name in ("ranking", "queries"))
    judged = folder.read_json("evaluation.json") if folder.exists("evaluation.json") else {}
    order = _by_change(queries)
    chosen = queries.take(pa.array(order[:MOST_QUERIES]))
    wanted = pc.and_(
        pc.is_in(ranking["query"], chosen["query"].combine_chunks()),
        pc.or_(
            pc.less_equal(ranking["rank"], MOST_CANDIDATES),
            pc.less_equal(ranking["retrieval_rank"], MOST_CANDIDATES),
        ),
    )
    candidates: dict[str, list[dict[str, Any]]] = {}
    for row in ranking.filter(wanted).to_pylist():
        candidates.setdefault(row.pop("query"), []).append(row)
    changed = pc.not_equal(queries["first_before"], queries["first_after"])
    return {
        "total": queries.num_rows,
        "changed_first": pc.sum(changed).as_py() or 0,
        "gated": pc.sum(queries["gated"]).as_py() or 0,
        "truth": bool(judged),
        "level": LEVEL,
        # JSON files have their keys in the order of the alphabet.
        "measures": {
            name: _in_order(judged["measures"][name])
            for name in ORDERS
            if name in judged.get("measures", {})
        },
        "change": _in_order(judged.get("change", {})),
        "judged_queries": judged.get("queries", 0),
        "queries": [
            {
                **_plain_row(row),
                "list": [_plain_row(one) for one in candidates.get(row["query"], [])],
            }
            for row in chosen.to_pylist()
        ],
    }


def _in_order(measures: dict[str, Any]) -> dict[str, Any]:
    return {name: measures[name] for name in MEASURES if name in measures}


def _by_change(queries: pa.Table) -> np.ndarray:
    """Rows of QUERIES, those that reranking changed most first."""
    before, after = (queries[name].to_numpy() for name in ("ap_before", "ap_after"))
    moved = np.nan_to_num(np.abs(np.asarray(after, float) - np.asarray(before, float)))
    same = pc.equal(queries["first_before"], queries["first_after"]).to_numpy()
    return np.lexsort((-queries["margin"].to_numpy(), same, -moved))


def _plain_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row with numbers that JSON can hold, in few digits."""
    return {
        name: (round(value, 4) if np.isfinite(value) else None)
        if isinstance(value, float)
        else value
        for name, value in row.items()
    }
