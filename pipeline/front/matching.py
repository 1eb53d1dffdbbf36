"""Match and rerank photographs."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.events import Listener, nobody
from pipeline.extras import need_extra
from pipeline.front.carrying import chosen_actors, closing
from pipeline.vocabulary import (
    DEFAULT_LONG_SIDE,
    DEFAULT_LOOKS,
    DEFAULT_VARIANT,
    DEFAULT_WEIGHTS,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.execute.executor import Actors, Executor
    from pipeline.match.options import VerificationOptions
    from pipeline.match.plan import PlanCounts
    from pipeline.match.run import RunSummary
    from pipeline.photos.limits import ImageLimits
    from pipeline.rerank.job import RerankSummary


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
    looks: int = DEFAULT_LOOKS,
    turns: str = "auto",
    scales: str = "auto",
    yaw: str | Path | pa.Table | None = None,
    masks: str | Path | None = None,
    detail: int = 0,
    intrinsics: str | Path | None = None,
    panoramas: str = "auto",
    verification: VerificationOptions | None = None,
    limits: ImageLimits | None = None,
    max_images: int | None = None,
    max_pairs: int | None = None,
    follow_links: bool = False,
    ignore_case: bool = False,
    strip_prefix: str | None = None,
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
    looks: how often a pair is looked at, at most, see `eloftr.Matcher.match`. A look after the
        first sees image 1 warped as image 0 sees it; a pair with many matches has one look.
    turns: how many turns are probed where photographs may be turned against each other, as `12`;
        `auto` for 8, `off` for none.
    scales: how many ratios of sizes are probed where one photograph may show the scene larger, of
        2, 1/2, 3, 1/3, 4 and 1/4; `auto` for 4, `off` for none.
    yaw: headings of photographs that look down, in degrees clockwise from north: a list (.csv,
        .parquet) or its table with the columns image and yaw. They win over those of the files.
    masks: a folder of PNG files, local or an fsspec URL. Matches neither begin nor end where the
        mask of a photograph is 0. The mask of `a/b.jpg` is `a/b.jpg.png`, or else `a/b.png`. A
        photograph without one counts as a whole.
    detail: 1 or 2 for large photographs: so many finer passes match again what verified pairs
        share, each at twice the resolution of the last.
    intrinsics: cameras that are known, a file (.json, .csv, .txt) or `MODEL:f,cx,cy,…`; see
        `read_intrinsics`. Two images of known cameras are verified by their rays.
    panoramas: which photographs are equirectangular panoramas, which are matched by their faces:
        `auto` for those whose XMP says so, `all` also for those that are twice as wide as high,
        `off` for none.
    verification, limits: see their classes. None takes the defaults.
    max_images, max_pairs: bounds of a shard. None chooses by device.
    follow_links: let symbolic links lead out of the folder of images.
    ignore_case: names of `pairs` and `yaw` may differ in case from those of the photographs.
    strip_prefix: what names of `pairs` and `yaw` may begin with beside the path in the folder, as
        `images/`.
    storage: options of the fsspec filesystems.
    executor: `auto`, `local` or `ray`, or an executor, which the caller has to close.
    actors: how many processes hold the model, as `4` or `1-8`. None: one for each GPU, or one for
        each CPU where there is no GPU.
    progress: called with an `Event` now and then, in the calling thread.

    Returns the summary, which is also in `output/summary.json`. Raises an EloftrError before any
    work for everything that is wrong with the arguments.
    """
    chosen = run_options(locals())  # before anything else has a name here
    from pipeline.match.job import match_photographs

    with closing(executor) as carrying:
        return match_photographs(chosen, carrying, chosen_actors(actors), progress)


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
    chosen = run_options({"images": images, "output": output, **given})
    with closing(given["executor"]) as carrying:
        return estimate_run(chosen, carrying, chosen_actors(given["actors"]), progress)


def panorama_matches(
    run: str | Path,
    pair: tuple[str, str] | None = None,
    *,
    storage: dict[str, Any] | None = None,
) -> pa.Table:
    """The matches of a run with panoramas, in the pixels of its files.

    run: the output of `match`. pair: two files whose matches alone are wanted.

    Returns a table with a row for every two files with matches: image0, image1, keypoints0,
    keypoints1, scores, inliers, num_inliers. Keypoints of a panorama are equirectangular pixels,
    (0, 0) at the centre of the first one. Raises RunError for a run without panoramas.
    """
    need_extra()
    from pipeline.report.panorama_pairs import matches_of_files
    from pipeline.store.folder import Folder

    return matches_of_files(Folder(os.fspath(run), storage or {}), pair)


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
    screen: bool = False,
    query_masks: str | Path | None = None,
    database_masks: str | Path | None = None,
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
    score, budget, saturation, top, gate, screen: see `RerankOptions`.
    draw: so many of the queries whose candidates moved most are drawn.
    query_masks, database_masks: folders of masks of the queries and of the candidates, as `masks`
        of `match`. Where both are of one folder, one of the two is enough.
    dry_run: plan only, write nothing and return None.
    executor, actors, progress: as of `match`.
    options: arguments of `match` that say how pairs are matched.

    Returns the summary, which is also in `output/summary.json`. Raises as `match`.
    """
    from pipeline.report.rankings import draw_rankings
    from pipeline.rerank.job import rerank_candidates
    from pipeline.rerank.options import RerankOptions

    images = {"query": _plain(queries), "database": _plain(database)}
    given_masks = {"query": _plain(query_masks), "database": _plain(database_masks)}
    masks = {label: folder for label, folder in given_masks.items() if folder is not None}
    if "masks" in options:
        raise TypeError("unexpected keyword argument 'masks'; give query_masks, database_masks")
    run = run_options(
        {
            "images": images,
            "output": output,
            **MATCH_DEFAULTS,
            "turns": "off",
            "scales": "off",
            "masks": masks or None,
            **options,
        }
    )
    how = score, budget, saturation, top, gate, draw, screen
    chosen = RerankOptions(run, candidates, truth, *how)
    with closing(executor) as carrying:
        found = rerank_candidates(chosen, carrying, chosen_actors(actors), progress, dry_run)
    if found is None:
        return None
    draw_rankings(found)
    return found.summary


def run_options(given: dict[str, Any]) -> Any:
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
    from pipeline.photos.cameras.intrinsics import read_intrinsics
    from pipeline.photos.limits import ImageLimits

    unknown = sorted(given.keys() - {"images", "output", *MATCH_DEFAULTS})
    if unknown:
        raise TypeError(f"unexpected keyword argument {unknown[0]!r}")
    verification = given["verification"] or VerificationOptions()
    known = _plain(given["intrinsics"])

    same = ["images", "output", "pairs", "weights", "variant", "threshold", "least_squares"]
    same += ["max_images", "max_pairs", "yaw", "masks", "detail", "panoramas"]
    same += ["ignore_case", "strip_prefix"]
    return RunOptions(
        **{name: _plain(given[name]) for name in same},
        matching=MatchingOptions(
            given["long_side"], given["dtype"], given["batch_size"], given["looks"]
        ),
        limits=given["limits"] or ImageLimits(),
        verification=replace(verification, long_side=given["long_side"]),
        turns=parsed_turns(given["turns"]),
        scales=parsed_scales(given["scales"]),
        follow_links=given["follow_links"],
        intrinsics=read_intrinsics(str(known)) if known else (),
        storage=given["storage"] or {},
    )


def _plain(value: Any) -> Any:
    """A path as text; everything else as it is."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value
