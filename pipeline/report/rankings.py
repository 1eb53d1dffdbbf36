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

DRAWN = 6  # how many candidates of a query are drawn


def draw_rankings(found: Reranking) -> list[str]:
    """Draw the queries that changed most, as `pictures/<n>.png` beside the tables.

    With a truth, those whose average precision changed most come first. Without one, those with a
    new first place come first, by their margin. Returns the names of the pictures. Pictures of an
    earlier command are removed.
    """
    task, ranking, queries = found.task, found.ranking, found.queries
    folder = Folder(task.options.run.output, task.options.run.storage)
    moved = np.abs(pc.subtract(queries["ap_after"], queries["ap_before"]).to_numpy())
    changed = pc.not_equal(queries["first_before"], queries["first_after"]).to_numpy()
    by: tuple[np.ndarray, ...] = (-np.nan_to_num(moved),)
    if task.positives is None:
        by = (-queries["margin"].to_numpy(), ~changed)
    truth = set(np.flatnonzero(task.true))
    pictures = []
    for number, row in enumerate(np.lexsort(by)[: task.options.draw]):
        start, stop = task.candidates.starts[row : row + 2]
        query = task.queries[int(row)].as_py()
        candidates = ranking.slice(start, stop - start).to_pylist()
        true = {task.candidates.candidate[k].as_py() for k in range(start, stop) if k in truth}
        rows = {}
        for label, key in (("retrieval", "retrieval_rank"), ("reranked", "rank")):
            rows[label] = [
                (
                    _grey_pixels(task.parts["database"], one["candidate"], task.options),
                    one["candidate"],
                    f"{one[key]}  ·  {_result(one)}"
                    + (f"  ·  was {one['retrieval_rank']}" if key == "rank" else ""),
                    None if task.positives is None else one["candidate"] in true,
                )
                for one in sorted(candidates, key=lambda one: one[key])[:DRAWN]
            ]
        picture = draw_ranking(_grey_pixels(task.parts["query"], query, task.options), query, rows)
        picture.save(data := io.BytesIO(), "PNG")
        pictures.append(f"pictures/{number:02}.png")
        folder.publish(pictures[-1], data.getvalue())
    for name in set(folder.names("pictures")) - set(pictures):
        folder.remove(name)
    return pictures


def _result(row: dict[str, Any]) -> str:
    """The inliers of a row of RANKING, or why there are none."""
    if row["num_inliers"] is None:
        return str(row["reason"] or row["status"])
    return f"{row['num_inliers']} inliers"


def _grey_pixels(folder: Folder, name: str, options: RerankOptions) -> np.ndarray | None:
    """The grey pixels of a photograph, or None where it cannot be read."""
    try:
        return decode_image(folder.read_bytes(name), options.run.limits, name=name).gray
    except (ImageError, StorageError, OSError):
        return None
