"""What a COLMAP model holds, in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.events import counted
from pipeline.reconstruct.models.files import ModelFiles
from pipeline.reconstruct.tracks.scene import SparseModel, mean_of_points

SHOWN = 5  # images with the fewest points, and cameras, that the text names
MIDDLE = (1.0, 99.0)  # percentiles between which most points lie


@dataclass(frozen=True)
class CameraInfo:
    """A camera of a model. focal: mean focal length in pixels. images: that it took."""

    number: int
    model: str
    width: int
    height: int
    focal: float
    params: tuple[float, ...]
    images: int


@dataclass(frozen=True)
class ImagePoints:
    """Points that an image sees."""

    name: str
    points: int


@dataclass(frozen=True)
class ModelInfo:
    """Numbers of a model. Lengths are in its own unit.

    model: where it is. rigs, frames: of all sensors; a camera alone is a rig of its own.
    error: `SparseModel.mean_error`; None without observations in front of their camera.
    behind: observations that are not. points_of_an_image: least, median and most.
    fewest: images with the fewest points, these first.
    points_box, cameras_box: least and largest x, y, z; of points, those of the 1st and the 99th
    percentile. Both are None where there is nothing.
    """

    model: str
    cameras: list[CameraInfo]
    rigs: int
    frames: int
    images: int
    points: int
    observations: int
    track_length: float
    error: float | None
    behind: int
    points_of_an_image: tuple[int, float, int]
    fewest: list[ImagePoints]
    points_box: tuple[list[float], list[float]] | None
    cameras_box: tuple[list[float], list[float]] | None

    def text(self) -> str:
        """Format the numbers, a few lines for a person."""
        least, middle, most = self.points_of_an_image
        error = "–" if self.error is None else f"{self.error:.3f} px"
        behind = f", {self.behind:,} behind their camera" if self.behind else ""
        frames, rigs = counted(self.frames, "frame"), counted(self.rigs, "rig")
        lines = [
            ("model", self.model),
            *(("camera", _camera_text(camera)) for camera in self.cameras[:SHOWN]),
        ]
        if len(self.cameras) > SHOWN:
            lines.append(("", f"and {counted(len(self.cameras) - SHOWN, 'camera')} more"))
        lines += [
            ("images", f"{self.images:,}, in {frames} of {rigs}"),
            ("points", f"{self.points:,}, seen {self.track_length:.2f} times on average"),
            ("observations", f"{self.observations:,}, mean error {error}{behind}"),
            ("an image sees", f"{least:,} to {most:,} points, {middle:,.0f} in the median"),
            ("fewest", ", ".join(f"{one.name} ({one.points:,})" for one in self.fewest) or "–"),
            ("points lie", _box_text(self.points_box)),
            ("cameras lie", _box_text(self.cameras_box)),
        ]
        return "".join(f"{name + ':' if name else '':15}{value}\n" for name, value in lines)


def described_model(files: ModelFiles) -> ModelInfo:
    """The numbers of a model; for COLMAP's process. Raises as `ModelFiles.read`."""
    model = files.read()
    scene = SparseModel.of(model)
    views = scene.views
    errors = scene.errors()
    front = np.isfinite(errors)
    seen = np.bincount(scene.view, minlength=len(views))
    order = sorted(range(len(views)), key=lambda row: (seen[row], views.names[row]))
    taken = Counter(views.camera.tolist())
    return ModelInfo(
        files.shown,
        [
            _camera_info(number, model.cameras[number], taken)
            for number in sorted(model.cameras.keys())
        ],
        model.num_rigs(),
        model.num_reg_frames(),
        len(views),
        len(scene.xyz),
        len(scene.point),
        len(scene.point) / max(len(scene.xyz), 1),
        mean_of_points(scene.point, errors) if front.any() else None,
        int((~front).sum()),
        (int(seen.min()), float(np.median(seen)), int(seen.max())) if len(seen) else (0, 0.0, 0),
        [ImagePoints(views.names[row], int(seen[row])) for row in order[:SHOWN]],
        _box(scene.xyz, MIDDLE),
        _box(views.centres(), (0.0, 100.0)),
    )


def _camera_info(number: int, camera: Any, taken: Counter[int]) -> CameraInfo:
    return CameraInfo(
        int(number),
        camera.model_name,
        int(camera.width),
        int(camera.height),
        float(camera.mean_focal_length()),
        tuple(float(value) for value in camera.params),
        taken[int(number)],
    )


def _camera_text(camera: CameraInfo) -> str:
    return (
        f"{camera.number}, {camera.model}, {camera.width} × {camera.height}, focal length "
        f"{camera.focal:.1f} px, {counted(camera.images, 'image')}"
    )


def _box(xyz: np.ndarray, between: Sequence[float]) -> tuple[list[float], list[float]] | None:
    if not len(xyz):
        return None
    low, high = np.percentile(xyz, between, axis=0).tolist()
    return low, high


def _box_text(box: tuple[list[float], list[float]] | None) -> str:
    if box is None:
        return "–"
    places = zip("xyz", *box, strict=True)
    return ", ".join(f"{axis} {low:.4g} to {high:.4g}" for axis, low, high in places)
