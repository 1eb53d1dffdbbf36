"""Localize photographs in a model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.events import Listener, nobody
from pipeline.extras import need_extra
from pipeline.front.carrying import chosen_actors, closing
from pipeline.front.matching import MATCH_DEFAULTS, run_options

if TYPE_CHECKING:
    from pipeline.execute.executor import Actors, Executor
    from pipeline.reconstruct.localize.results import LocalizeSummary


def localize(
    model: str | Path,
    images: str | Path,
    queries: str | Path,
    output: str | Path,
    *,
    candidates: int = 20,
    pairs: str | Path | None = None,
    descriptors: str | Path | None = None,
    query_descriptors: str | Path | None = None,
    intrinsics: str | Path | None = None,
    measure: bool = True,
    min_pose_inliers: int = 30,
    min_pose_ratio: float = 0.25,
    scratch: str | Path | None = None,
    executor: str | Executor = "auto",
    actors: str | int | Actors | None = None,
    progress: Listener = nobody,
    **options: Any,
) -> LocalizeSummary:
    """Find where photographs were taken, in a COLMAP model, which stays as it is.

    A command that was stopped goes on where it was.

    model: the folder of one model, a local path or fsspec URL.
    images: the folder of its photographs, to which the names in the model are relative.
    queries: the folder of the photographs to localize. In the folder of the images, they are those
        that the model does not have.
    output: the folder of the results, which gets `poses.parquet` (POSES), `poses.txt` and the run.
    candidates: images of the model that each query is matched with, the most alike first.
    pairs: a list of candidates in place of retrieval; see `pipeline.pairs.candidates`.
    descriptors, query_descriptors: files of global descriptors of the images and of the queries.
        None describes them by the matcher's own weights.
    intrinsics: known cameras of queries, a file (.json, .csv, .txt) or `MODEL:f,cx,cy,…`.
    measure: find points of the model in each query by least squares at last. It makes poses more
        exact, and takes longer.
    min_pose_inliers, min_pose_ratio: a query that fewer points, or a smaller share of them, agree
        on is refused.
    scratch: where a copy of a model at a URL lies meanwhile; None: among temporary files.
    executor, actors, progress: as of `match`.
    options: arguments of `match` that say how pairs are matched.

    Returns the summary, which is also in `output/summary.json`. Raises an EloftrError for what
    cannot be used.
    """
    need_extra()
    from pipeline.photos.cameras.intrinsics import read_intrinsics
    from pipeline.reconstruct.localize.job import localize_photographs
    from pipeline.reconstruct.localize.options import LocalizeOptions
    from pipeline.store.results import place_of

    for name in ("images", "masks", "yaw", "detail", "panoramas"):
        if name in options:
            raise TypeError(f"unexpected keyword argument {name!r}")
    folders = {"query": os.fspath(queries), "database": os.fspath(images)}
    how = {"turns": "off", "scales": "off", "panoramas": "off", **options}
    run = run_options({**MATCH_DEFAULTS, **how, "images": folders, "output": output})
    chosen = LocalizeOptions(
        run,
        candidates=candidates,
        pairs=_path(pairs),
        descriptors=_path(descriptors),
        query_descriptors=_path(query_descriptors),
        intrinsics=read_intrinsics(os.fspath(intrinsics)) if intrinsics else (),
        measure=measure,
        min_inliers=min_pose_inliers,
        min_inlier_ratio=min_pose_ratio,
    )
    with closing(executor) as carrying:
        return localize_photographs(
            chosen,
            place_of(model, run.storage),
            carrying,
            chosen_actors(actors),
            scratch=None if scratch is None else os.fspath(scratch),
            listen=progress,
        )


def _path(value: str | Path | None) -> str | None:
    return None if value is None else os.fspath(value)
