"""A part of a model: the points inside a box, or some images with what they see."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import ArgumentError, ReconstructionError
from pipeline.events import counted
from pipeline.extras import import_pycolmap
from pipeline.reconstruct.depth import listed
from pipeline.reconstruct.models.files import MadeModel, ModelFiles

SHORTEST_TRACK = 2  # of a point


@dataclass(frozen=True)
class CropBox:
    """Points from `low` to `high`, both (x, y, z) and included."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def of(cls, given: str | Sequence[float]) -> CropBox:
        """A box from six numbers, x0 y0 z0 x1 y1 z1. Raises ArgumentError for others."""
        words = given.replace(",", " ").split() if isinstance(given, str) else [*given]
        try:
            numbers = tuple(float(word) for word in words)
        except ValueError:
            numbers = ()
        box = cls(numbers[:3], numbers[3:])
        if len(numbers) != 6 or not all(a < b for a, b in zip(box.low, box.high, strict=True)):
            raise ArgumentError(
                f"box {given!r}: is no box; give six numbers, x0 y0 z0 x1 y1 z1, each of the last "
                "three above that of the first three."
            )
        return box


@dataclass(frozen=True)
class Percentile:
    """The box that leaves out `share` per cent of the points at both ends of each axis."""

    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share < 50:
            raise ArgumentError(
                f"percentile {self.share:g}: leaves no points; give a number above 0 and below 50."
            )


@dataclass(frozen=True)
class NamedImages:
    """The images of a list. shown: the list, for a person."""

    names: tuple[str, ...]
    shown: str

    @classmethod
    def of(cls, text: str, shown: str) -> NamedImages:
        """From a text of a name a line; empty lines and those that begin with # are left out.

        Raises ArgumentError for a list without a name.
        """
        lines = [line.strip() for line in text.splitlines()]
        names = tuple(line for line in lines if line and not line.startswith("#"))
        if not names:
            raise ArgumentError(f"{shown}: names no image; give a list with a name a line.")
        return cls(names, shown)


KeptPart = CropBox | Percentile | NamedImages


def cropped(models: Sequence[Any], files: Sequence[ModelFiles], kept: KeptPart) -> MadeModel:
    """A part of a `pycolmap.Reconstruction`, with the numbers of the whole; for COLMAP's process.

    Of a box it holds the images that see a point in it. Of a list of images it holds the points
    that two of them see. A frame keeps the images that are kept.

    Returns the part, which stays in its frame, and sentences for a person. Raises
    ReconstructionError where nothing is left.
    """
    (model,), (source,) = models, files
    registered = {number: model.images[number] for number in model.reg_image_ids()}
    notes = []
    if isinstance(kept, NamedImages):
        wanted = {*kept.names}
        images = {number for number, image in registered.items() if image.name in wanted}
        unknown = sorted(wanted - {registered[number].name for number in images})
        if not images:
            raise ReconstructionError(
                f"{source.shown}: has none of the {len(wanted)} images of {kept.shown}; give names "
                f"as {listed(sorted(image.name for image in registered.values()), 3)}."
            )
        if unknown:
            notes.append(f"not in the model: {len(unknown)} of the list, {listed(unknown)}")
        points = {*model.point3D_ids()}
    else:
        points, box = _inside(model, source.shown, kept)
        notes.append(
            "the box reaches from {} to {}".format(
                *(" ".join(f"{value:.6g}" for value in end) for end in (box.low, box.high))
            )
        )
        images = {
            element.image_id
            for number in points
            for element in model.points3D[number].track.elements
        }
    made = _part(model, images, points)
    if not made.num_points3D() and not isinstance(kept, NamedImages):
        raise ReconstructionError(f"{source.shown}: has no point that is left; give a larger box.")
    left_out = sorted(image.name for number, image in registered.items() if number not in images)
    if left_out:
        notes.append(f"left out: {counted(len(left_out), 'image')}, {listed(left_out)}")
    return MadeModel(made, notes, source.world())


def _inside(model: Any, shown: str, kept: CropBox | Percentile) -> tuple[set[int], CropBox]:
    """Numbers of the points in a box, and the box. Raises ReconstructionError without any."""
    numbers = np.array(sorted(model.point3D_ids()), np.int64)
    if not len(numbers):
        raise ReconstructionError(f"{shown}: has no points, so that no box has any.")
    xyz = np.array([model.points3D[number].xyz for number in numbers.tolist()])
    if isinstance(kept, Percentile):
        low, high = np.percentile(xyz, [kept.share, 100 - kept.share], axis=0).tolist()
        kept = CropBox(tuple(low), tuple(high))
    inside = ((xyz >= kept.low) & (xyz <= kept.high)).all(axis=1)
    if not inside.any():
        low, high = (" ".join(f"{value:.4g}" for value in end) for end in (xyz.min(0), xyz.max(0)))
        raise ReconstructionError(
            f"{shown}: no point lies in the box; its points lie between {low} and {high}."
        )
    return {*numbers[inside].tolist()}, kept


def _part(model: Any, images: Collection[int], points: Collection[int]) -> Any:
    """The given images and points with their observations, their rigs and these rigs' cameras."""
    pycolmap = import_pycolmap()
    made = pycolmap.Reconstruction()
    _add_images(made, model, images)
    for number in sorted(points):
        old = model.points3D[number]
        track = pycolmap.Track()
        for element in old.track.elements:
            if element.image_id in images:
                track.add_element(element.image_id, element.point2D_idx)
        if track.length() >= SHORTEST_TRACK:
            point = pycolmap.Point3D()
            point.xyz, point.color, point.track = old.xyz, old.color, track
            made.add_point3D_with_id(number, point)
    made.update_point_3d_errors()
    return made


def _add_images(made: Any, model: Any, images: Collection[int]) -> None:
    """Images with their keypoints, frames, rigs and cameras. A frame keeps those that are given."""
    pycolmap = import_pycolmap()
    camera = pycolmap.SensorType.CAMERA
    frames = [model.frames[n] for n in sorted({model.images[n].frame_id for n in images})]
    rigs = [model.rigs[n] for n in sorted({frame.rig_id for frame in frames})]
    sensors = [sensor for rig in rigs for sensor in rig.sensor_ids()]
    for number in sorted({sensor.id for sensor in sensors if sensor.type == camera}):
        made.add_camera(model.cameras[number])
    for rig in rigs:
        made.add_rig(rig)
    for old in frames:
        frame = pycolmap.Frame()
        frame.frame_id, frame.rig_id = old.frame_id, old.rig_id
        for data in old.data_ids:
            if data.sensor_id.type != camera or data.id in images:
                frame.add_data_id(data)
        frame.rig_from_world = old.rig_from_world
        made.add_frame(frame)
    for number in sorted(images):
        old = model.images[number]
        xy = np.array([point.xy for point in old.points2D]).reshape(-1, 2)
        image = pycolmap.Image(old.name, xy, old.camera_id, number)
        image.frame_id = old.frame_id
        made.add_image(image)
    for old in frames:
        made.register_frame(old.frame_id)
