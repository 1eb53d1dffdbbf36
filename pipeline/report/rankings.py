"""Pictures of queries with their first candidates, before and after reranking."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow.compute as pc

from pipeline.errors import ImageError, StorageError
from pipeline.photos.decode import decode_image
from pipeline.report.pictures import draw_ranking
from pipeline.rerank.job import Reranking
from pipeline.rerank.options import RerankOptions
from pipeline.store.folder import Folder

DRAWN = 6  # candidates of a drawn query


def draw_rankings(found: Reranking) -> list[str]:
    """Draw the queries that moved most, by average precision or else by their margin, as
    `pictures/<n>.png` beside the tables; the names of the pictures. Those of an earlier command are
    removed.
    """
    task, ranking, queries = found.task, found.ranking, found.queries
    folder = Folder(task.options.run.output, task.options.run.storage)
    moved = np.abs(pc.subtract(queries["ap_after"], queries["ap_before"]).to_numpy())
    changed = pc.not_equal(queries["first_before"], queries["first_after"]).to_numpy()
    by = (
        (-queries["margin"].to_numpy(), ~changed)
        if task.positives is None
        else (-np.nan_to_num(moved),)
    )
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
                    f"{one[key]}  ·  {_said(one)}"
                    + (f"  ·  was {one['retrieval_rank']}" if key == "rank" else ""),
                    None if task.positives is None else one["candidate"] in true,
                )
                for one in shown
            ]
        picture = draw_ranking(_photograph(task.parts["query"], query, task.options), query, rows)
        picture.save(data := io.BytesIO(), "PNG")
        pictures.append(f"pictures/{number:02}.png")
        folder.publish(pictures[-1], data.getvalue())
    # of an earlier command, with another order
    for name in set(folder.names("pictures")) - set(pictures):
        folder.remove(name)
    return pictures


def _said(row: dict[str, Any]) -> str:
    return (
        f"{row['num_inliers']} inliers"
        if row["num_inliers"] is not None
        else row["reason"] or row["status"]
    )


def _photograph(folder: Folder, name: str, options: RerankOptions) -> np.ndarray | None:
    """Grey pixels, None where they cannot be had."""
    try:
        return decode_image(folder.read_bytes(name), options.run.limits).gray
    except (ImageError, StorageError, OSError):
        return None
