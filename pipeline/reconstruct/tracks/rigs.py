"""The rigs of a sparse model: views that are fixed to each other, as the faces of a panorama."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.extras import import_pycolmap


@dataclass(frozen=True)
class ModelRig:
    """A rig of several cameras.

    reference: number of the camera whose frame is the rig's. sensors: (3, 4) from the rig's frame
    to that of every other camera, by its number.
    """

    reference: int
    sensors: dict[int, np.ndarray]

    def cameras(self) -> set[int]:
        """The numbers of its cameras."""
        return {self.reference, *self.sensors}


def rigs_of(model: Any) -> list[ModelRig]:
    """The rigs of several cameras of a `pycolmap.Reconstruction`."""
    rigs = []
    for number in sorted(model.rigs):
        rig = model.rigs[number]
        if rig.num_sensors() > 1:
            others = {
                sensor.id: pose.matrix() for sensor, pose in sorted_sensors(rig.non_ref_sensors)
            }
            rigs.append(ModelRig(rig.ref_sensor_id.id, others))
    return rigs


def sorted_sensors(sensors: Any) -> list[tuple[Any, Any]]:
    """Sensors of a rig with their poses, by the numbers of the cameras."""
    return sorted(sensors.items(), key=lambda item: item[0].id)


def add_rig(model: Any, rig: ModelRig, cameras: dict[int, Any]) -> None:
    """Add a rig and its cameras to a `pycolmap.Reconstruction`. cameras: those there are."""
    pycolmap = import_pycolmap()
    made = pycolmap.Rig()
    made.rig_id = rig.reference
    for number in sorted(rig.cameras() & cameras.keys()):
        model.add_camera(cameras[number])
    made.add_ref_sensor(cameras[rig.reference].sensor_id)
    for number, matrix in rig.sensors.items():
        if number in cameras:
            rotation = pycolmap.Rotation3d(matrix[:, :3])
            made.add_sensor(cameras[number].sensor_id, pycolmap.Rigid3d(rotation, matrix[:, 3]))
    model.add_rig(made)


def add_frames(model: Any, rig: ModelRig, frame: np.ndarray, images: list[Any], poses: Any) -> None:
    """Add the frames of a rig, with their images.

    frame: (n,) number of the frame of each of `images`. poses: of each image, from the world.
    """
    pycolmap = import_pycolmap()
    members: dict[int, list[int]] = defaultdict(list)
    for row, number in enumerate(frame.tolist()):
        members[number].append(row)
    for rows in members.values():
        made = pycolmap.Frame()
        made.frame_id = min(images[row].image_id for row in rows)
        made.rig_id = rig.reference
        for row in rows:
            made.add_data_id(images[row].data_id)
        first = rows[0]
        to_rig = poses[first]
        sensor = rig.sensors.get(images[first].camera_id)
        if sensor is not None:
            there = pycolmap.Rigid3d(pycolmap.Rotation3d(sensor[:, :3]), sensor[:, 3])
            to_rig = there.inverse() * to_rig
        made.rig_from_world = to_rig
        model.add_frame(made)
        for row in rows:
            images[row].frame_id = made.frame_id
            model.add_image(images[row])
