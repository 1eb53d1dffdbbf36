"""Panoramas as rigs of COLMAP: their faces are cameras that are fixed to each other.

faces of N images → slots (one camera each), rigs (slots of the panoramas that have the same
faces), frames (the images of one panorama)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.events import counted
from pipeline.extras import import_pycolmap
from pipeline.photos.cameras.intrinsics import Intrinsics
from pipeline.photos.panoramas.sphere import Face
from pipeline.reconstruct.cameras.options import CameraOptions

MODEL = "SIMPLE_PINHOLE"


@dataclass(frozen=True)
class FaceRig:
    """A rig, whose slots are faces by their yaw.

    rotations: of every slot from the panorama's frame, (3, 3) each. frames: of every panorama the
    rows of its images, in the order of the slots.
    """

    side: int
    yaws: tuple[float, ...]
    rotations: tuple[np.ndarray, ...]
    frames: list[tuple[int, ...]]

    def intrinsics(self, names: Sequence[str]) -> list[Intrinsics]:
        """The known camera of every slot. names: of all images."""
        focal, middle = self.side / 2, self.side / 2
        what = f"of {len(self.yaws)} faces of {counted(len(self.frames), 'panorama')}"
        return [
            Intrinsics(
                MODEL,
                (focal, middle, middle),
                images=tuple(str(names[rows[slot]]) for rows in self.frames),
                place=f"the face at {yaw:.0f} degrees, {what}",
                slot=True,
                known=True,
            )
            for slot, yaw in enumerate(self.yaws)
        ]


def face_rigs(names: Sequence[str], faces: Mapping[str, Face]) -> list[FaceRig]:
    """The rigs of some images. A panorama whose faces are not all there has a rig of its own kind.

    faces: by the names of images; others are no faces.
    """
    of_panorama: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for row, name in enumerate(names):
        face = faces.get(str(name))
        if face is not None:
            of_panorama[face.panorama.name].append((face.yaw, row))
    kinds: dict[tuple[int, tuple[float, ...]], FaceRig] = {}
    for members in of_panorama.values():
        members.sort()
        some = [faces[str(names[row])] for _, row in members]
        yaws = tuple(yaw for yaw, _ in members)
        rig = FaceRig(some[0].side, yaws, tuple(face.rotation for face in some), [])
        rig = kinds.setdefault((rig.side, yaws), rig)
        rig.frames.append(tuple(row for _, row in members))
    return [kinds[key] for key in sorted(kinds)]


def with_faces(
    options: CameraOptions, rigs: Sequence[FaceRig], names: Sequence[str]
) -> CameraOptions:
    """The options with the known cameras of faces, which come before what a person gives."""
    known = [entry for rig in rigs for entry in rig.intrinsics(names)]
    return replace(options, intrinsics=(*known, *options.intrinsics)) if known else options


def write_rigs(target: Any, rigs: Sequence[FaceRig], of_image: np.ndarray, images: int) -> None:
    """Write rigs and frames of all images into an opened database.

    of_image: (N,) row of each image's camera. images: N.

    COLMAP wants all rigs or none, so an image that is no face gets a rig and a frame of its own.
    """
    pycolmap = import_pycolmap()
    inside = {row for rig in rigs for rows in rig.frames for row in rows}
    made: list[tuple[Any, list[tuple[int, ...]]]] = []
    for camera in sorted({int(of_image[row]) for row in range(images) if row not in inside}):
        rig = pycolmap.Rig()
        rig.add_ref_sensor(_sensor(camera))
        alone: list[tuple[int, ...]] = [
            (row,) for row in range(images) if row not in inside and of_image[row] == camera
        ]
        made.append((rig, alone))
    for one in rigs:
        rig = pycolmap.Rig()
        for slot, row in enumerate(one.frames[0]):
            sensor = _sensor(int(of_image[row]))
            if slot == 0:
                rig.add_ref_sensor(sensor)
                continue
            rotation = pycolmap.Rotation3d(one.rotations[slot] @ one.rotations[0].T)
            rig.add_sensor(sensor, pycolmap.Rigid3d(rotation, np.zeros(3)))
        made.append((rig, one.frames))
    frames = []
    for number, (rig, some) in enumerate(made, 1):
        rig.rig_id = number
        target.write_rig(rig, use_rig_id=True)
        frames += [(rows, number) for rows in some]
    for frame_id, (rows, number) in enumerate(sorted(frames), 1):
        frame = pycolmap.Frame()
        frame.frame_id, frame.rig_id = frame_id, number
        for row in rows:
            frame.add_data_id(pycolmap.data_t(_sensor(int(of_image[row])), row + 1))
        target.write_frame(frame, use_frame_id=True)


def _sensor(row: int) -> Any:
    pycolmap = import_pycolmap()
    return pycolmap.sensor_t(pycolmap.SensorType.CAMERA, row + 1)
