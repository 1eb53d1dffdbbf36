"""Match, rerank and reconstruct photographs: what the commands do, as functions.

    summary = pipeline.match("photos", "run", progress=lambda event: print(event.text))
    pipeline.reconstruct("run")

Nothing is printed by the functions themselves. They report progress to a callback and return a
summary. Every expected error is a `pipeline.errors.PipelineError` or another `eloftr.EloftrError`.
The functions work in any thread, also several at once.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

# The rooms are loaded before the functions of the same names are defined. A later import of a room
# therefore does not replace a function.
import pipeline.match
import pipeline.reconstruct
import pipeline.rerank  # noqa: F401
from pipeline.events import Event, Listener, nobody
from pipeline.extras import need_extra
from pipeline.vocabulary import DEFAULT_LONG_SIDE, DEFAULT_VARIANT, DEFAULT_WEIGHTS

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.execute.executor import Actors, Executor
    from pipeline.match.options import VerificationOptions
    from pipeline.match.plan import PlanCounts
    from pipeline.match.run import RunSummary
    from pipeline.photos.limits import ImageLimits
    from pipeline.reconstruct.cameras.options import CameraOptions
    from pipeline.reconstruct.refine.models import RefineSummary
    from pipeline.reconstruct.summary import ReconstructionSummary
    from pipeline.reconstruct.tracks.options import RefineOptions
    from pipeline.rerank.job import RerankSummary

__all__ = ["Event", "estimate", "match", "reconstruct", "refine", "rerank"]


def match(
    images: str | Path,
    output: str | Path,
    *,
    pairs: str | Path | pa.Table | None = None,
    weights: str | Path = DEFAULT_WEIGHTS,
    variant: str = DEFAULT_VARIANT,
    threshold: float | None = None,
    least_squares: int | None = None,
    long_side: int = DEFAULT_LONG_SIDE,
    dtype: str | None = None,
    batch_size: int | None = None,
    turns: str = "auto",
    scales: str = "auto",
    yaw: str | Path | pa.Table | None = None,
    verification: VerificationOptions | None = None,
    limits: ImageLimits | None = None,
    max_images: int | None = None,
    max_pairs: int | None = None,
    follow_links: bool = False,
    storage: dict[str, Any] | None = None,
    executor: str | Executor = "auto",
    actors: str | int | Actors | None = None,
    progress: Listener = nobody,
) -> RunSummary:
    """Match the pairs of a folder of photographs and write verified matches.

    A run that was stopped goes on where it was.

    images, output: the folder of photographs and the run folder, each a local path or fsspec URL.
    pairs: a list (.txt, .csv, .parquet), its table of PAIRS, or None for all pairs.
    weights: a bundled name, a file, a folder, a hub id or an fsspec URL.
    variant: `full`, or `opt` without softmax.
    threshold: lowest score of a match. None takes the variant's.
    least_squares: radius in pixels of the patches that sharpen keypoints, 0 for none. None takes
        the weights' own.
    long_side: longer side in pixels of what the network sees.
    dtype: number format of the network. None chooses by device.
    batch_size: pairs at once. None chooses by device. It changes no result.
    turns: how many turns are probed where photographs may be turned against each other, as `12`;
        `auto` for 8, `off` for none.
    scales: how many ratios of sizes are probed where one photograph may show the scene larger, of
        2, 1/2, 3, 1/3, 4 and 1/4; `auto` for 4, `off` for none.
    yaw: headings of photographs that look down, in degrees clockwise from north: a list (.csv,
        .parquet) or its table with the columns image and yaw. They win over those of the files.
    verification, limits: see their classes. None takes the defaults.
    max_images, max_pairs: bounds of a shard. None chooses by device.
    follow_links: let symbolic links lead out of the folder of images.
    storage: options of the fsspec filesystems.
    executor: `auto`, `local` or `ray`, or an executor, which the caller has to close.
    actors: how many processes hold the model, as `4` or `1-8`. None: one for each GPU, or one for
        each CPU where there is no GPU.
    progress: called with an `Event` now and then, in the calling thread.

    Returns the summary, which is also in `output/summary.json`. Raises an EloftrError before any
    work for everything that is wrong with the arguments.
    """
    chosen = _run_options(locals())  # before anything else has a name here
    from pipeline.match.job import match_photographs

    with _closing(executor) as carrying:
        return match_photographs(chosen, carrying, _actors(actors), progress)


MATCH_DEFAULTS: dict[str, Any] = dict(match.__kwdefaults__ or {})


def estimate(
    images: str, output: str, *, progress: Listener = nobody, **options: Any
) -> PlanCounts:
    """Plan a run and time two matches. Writes nothing.

    options: the other arguments of `match`.

    The plan and its cost are reported as the events `plan` and `estimate`. Returns the numbers of
    the plan. Raises as `match`.
    """
    from pipeline.match.job import estimate_run

    given = {**MATCH_DEFAULTS, **options}
    chosen = _run_options({"images": images, "output": output, **given})
    with _closing(given["executor"]) as carrying:
        return estimate_run(chosen, carrying, _actors(given["actors"]), progress)


def rerank(
    queries: str,
    database: str,
    candidates: str,
    output: str,
    *,
    truth: str | None = None,
    score: str = "inliers",
    budget: int | None = None,
    saturation: float | None = None,
    top: int | None = None,
    gate: int | None = None,
    draw: int = 0,
    dry_run: bool = False,
    executor: str | Executor = "auto",
    actors: str | int | Actors | None = None,
    progress: Listener = nobody,
    **options: Any,
) -> RerankSummary | None:
    """Put retrieval's candidates in the order of their verified matches.

    A run that was stopped goes on where it was.

    queries, database: folders of photographs, which may be the same.
    candidates, truth: lists; see `pipeline.pairs.candidates`.
    score, budget, saturation, top, gate: see `RerankOptions`.
    draw: so many of the queries whose candidates moved most are drawn.
    dry_run: plan only, write nothing and return None.
    executor, actors, progress: as of `match`.
    options: arguments of `match` that say how pairs are matched.

    Returns the summary, which is also in `output/summary.json`. Raises as `match`.
    """
    from pipeline.report.rankings import draw_rankings
    from pipeline.rerank.job import rerank_candidates
    from pipeline.rerank.options import RerankOptions

    images = {"query": _plain(queries), "database": _plain(database)}
    run = _run_options(
        {
            "images": images,
            "output": output,
            **MATCH_DEFAULTS,
            "turns": "off",
            "scales": "off",
            **options,
        }
    )
    chosen = RerankOptions(run, candidates, truth, score, budget, saturation, top, gate, draw)
    with _closing(executor) as carrying:
        found = rerank_candidates(chosen, carrying, _actors(actors), progress, dry_run)
    if found is None:
        return None
    draw_rankings(found)
    return found.summary


def reconstruct(
    run: str,
    output: Path | str | None = None,
    *,
    images: str | None = None,
    mapper: str = "incremental",
    cameras: CameraOptions | None = None,
    refine: str | RefineOptions = "tracks",
    radius: float = 2.0,
    threads: int = 1,
    storage: dict[str, Any] | None = None,
    executor: str | Executor = "auto",
    actors: str | int | Actors | None = None,
    progress: Listener = nobody,
) -> ReconstructionSummary:
    """Import a finished run into a COLMAP database, map it and refine its models.

    run: the output of `match`, a local path or an fsspec URL.
    output: a local folder. None takes `sfm` in the run folder.
    images: the photographs. None takes those of the run.
    mapper: `incremental` or `global`.
    cameras: how images become cameras.
    refine: `tracks` measures the tracks of every model again, see `RefineOptions`; `none` leaves
        models as they are mapped.
    radius: distance within which keypoints are merged, in pixels of the network's images.
    threads: of mapper and adjustment. With 1 the model is the same every time; −1 takes all cores.
    storage: options of the fsspec filesystems of the run and the photographs.
    executor, actors: what measures the tracks, as of `match`.
    progress: called with an `Event` now and then.

    Returns the summary. It holds no model where nothing could be mapped, and its notes say why.
    Raises ReconstructionError or StorageError for options and runs that cannot be used.
    """
    need_extra()
    from pipeline.reconstruct.job import reconstruct_run
    from pipeline.reconstruct.tracks.options import chosen_refinement
    from pipeline.store.folder import Folder

    chosen = chosen_refinement(refine)
    with _closing(executor) as carrying:
        return reconstruct_run(
            Folder(run, storage or {}),
            output,
            images,
            mapper,
            cameras,
            chosen,
            executor=carrying,
            actors=_actors(actors),
            radius=radius,
            threads=threads,
            listen=progress,
        )


def refine(
    model: str | Path,
    images: str | Path,
    output: str | Path | None = None,
    *,
    options: RefineOptions | None = None,
    fixed_cameras: bool = False,
    threads: int = 1,
    storage: dict[str, Any] | None = None,
    executor: str | Executor = "auto",
    actors: str | int | Actors | None = None,
    progress: Listener = nobody,
) -> RefineSummary:
    """Make a COLMAP model exact, whatever features it was made of.

    Every track is measured again against one view of it and completed by other views, then the
    bundle is adjusted. A command that was stopped goes on where it was.

    model: the local folder of one model, which stays as it is.
    images: the photographs, a local path or fsspec URL.
    output: a local folder. None takes the name of the model with `-refined`.
    options: see `RefineOptions`.
    fixed_cameras: keep all intrinsics.
    threads: of the adjustment. With 1 the model is the same every time; −1 takes all cores.
    storage: options of the fsspec filesystem of the photographs.
    executor, actors, progress: as of `match`.

    Returns the summary. Raises ReconstructionError or StorageError for what cannot be used.
    """
    need_extra()
    from pipeline.reconstruct.refine.models import refine_colmap_model
    from pipeline.reconstruct.tracks.options import RefineOptions
    from pipeline.store.folder import Folder

    source = Path(model)
    target = Path(output) if output else source.with_name(f"{source.resolve().name}-refined")
    with _closing(executor) as carrying:
        return refine_colmap_model(
            source,
            Folder(os.fspath(images), storage or {}),
            target,
            options or RefineOptions(),
            carrying,
            _actors(actors),
            fixed_cameras=fixed_cameras,
            threads=threads,
            listen=progress,
        )


def _run_options(given: dict[str, Any]) -> Any:
    """RunOptions from the arguments of `match`.

    Raises TypeError for an argument that `match` does not have.
    """
    need_extra()
    from pipeline.match.options import (
        MatchingOptions,
        RunOptions,
        VerificationOptions,
        parsed_scales,
        parsed_turns,
    )
    from pipeline.photos.limits import ImageLimits

    unknown = sorted(given.keys() - {"images", "output", *MATCH_DEFAULTS})
    if unknown:
        raise TypeError(f"unexpected keyword argument {unknown[0]!r}")
    verification = given["verification"] or VerificationOptions()

    same = (
        "images",
        "output",
        "pairs",
        "weights",
        "variant",
        "threshold",
        "least_squares",
        "max_images",
        "max_pairs",
        "yaw",
    )
    return RunOptions(
        **{name: _plain(given[name]) for name in same},
        matching=MatchingOptions(given["long_side"], given["dtype"], given["batch_size"]),
        limits=given["limits"] or ImageLimits(),
        verification=replace(verification, long_side=given["long_side"]),
        turns=parsed_turns(given["turns"]),
        scales=parsed_scales(given["scales"]),
        follow_links=given["follow_links"],
        storage=given["storage"] or {},
    )


def _plain(value: Any) -> Any:
    """A path as text; everything else as it is."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _closing(executor: str | Executor) -> Any:
    """A context that closes an executor made here, and leaves one that was given as it is."""
    from pipeline.execute.choose import make_executor

    return make_executor(executor) if isinstance(executor, str) else nullcontext(executor)


def _actors(given: str | int | Actors | None) -> Actors:
    from pipeline.execute.executor import Actors

    if given is None or isinstance(given, str | int):
        return Actors.parse(None if given is None else str(given))
    return given
