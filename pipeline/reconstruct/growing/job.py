"""Grow a finished model by the photographs that were added to its folder.

runs, folder → which photographs are new, gone, changed → pairs that no run has → OUTPUT/run
all runs     → OUTPUT/database.db
given model  → new images registered → OUTPUT/mapped/0 → what is new is measured → OUTPUT/sparse/0

Everything but the run is as `reconstruct_run` leaves it. A command that was stopped goes on: pairs
that are matched and tracks that are measured are not done again, and the rest gives the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from pipeline.errors import ReconstructionError, RunError
from pipeline.events import Event, Listener, counted, nobody
from pipeline.execute.executor import DEFAULT_ACTORS, Actors, Executor
from pipeline.match.job import estimate_run, match_photographs
from pipeline.match.options import (
    DEFAULT_SCALES,
    DEFAULT_TURNS,
    MatchingOptions,
    RunOptions,
    VerificationOptions,
)
from pipeline.match.plan import PLAN_FAILURES
from pipeline.match.run import HEADINGS_FILE
from pipeline.pairs.pair_list import PairList, pairs_table
from pipeline.photos.cameras.intrinsics import intrinsics_of_runs
from pipeline.photos.identity.files import identities, recorded
from pipeline.photos.limits import ImageLimits
from pipeline.photos.panoramas.source import faces_of_runs
from pipeline.reconstruct.cameras.adjust import check_threads
from pipeline.reconstruct.carrying import Carrying
from pipeline.reconstruct.database import remove
from pipeline.reconstruct.given import Imported, opened_given
from pipeline.reconstruct.growing.fitting import check_views, views_of_model
from pipeline.reconstruct.growing.kept import without_images
from pipeline.reconstruct.growing.pairs import TOP_K, pairs_to_match, planned_pairs
from pipeline.reconstruct.growing.photographs import ComparedPhotographs, compared_with_runs
from pipeline.reconstruct.growing.register import BEFORE, GrowthOptions, grow_database
from pipeline.reconstruct.growing.summary import GrowthSummary, photograph_notes
from pipeline.reconstruct.job import carry_out, colmap_process
from pipeline.reconstruct.mapping import MappedModels
from pipeline.reconstruct.models.files import files_of_model
from pipeline.reconstruct.models.job import ask_of_models
from pipeline.reconstruct.summary import ReconstructionSummary
from pipeline.reconstruct.tracks.options import RefineOptions
from pipeline.reconstruct.tracks.scene import ModelViews
from pipeline.store.belonging import remove_all
from pipeline.store.folder import Folder, place
from pipeline.store.weights import load_weights, weights_digest
from pipeline.vocabulary import DEFAULT_WEIGHTS, PanoramaMode, StageName

MEASURED = ("new", "all", "none")  # which tracks are measured
RUN, KEPT = "run", "kept"  # folders of the output


@dataclass(frozen=True)
class GrowthRequest:
    """What is grown.

    runs: their folders. model: the model that was made of them. images: the folder of the
    photographs now. output: where the results go. pairs: a list of candidates, its table, or None.
    top_k: without a list, photographs that each is paired with. weights: those of the runs.
    measured: of MEASURED. refine: how. radius, masks, threads: as of `reconstruct_run`.
    """

    runs: list[Folder]
    model: Folder
    images: Folder
    output: Folder
    pairs: Any = None
    top_k: int = TOP_K
    weights: str = DEFAULT_WEIGHTS
    measured: str = "new"
    refine: RefineOptions = field(default_factory=RefineOptions)
    radius: float = 2.0
    masks: Folder | None = None
    threads: int = 1
    scratch: str | Path | None = None

    @property
    def run(self) -> Folder:
        """The run folder of the pairs that no run has."""
        return replace(self.output, url=self.output.url_of(RUN))

    @property
    def scratch_of_model(self) -> str | Path | None:
        """The folder for a copy of the model, None where it is read where it is."""
        return None if self.model.local else self.scratch


def grow_model(
    request: GrowthRequest,
    executor: Executor,
    actors: Actors = DEFAULT_ACTORS,
    listen: Listener = nobody,
    dry_run: bool = False,
) -> GrowthSummary:
    """Match what is new, register it in the model, measure and adjust.

    dry_run: say what would be done, and write nothing.

    Raises ReconstructionError, RunError, PairListError or StorageError for what cannot be used, and
    where nothing is new and nothing of the model is gone, before any work.
    """
    _check(request)
    described = request.runs[0].read_json("run.json")
    links = bool(described.get("options", {}).get("follow_links"))
    request = replace(request, images=replace(request.images, follow_links=links))
    found = compared_with_runs(request.runs, request.images, listen)
    gone = {*_checked_model(request, found).names}.intersection(found.removed)
    pairs = _pairs(request, found, listen)
    count = len(pairs.pairs)
    if not (found.fresh or gone or count):
        raise ReconstructionError(
            f"{request.images.shown}: has no photograph that the runs do not have, none has "
            "changed, and none of the model is gone, so there is nothing to grow."
        )
    what = len(found.names), found.new, found.removed, found.changed, count
    summary = GrowthSummary(*what, request.run.shown if count else None)
    text = summary.text().splitlines()[0].partition(":")[2].strip()
    counts = {"new": len(found.new), "removed": len(found.removed), "changed": len(found.changed)}
    listen(Event("grow", text, counts))
    if count:
        _check_weights(request, described)
    options = _run_options(request, described, found, pairs)
    if dry_run:
        if count:
            estimate_run(options, executor, actors, listen)
        return summary
    if count:
        _check_same_files(request, found)
        match_photographs(options, executor, actors, listen)
    with _current_runs(request, found, bool(count)) as runs:
        made = _reconstructed(request, found, runs, executor, actors, listen)
    return replace(summary, reconstruction=made)


def _check(request: GrowthRequest) -> None:
    check_threads(request.threads)
    if request.measured not in MEASURED:
        raise ReconstructionError(
            f"refine {request.measured!r} is unknown; give {', '.join(MEASURED)}."
        )
    if request.top_k < 1:
        raise ReconstructionError(f"top_k {request.top_k}: give 1 or more.")
    if place(request.output).startswith(place(request.images)):
        raise ReconstructionError(
            f"{request.output.shown}: lies inside the folder of the images; give another --output."
        )
    if place(request.model).startswith(place(request.output)):
        raise ReconstructionError(
            f"{request.output.shown}: holds the given model; give another --output."
        )
    for run in request.runs:
        if place(run) == place(request.run):
            raise ReconstructionError(
                f"{run.shown}: is the run of the results themselves; give another --output."
            )
        if not run.exists("run.json"):
            raise ReconstructionError(
                f"{run.shown}: holds no run.json; give the output folder of eloftr match."
            )
    if faces_of_runs(request.runs):
        raise ReconstructionError(
            f"{request.runs[0].shown}: has panoramas, whose models cannot be grown yet; match all "
            "photographs, and give both runs to eloftr reconstruct."
        )


def _checked_model(request: GrowthRequest, found: ComparedPhotographs) -> ModelViews:
    """The images of the given model.

    Raises ReconstructionError where it, or the folder of the photographs, is none of the runs.
    """
    if len(found.new) == len(found.names):
        raise ReconstructionError(
            f"{request.images.shown}: has no photograph of the runs; give the folder of all "
            "photographs, old and new, under the names that the runs know."
        )
    views = ask_of_models(views_of_model, [request.model], request.scratch_of_model)
    check_views(views, request.model.shown, request.runs, found)
    return views


def _pairs(request: GrowthRequest, found: ComparedPhotographs, listen: Listener) -> PairList:
    """The pairs to match. A run that has begun keeps those that look alike."""
    if request.pairs is None and (begun := planned_pairs(request.run, found.names)) is not None:
        return begun
    how = request.pairs, request.top_k, request.weights, listen
    pairs = pairs_to_match(found, request.images, request.runs, *how)
    if lines := pairs.failures.num_rows:
        text = f"{counted(lines, 'candidate')} cannot be matched: {pairs.failures['detail'][0]}"
        listen(Event("note", text, {"unusable": lines}))
    return pairs


def _check_weights(request: GrowthRequest, described: dict[str, Any]) -> None:
    """Raise ReconstructionError for other weights than those of the first run."""
    told = described.get("weights")
    if told and told != weights_digest(load_weights(request.weights, request.images.options)):
        raise ReconstructionError(
            f"{request.runs[0].shown}: was matched with other weights than {request.weights}; give "
            "its own by --weights."
        )


def _run_options(
    request: GrowthRequest, described: dict[str, Any], found: ComparedPhotographs, pairs: PairList
) -> RunOptions:
    """How the pairs are matched: as the first of the runs was."""
    told = described.get("options", {})
    turned = request.runs[0].exists(HEADINGS_FILE)
    verification = VerificationOptions()
    if "verification" in told:
        verification = VerificationOptions(**told["verification"])
    masks = described.get("masks")
    return RunOptions(
        images=request.images.url,
        output=request.run.url,
        pairs=pairs_table(found.names, pairs.pairs, pairs.scores),
        weights=request.weights,
        variant="opt" if told.get("skip_softmax") else "full",
        threshold=told.get("threshold"),
        least_squares=told.get("least_squares"),
        matching=MatchingOptions(
            told["long_side"], told.get("dtype"), looks=int(told.get("looks", 1))
        ),
        limits=ImageLimits(**told.get("limits", {})),
        verification=verification,
        storage=request.images.options,
        turns=DEFAULT_TURNS if turned else 0,
        scales=DEFAULT_SCALES if turned else 0,
        masks=request.masks.url if request.masks else masks and masks["folder"],
        intrinsics=intrinsics_of_runs(request.runs),
        panoramas=PanoramaMode.OFF.value,
        follow_links=request.images.follow_links,
        detail=int(told.get("detail", 0)),
    )


def _check_same_files(request: GrowthRequest, found: ComparedPhotographs) -> None:
    """Raise RunError where files have changed since the run of the new pairs began."""
    note = recorded(request.run) or {}
    there = sorted({*note}.intersection(found.names))
    now = identities(request.images, there)
    other = [name for name in there if now[name] != note[name]]
    if other:
        raise RunError(
            f"{request.run.shown}: has matched {other[0]} when its file was another one; give "
            "another --output, and this run as one more RUN."
        )


@contextmanager
def _current_runs(
    request: GrowthRequest, found: ComparedPhotographs, matched: bool
) -> Iterator[list[Folder]]:
    """The runs without the images that do not count any more, and the run of the new pairs."""
    copies = replace(request.output, url=request.output.url_of(KEPT))
    runs = []
    try:
        for number, (run, stale) in enumerate(zip(request.runs, found.stale, strict=True)):
            copy = replace(copies, url=copies.url_of(str(number)))
            runs.append(without_images(run, stale, copy) if stale else run)
        yield [*runs, request.run] if matched else runs
    finally:
        remove_all(copies)


def _reconstructed(
    request: GrowthRequest,
    found: ComparedPhotographs,
    runs: Sequence[Folder],
    executor: Executor,
    actors: Actors,
    listen: Listener,
) -> ReconstructionSummary:
    """Import the runs, register what is new, measure and adjust."""
    masks = request.masks
    told = request.runs[0].read_json("run.json").get("masks")
    if masks is None and told and any(found.stale):  # their digests are of all photographs
        masks = Folder(told["folder"], request.images.options)
    refine = None if request.measured == "none" else request.refine
    reasons = _unusable(request.run)
    with (
        files_of_model(request.model, request.scratch_of_model) as model,
        opened_given(
            runs,
            request.images,
            None,
            request.radius,
            request.output.url,
            request.scratch,
            request.output.options,
            masks,
            listen=listen,
        ) as given,
        colmap_process(given) as colmap,
    ):
        carrying = Carrying(executor, colmap, actors, listen)

        def map_it(imported: Imported) -> MappedModels:
            factor = imported.database.resize_factor
            growth = GrowthOptions(
                frozenset(found.changed),
                request.radius * factor,
                request.measured == "new",
            )
            mapped: MappedModels = colmap.ask_watched(
                *(grow_database, model, given.database, given.target, growth),
                *(imported.mapping("incremental", request.threads), given.colours),
                listen=listen,
            )
            notes = photograph_notes(found, reasons)
            return replace(mapped, notes=[*notes, *mapped.notes])

        try:
            return carry_out(
                given, carrying, map_it, None, refine, request.threads, _asked(request)
            )
        finally:
            remove(given.target / BEFORE)


def _asked(request: GrowthRequest) -> dict[str, Any]:
    """What was asked, without where the results go."""
    told = {field.name: getattr(request, field.name) for field in fields(request)}
    for name in ("output", "scratch"):
        del told[name]
    if not isinstance(request.pairs, str | None):
        told["pairs"] = "a list"
    return told


def _unusable(run: Folder) -> list[str]:
    """A line for every photograph of a run that could not be used."""
    names = [name for name in run.names("failures") if name != PLAN_FAILURES]
    rows = [row for name in names for row in run.read_table(name).to_pylist()]
    return sorted(
        {
            f"{row['image0']}, which cannot be used: {row['detail'].rstrip('.')}"
            for row in rows
            if row["stage"] == StageName.READ.value
        }
    )
