"""Refine a COLMAP model that anybody made: a model and its photographs in, a sharper model out."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ReconstructionError
from pipeline.events import Listener, counted, nobody
from pipeline.execute.executor import DEFAULT_ACTORS, Actors, Executor
from pipeline.execute.worker import Died, Worker
from pipeline.masks.folder import MaskCounts, find_masks, masks_line
from pipeline.match.run import SUMMARY_FILE
from pipeline.reconstruct.cameras.adjust import check_threads
from pipeline.reconstruct.carrying import Carrying
from pipeline.reconstruct.database import REPORT_FILE
from pipeline.reconstruct.models.files import ModelFiles, Place, check_output, files_of_model
from pipeline.reconstruct.refine.adjust import Freedom
from pipeline.reconstruct.refine.job import FILES_OF_A_MODEL, refine_model
from pipeline.reconstruct.refine.round import RoundSummary
from pipeline.reconstruct.summary import write_summary
from pipeline.reconstruct.tracks.options import RefineOptions
from pipeline.reconstruct.tracks.photographs import check_sizes_of_some
from pipeline.reconstruct.tracks.plan import read_scene
from pipeline.reconstruct.tracks.scene import ModelCamera, SparseModel
from pipeline.store import disk
from pipeline.store.folder import Folder
from pipeline.store.results import opened_results


@dataclass(frozen=True)
class ModelCounts:
    """Images, points and observations of a model. error: `SparseModel.mean_error`."""

    images: int
    cameras: int
    points: int
    observations: int
    track_length: float
    error: float

    @classmethod
    def of(cls, scene: SparseModel) -> ModelCounts:
        """The counts of a scene."""
        return cls(
            len(scene.views),
            len(scene.views.cameras),
            len(scene.xyz),
            len(scene.point),
            len(scene.point) / max(len(scene.xyz), 1),
            scene.mean_error(),
        )

    def text(self) -> str:
        """One line for a person."""
        return (
            f"{counted(self.images, 'image')}, {self.points} points, mean track length "
            f"{self.track_length:.2f}, mean reprojection error "
            f"{'–' if math.isnan(self.error) else f'{self.error:.3f} px'}"
        )


@dataclass(frozen=True)
class RefineSummary:
    """What refining a model came to.

    output: a local folder, or a URL without credentials. before, after: of the given model and of
    the written one. masked: observations left out because of masks, before any measurement.
    """

    output: Path | str
    before: ModelCounts
    after: ModelCounts
    rounds: list[RoundSummary]
    failures: list[str]
    masked: int = 0
    masks: MaskCounts | None = None

    @property
    def better(self) -> bool:
        """Whether a round made the model better."""
        return any(made.kept for made in self.rounds)

    def text(self) -> str:
        """Format the report, a few lines for a person."""
        lines = [f"before:   {self.before.text()}"]
        if self.masks is not None:
            lines.append(f"masks:    {masks_line(self.masks)}")
        if self.masked:
            lines.append(
                f"masked:   {self.masked} observations lie in masked places, and are left out"
            )
        for number, made in enumerate(self.rounds):
            lines += [f"round {number}:  {line}" for line in made.lines()]
        lines.append(f"after:    {self.after.text()}")
        lines += [f"note: {failure}" for failure in self.failures]
        return "\n".join(lines) + "\n"


def refine_colmap_model(
    model: Place,
    photographs: Folder,
    output: Place,
    options: RefineOptions,
    executor: Executor,
    actors: Actors = DEFAULT_ACTORS,
    *,
    masks: Folder | None = None,
    fixed_cameras: bool = False,
    threads: int = 1,
    scratch: str | Path | None = None,
    listen: Listener = nobody,
) -> RefineSummary:
    """Refine the COLMAP model of a folder or a URL, which stays as it is.

    output: a local folder or one at a URL. It gets the model, `points.ply`, `summary.json` and
        `report.txt`; `refine/` in it holds the measurements, with which a stopped command goes on.
    masks: folder of masks of the photographs. The refined model observes nothing where they are 0.
    fixed_cameras: keep all intrinsics.
    threads: of the adjustment. With 1 the model is the same every time; −1 takes all cores.
    scratch: see `opened_results`.

    Raises ReconstructionError for a folder without a model, for an output that is or lies in the
    model or the photographs, and where COLMAP's process ends, as it does where memory ends. Raises
    StorageError for an output that cannot be written to.
    """
    check_threads(threads)
    check_output(output, [model], [photographs])
    with files_of_model(model, scratch) as given, opened_results(output, scratch) as results:
        target = results.work
        try:
            with Worker() as colmap:
                before, cameras, taken_by = colmap.ask(_described, given)
                check_sizes_of_some(photographs, taken_by)
                found = None if masks is None else find_masks(masks, [*taken_by], listen=listen)
                freedom = Freedom(frozenset(cameras if fixed_cameras else ()), threads=threads)
                carrying = Carrying(executor, colmap, actors, listen)
                work = results.below("refine")
                how = options, carrying, freedom, found
                refined = refine_model(given.folder, photographs, work, *how)
                after = colmap.ask(_publish, refined.model, target)
        except Died as death:
            raise ReconstructionError(
                f"{results.shown}: the process of COLMAP was {death}; "
                "free memory, or refine fewer images."
            ) from death
        summary = RefineSummary(
            *(results.shown, before, after, refined.rounds, refined.failures),
            masked=refined.masked,
            masks=None if found is None else found.counts,
        )
        asked = {
            "model": given.shown,
            "images": photographs,
            "masks": masks,
            "refine": options,
            "fixed_cameras": fixed_cameras,
            "threads": threads,
        }
        write_summary(target, summary, asked)
        names = [*FILES_OF_A_MODEL, "points.ply", SUMMARY_FILE, REPORT_FILE]
        results.deliver(names, listen)
        return summary


def _described(given: ModelFiles) -> tuple[ModelCounts, list[int], dict[str, ModelCamera]]:
    """The counts of a model, the numbers of its cameras, and the camera of each image.

    Raises ReconstructionError where COLMAP cannot read it, or where it holds no points.
    """
    scene = SparseModel.of(given.read())
    if len(scene.views) < 2 or not len(scene.xyz):
        raise ReconstructionError(
            f"{given.shown}: has {len(scene.views)} images and {len(scene.xyz)} points; "
            "refining needs two images that share points."
        )
    return ModelCounts.of(scene), list(scene.views.cameras), scene.views.taken_by()


def _publish(model: Path, output: Path) -> ModelCounts:
    """Write the model and its points into the folder."""
    scene = read_scene(model)
    made = scene.made()
    scratch = output / ".model"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    disk.write_whole(made, scratch, scratch / "points.ply")
    for path in sorted(scratch.iterdir()):
        path.replace(output / path.name)
    scratch.rmdir()
    return ModelCounts.of(scene)
