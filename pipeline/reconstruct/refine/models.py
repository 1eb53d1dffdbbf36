"""Refine a COLMAP model that anybody made: a model and its photographs in, a sharper model out."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ReconstructionError
from pipeline.events import Listener, nobody
from pipeline.execute.executor import DEFAULT_ACTORS, Actors, Executor
from pipeline.execute.worker import Worker
from pipeline.photos.source import Folders
from pipeline.reconstruct.refine.adjust import Freedom
from pipeline.reconstruct.refine.job import Carrying, refine_model
from pipeline.reconstruct.refine.round import RoundSummary
from pipeline.reconstruct.tracks.options import RefineOptions
from pipeline.reconstruct.tracks.plan import read_scene
from pipeline.reconstruct.tracks.scene import SparseModel
from pipeline.store.folder import Folder


@dataclass(frozen=True)
class ModelCounts:
    """Images, points and observations of a model, and their mean error in pixels."""

    images: int
    cameras: int
    points: int
    observations: int
    track_length: float
    error: float

    @classmethod
    def of(cls, scene: SparseModel) -> ModelCounts:
        """The counts of a scene."""
        errors = scene.errors()
        return cls(
            len(scene.views),
            len(scene.views.cameras),
            len(scene.xyz),
            len(scene.point),
            len(scene.point) / max(len(scene.xyz), 1),
            float(errors.mean()) if len(errors) else float("nan"),
        )

    def text(self) -> str:
        """One line for a person."""
        return (
            f"{self.images} images, {self.points} points, mean track length "
            f"{self.track_length:.2f}, mean reprojection error {self.error:.3f} px"
        )


@dataclass(frozen=True)
class RefineSummary:
    """What refining a model came to. before, after: of the given model and of the written one."""

    output: Path
    before: ModelCounts
    after: ModelCounts
    rounds: list[RoundSummary]
    failures: list[str]

    @property
    def better(self) -> bool:
        """Whether a round made the model better."""
        return any(made.kept for made in self.rounds)

    def text(self) -> str:
        """Format the report, a few lines for a person."""
        lines = [f"before:   {self.before.text()}"]
        for number, made in enumerate(self.rounds):
            lines += [f"round {number}:  {line}" for line in made.lines()]
        lines.append(f"after:    {self.after.text()}")
        lines += [f"note: {failure}" for failure in self.failures]
        return "\n".join(lines) + "\n"


def refine_colmap_model(
    model: Path,
    photographs: Folder | Folders,
    output: Path,
    options: RefineOptions,
    executor: Executor,
    actors: Actors = DEFAULT_ACTORS,
    *,
    fixed_cameras: bool = False,
    threads: int = 1,
    listen: Listener = nobody,
) -> RefineSummary:
    """Refine the COLMAP model of a folder, which stays as it is.

    output: a local folder. It gets the model, `points.ply` and `report.txt`; `refine/` in it holds
        the measurements, with which a stopped command goes on.
    fixed_cameras: keep all intrinsics.
    threads: of the adjustment. With 1 the model is the same every time; −1 takes all cores.

    Raises ReconstructionError for a folder without a model, and for an output that is the model.
    """
    if not any((model / name).is_file() for name in ("images.bin", "images.txt")):
        raise ReconstructionError(
            f"{model}: holds no images.bin or images.txt; give the folder of one COLMAP model."
        )
    if output.resolve() == model.resolve():
        raise ReconstructionError(f"{output}: is the model itself; give another --output.")
    output.mkdir(parents=True, exist_ok=True)
    with Worker() as colmap:
        before, cameras = colmap.ask(_described, model)
        freedom = Freedom(frozenset(cameras if fixed_cameras else ()), threads=threads)
        carrying = Carrying(executor, colmap, actors, listen)
        refined = refine_model(model, photographs, output / "refine", options, carrying, freedom)
        after = colmap.ask(_publish, refined.model, output)
    summary = RefineSummary(output, before, after, refined.rounds, refined.failures)
    (output / "report.txt").write_text(summary.text(), encoding="utf-8")
    return summary


def _described(model: Path) -> tuple[ModelCounts, list[int]]:
    """The counts of a model, and the numbers of its cameras.

    Raises ReconstructionError where COLMAP cannot read it, or where it holds no points.
    """
    try:
        scene = read_scene(model)
    except Exception as error:  # COLMAP raises whatever a damaged file provokes
        raise ReconstructionError(
            f"{model}: COLMAP cannot read this model ({error}); make it again."
        ) from error
    if len(scene.views) < 2 or not len(scene.xyz):
        raise ReconstructionError(
            f"{model}: has {len(scene.views)} images and {len(scene.xyz)} points; "
            "refining needs two images that share points."
        )
    return ModelCounts.of(scene), list(scene.views.cameras)


def _publish(model: Path, output: Path) -> ModelCounts:
    """Write the model and its points into the folder."""
    scene = read_scene(model)
    made = scene.made()
    scratch = output / ".model"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    made.write_binary(scratch)
    made.export_PLY(scratch / "points.ply")
    for path in sorted(scratch.iterdir()):
        path.replace(output / path.name)
    scratch.rmdir()
    return ModelCounts.of(scene)
