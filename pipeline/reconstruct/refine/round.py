"""The end of a round, after its measurements: adjust, leave out what does not fit, adjust again."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ReconstructionError
from pipeline.events import counted
from pipeline.masks.folder import Masks
from pipeline.photos.source import Folders
from pipeline.reconstruct.refine.adjust import ROUGH_GAIN, Freedom, adjusted, fitting, steadied
from pipeline.reconstruct.refine.cameras import decide_cameras
from pipeline.reconstruct.refine.masked import without_masked
from pipeline.reconstruct.refine.merge import LEAST_OBSERVATIONS, LOOSE, measured_scene
from pipeline.reconstruct.tracks.options import RefineOptions
from pipeline.reconstruct.tracks.photographs import scale
from pipeline.reconstruct.tracks.plan import read_scene
from pipeline.reconstruct.tracks.scene import SparseModel
from pipeline.store import disk
from pipeline.store.folder import Folder

UNSEEN = "its windows were found in fewer than half of the images"


@dataclass(frozen=True)
class RoundSummary:
    """What a round came to.

    long_side: pixels. points, observations, track_length, error: of its model, the last as
    `SparseModel.mean_error`. added: observations of views that their track did not have. kept:
    whether the model is better than the one before; otherwise `why` says what is worse, and the
    model before stays. weak: names of the images that kept the observations they had. cameras: a
    line for every decision.
    """

    long_side: int
    points: int
    observations: int
    track_length: float
    error: float
    added: int
    kept: bool
    why: str
    weak: list[str]
    cameras: list[str]

    def lines(self) -> list[str]:
        """The same for a person."""
        first = f"at {self.long_side} px, {self.added} observations by other images"
        if not self.kept:
            return [f"{first}; not kept, because {self.why}"]
        lines = [first, *self.cameras]
        if self.weak:
            shown = ", ".join(self.weak[:5]) + (", …" if len(self.weak) > 5 else "")
            lines.append(f"few windows were found in {counted(len(self.weak), 'image')}: {shown}")
        return lines


def finish_round(
    before: Path,
    tables: Sequence[Path],
    target: Path,
    long_side: int,
    turn: tuple[bool, bool],
    options: RefineOptions,
    freedom: Freedom,
) -> tuple[RoundSummary, Freedom]:
    """Adjust the measurements of a round and write its model.

    before: folder of the model that was measured. tables: files of TRACKS. target: a folder that
    appears when the model in it is whole. turn: whether this round is the first, which decides
    about the cameras, and whether it is the last, which has the last threshold of `options`.

    Returns the summary, and the freedom of the cameras that the next round begins with.
    """
    scene = read_scene(before)
    tracks = pa.concat_tables([pq.read_table(table) for table in tables])
    found, weak = measured_scene(scene, tracks)
    factor = np.array(
        [1 / scale(scene.views.camera_of(v), long_side).mean() for v in range(len(scene.views))]
    )
    unit = float(np.median(factor))
    first, last = turn
    wide, tight = options.errors
    limits = [
        np.where(weak, LOOSE, limit) * factor for limit in (wide, tight if last else wide / 2)
    ]
    if len(found.xyz):
        found = adjusted(found, unit, freedom, ROUGH_GAIN)
        found = fitting(found, limits[0], options.angles[0])
    if len(found.xyz):
        found = adjusted(found, unit / 2, freedom, ROUGH_GAIN)
        found = fitting(found, limits[1], options.angles[1])
    lines: list[str] = []
    decided = freedom
    if len(found.xyz):
        if first:
            found, decided, lines = decide_cameras(found, unit / 2, freedom)
        found, steady = steadied(adjusted(found, unit / 2, decided), unit / 2, decided)
        if steady and freedom.places:  # that adjustment knew no places
            found = adjusted(
                found, unit / 2, replace(decided, fixed=frozenset(found.views.cameras))
            )
        lines += steady
    why = UNSEEN if weak.sum() > len(weak) / 2 else worse(scene, found)
    if not why:
        _write(found, target)
    added = int(tracks["added"].to_numpy().sum())
    summary = RoundSummary(
        long_side=long_side,
        points=len(found.xyz),
        observations=len(found.point),
        track_length=len(found.point) / max(len(found.xyz), 1),
        error=found.mean_error(),
        added=added,
        kept=not why,
        why=why,
        weak=[name for name, kept in zip(scene.views.names, weak, strict=True) if kept],
        cameras=lines,
    )
    return summary, freedom if why else decided


def masked_model(
    model: Path, masks: Masks, photographs: Folder | Folders, target: Path
) -> tuple[Path, int, list[str]]:
    """The folder of a model without observations in masked places, and how many it had there.

    target: a folder that appears when such a model in it is whole; of a model that has none there,
    the folder is its own. Last come sentences about masks that cannot be used. Raises
    ReconstructionError where no point is left.
    """
    scene = read_scene(model)
    found, failures = without_masked(scene, masks, photographs)
    if not len(found.xyz):
        cure = "check that 0 marks what is to be ignored"
        raise ReconstructionError(
            f"{masks.folder.shown}: the masks leave no point of the model; {cure}."
        )
    lost = len(scene.point) - len(found.point)
    if lost:
        _write(found, target)
    return (target if lost else model), lost, failures


def worse(before: SparseModel, after: SparseModel) -> str:
    """What is worse in `after` than it was in `before`; nothing where it may take its place."""
    if not len(after.xyz):
        return "no track could be measured"
    counts = [np.bincount(scene.view, minlength=len(scene.views)) for scene in (before, after)]
    least = np.minimum(counts[0], LEAST_OBSERVATIONS // 2)
    lost = np.flatnonzero(counts[1] < least)
    if len(lost):
        names = ", ".join(before.views.names[view] for view in lost[:3])
        return f"{len(lost)} images would lose their hold in the model, as {names}"
    if len(after.point) < len(before.point) / 2:
        return "more than half of the observations would be lost"
    errors = [float(np.median(scene.errors())) for scene in (before, after)]
    if not errors[1] <= errors[0]:
        return f"the reprojection error would rise from {errors[0]:.3f} to {errors[1]:.3f} px"
    focal = after.views.focal()
    if not (np.isfinite(focal) & (focal > 0)).all():
        return "a camera would have no focal length"
    return ""


def _write(scene: SparseModel, target: Path) -> None:
    scratch = target.with_name(f".{target.name}.writing")
    for folder in (scratch, target):
        shutil.rmtree(folder, ignore_errors=True)
    scratch.mkdir(parents=True)
    disk.write_whole(scene.made(), scratch)
    scratch.rename(target)
