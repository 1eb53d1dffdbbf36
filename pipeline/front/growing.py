"""Grow models."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.events import Listener, nobody
from pipeline.extras import need_extra
from pipeline.front.carrying import chosen_actors, closing
from pipeline.vocabulary import DEFAULT_WEIGHTS

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.execute.executor import Actors, Executor
    from pipeline.reconstruct.growing.summary import GrowthSummary
    from pipeline.reconstruct.tracks.options import RefineOptions


def grow(
    run: str | Sequence[str],
    output: str | Path,
    *,
    model: str | Path,
    images: str | Path,
    pairs: str | Path | pa.Table | None = None,
    top_k: int = 20,
    weights: str | Path = DEFAULT_WEIGHTS,
    masks: str | Path | None = None,
    refine: str = "new",
    options: RefineOptions | None = None,
    radius: float = 2.0,
    threads: int = 1,
    dry_run: bool = False,
    scratch: str | Path | None = None,
    storage: dict[str, Any] | None = None,
    executor: str | Executor = "auto",
    actors: str | int | Actors | None = None,
    progress: Listener = nobody,
) -> GrowthSummary:
    """Add the photographs that are new in a folder to a finished model.

    New pairs alone are matched, as the runs were. New images are placed in the model, and all is
    adjusted. Photographs that are gone leave the model; those whose file changed are matched and
    placed again. A command that was stopped goes on where it was.

    run: the outputs of `match` that the model was made of, local paths or fsspec URLs.
    output: a local path or fsspec URL. It gets `run`, the matches of the new pairs, and what
        `reconstruct` writes.
    model: the folder of one COLMAP model, which stays as it is.
    images: the folder of all photographs now.
    pairs: candidates, a list (.txt, .csv, .parquet) or its table of PAIRS; those that a run has
        matched are left out. None: each new photograph with those that look most like it.
    top_k: photographs that each is paired with then.
    weights: those that the runs were matched with.
    masks: as of `reconstruct`.
    refine: `new` measures what the model does not have, `all` measures every track again, `none`
        measures nothing. options: how, see `RefineOptions`.
    radius, threads, scratch: as of `reconstruct`.
    dry_run: say what would be done, write nothing, and return a summary without a model.
    storage: options of the fsspec filesystems.
    executor, actors: as of `match`.
    progress: called with an `Event` now and then.

    Returns the summary. Raises an EloftrError for what cannot be used, and where no photograph is
    new or changed and none of the model is gone, before any work.
    """
    need_extra()
    from pipeline.reconstruct.given import runs_or_database
    from pipeline.reconstruct.growing.job import GrowthRequest, grow_model
    from pipeline.reconstruct.tracks.options import RefineOptions
    from pipeline.store.folder import Folder

    runs = runs_or_database(run, None, storage)
    assert not isinstance(runs, Path)

    def folder(one: str | Path) -> Folder:
        return Folder(os.fspath(one), storage or {})

    request = GrowthRequest(
        runs,
        folder(model),
        folder(images),
        folder(output),
        pairs=os.fspath(pairs) if isinstance(pairs, os.PathLike) else pairs,
        top_k=top_k,
        weights=os.fspath(weights),
        measured=refine,
        refine=options or RefineOptions(),
        radius=radius,
        masks=folder(masks) if masks else None,
        threads=threads,
        scratch=scratch,
    )
    with closing(executor) as carrying:
        return grow_model(request, carrying, chosen_actors(actors), progress, dry_run)
