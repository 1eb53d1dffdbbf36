"""The summary of a reconstruction, as numbers and as text, and the files that keep both."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.events import counted
from pipeline.extras import versions
from pipeline.masks.folder import MaskCounts, masks_line
from pipeline.match.run import SUMMARY_FILE
from pipeline.reconstruct.cameras.adjust import used_cameras
from pipeline.reconstruct.cameras.assign import SharedCamera
from pipeline.reconstruct.cameras.focal import FocalDecision
from pipeline.reconstruct.database import REPORT_FILE, ImportSummary
from pipeline.reconstruct.depth import Depth, listed
from pipeline.reconstruct.refine.round import RoundSummary
from pipeline.store import disk
from pipeline.store.folder import Folder
from pipeline.store.retries import redacted

# Times a focal length of EXIF, from which a found one is no lens: EXIF's own is right to a tenth,
# and a survey that looks straight down hardly determines it.
DOUBTFUL = 1.5
SHOWN_CAMERAS, SHOWN_IMAGES = 10, 20  # in the text of a summary
MODEL_PACKAGES = ("eloftr-pipeline", "torch", "numpy", "scipy", "pycolmap", "pymetis")
KINDS = {Depth.SCENE: "", Depth.PLANE: ", a plane", Depth.NONE: ", no depth"}


@dataclass(frozen=True)
class ModelSummary:
    """Numbers of one sparse model."""

    images: int  # registered images
    points: int
    observations: int
    track_length: float  # mean, images per point
    error: float  # mean reprojection error, pixels
    focal: tuple[float, float, float]  # smallest, median and largest focal length, pixels
    depth: Depth = Depth.SCENE
    names: list[str] = field(default_factory=list)  # of the registered images
    rounds: list[RoundSummary] = field(default_factory=list)  # of its refinement

    @classmethod
    def of(
        cls, model: Any, depth: Depth = Depth.SCENE, rounds: Sequence[RoundSummary] = ()
    ) -> ModelSummary:
        """Sum up a `pycolmap.Reconstruction`. depth: of `model_depth`."""
        focals = [*_focal_lengths(model).values()]
        return cls(
            images=model.num_reg_images(),
            points=model.num_points3D(),
            observations=model.compute_num_observations(),
            track_length=model.compute_mean_track_length(),
            error=model.compute_mean_reprojection_error(),
            focal=(min(focals), float(np.median(focals)), max(focals)),
            depth=depth,
            names=sorted(model.images[image].name for image in model.reg_image_ids()),
            rounds=[*rounds],
        )


def _focal_lengths(model: Any) -> dict[int, float]:
    """In pixels, by the number of every camera that took a registered image."""
    return {camera: model.cameras[camera].mean_focal_length() for camera in used_cameras(model)}


def panorama_notes(models: Sequence[Any], panoramas: int) -> list[str]:
    """A note for every model on the panoramas that it holds. panoramas: of the run."""
    if not panoramas:
        return []
    notes = []
    for number, model in enumerate(models):
        rigs = [rig for rig in model.rigs.values() if rig.num_sensors() > 1]
        held = sum(
            model.frames[k].rig_id in {rig.rig_id for rig in rigs} for k in model.reg_frame_ids()
        )
        notes.append(
            f"model {number} holds {held} of {panoramas} panoramas, each a rig of its faces."
        )
    return notes


def doubtful_cameras(models: Sequence[Any], priors: Mapping[int, float]) -> list[str]:
    """A note for every model whose focal length is far from what EXIF says.

    models: `pycolmap.Reconstruction`, the largest first. priors: focal lengths in pixels, by the
        number of the camera, where EXIF tells them.
    """
    notes = []
    for number, model in enumerate(models):
        focals = _focal_lengths(model)
        used = focals.keys() & priors.keys()
        if not used:
            continue
        found, told = (float(np.median([of[k] for k in used])) for of in (focals, priors))
        if not 1 / DOUBTFUL < found / told < DOUBTFUL:
            notes.append(
                f"model {number} is not to be trusted: its focal length is {found:.0f} px and EXIF "
                f"says {told:.0f} px; match more photographs, or give a known camera by "
                "--intrinsics."
            )
    return notes


@dataclass(frozen=True)
class ReconstructionSummary:
    """The counts of the import, and the models.

    `models` is empty where nothing could be mapped. `notes` then says why. `output` is a local
    folder, or a URL without credentials.
    """

    output: Path | str
    database: ImportSummary
    models: list[ModelSummary]  # largest first
    unregistered: list[str]  # images in none of the models
    notes: list[str]
    focal: list[FocalDecision] = field(default_factory=list)  # where EXIF's counted
    masks: MaskCounts | None = None

    def has_depth(self) -> bool:
        """Whether one of the models is more than images that fit together at any depth."""
        return any(model.depth is not Depth.NONE for model in self.models)

    def text(self) -> str:
        """Format the report, a few lines for a person."""
        data = self.database
        lines = [
            f"database: {counted(data.images, 'image')}, {counted(data.cameras, 'camera')}, "
            f"{data.keypoints} keypoints",
            f"pairs:    {data.verified} of {data.pairs} verified, {data.matches} inlier matches, "
            f"{data.merged_matches} with shared keypoints",
        ]
        if self.masks is not None:
            lines.append(f"masks:    {masks_line(self.masks)}")
        lines += _shared_cameras(data.shared_cameras)
        for number, model in enumerate(self.models):
            low, median, high = model.focal
            lines += [
                f"model {number}:  {model.images} of {data.images} images registered, "
                f"{model.points} points{KINDS[model.depth]}",
                f"          mean track length {model.track_length:.2f}, "
                f"mean reprojection error {model.error:.3f} px, "
                f"{model.observations / model.images:.0f} observations per image",
                f"          focal length {median:.1f} px"
                + (f" ({low:.1f} to {high:.1f})" if high > low else ""),
            ]
            lines += [f"          refined {line}" for made in model.rounds for line in made.lines()]
            if len(self.models) > 1:
                lines.append(f"          images {listed(model.names, SHOWN_IMAGES)}")
        left_out = {
            "repeated pairs": data.duplicate_pairs,
            "pairs of a mirrored with an unmirrored file": data.mirrored_pairs,
            "matches outside their image": data.outside,
            "matches in masked places": data.masked,
        }
        lines += [f"left out: {count} {what}" for what, count in left_out.items() if count]
        if self.unregistered and self.models:
            shown = listed(self.unregistered, SHOWN_IMAGES)
            lines.append(f"not registered: {counted(len(self.unregistered), 'image')}: {shown}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)]) + "\n"


def _shared_cameras(shared: Sequence[SharedCamera]) -> list[str]:
    """A line for each of the first cameras of several images, or of given intrinsics."""
    lines = [
        f"camera {camera.camera}: {counted(camera.images, 'image')}, "
        f"{'kept as given, ' if camera.fixed else ''}by {camera.why}"
        for camera in shared[:SHOWN_CAMERAS]
    ]
    more = len(shared) - SHOWN_CAMERAS
    return [*lines, f"… {more} more cameras of several images"] if more > 0 else lines


def write_summary(folder: Path, summary: Any, asked: Mapping[str, Any]) -> None:
    """Write `summary.json`, and `report.txt` last.

    summary: a dataclass with a `text`. Its `output` is left out, because results may be moved.
    asked: the options of the work by name; folders are written without credentials.
    """
    made_with = {"python": platform.python_version(), **versions(MODEL_PACKAGES)}
    numbers = {name: value for name, value in _plain(summary).items() if name != "output"}
    told = {"asked": _plain(asked), "versions": made_with, **numbers}
    disk.replace(str(folder / SUMMARY_FILE), (json.dumps(told, indent=2) + "\n").encode())
    (folder / REPORT_FILE).write_text(summary.text(), encoding="utf-8")


def _plain(value: Any) -> Any:
    """A value of options and summaries as JSON has it."""
    if isinstance(value, Folder):
        return value.shown
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple | Set):
        return [_plain(one) for one in (sorted(value) if isinstance(value, Set) else value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return redacted(value) if "://" in value else value
    return value if isinstance(value, int | None) else str(value)
