"""A folder of kapture 1.1: cameras, poses, points, keypoints and observations.

Poses go from the world to the camera, rotation as w x y z, as with COLMAP. Pixels are COLMAP's as
well: of the stored photographs, with (0, 0) at the corner of the first one. The timestamp of a
photograph is its number in the model. Keypoints are those of the model's points.

Source: kapture_format.adoc of https://github.com/naver/kapture.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from pipeline.extras import import_pycolmap
from pipeline.reconstruct.exports.forms import PINHOLE, RADIAL, check_cameras
from pipeline.reconstruct.tracks.scene import ModelCamera, SparseModel, rows_of_groups

KNOWN = (
    *(*PINHOLE, *RADIAL, "OPENCV", "FULL_OPENCV", "FOV", "OPENCV_FISHEYE"),
    *("SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "THIN_PRISM_FISHEYE"),
)
KIND = "eloftr"  # the folder of the keypoints


def write_kapture(scene: SparseModel, folder: Path) -> None:
    """Write the folders `sensors` and `reconstruction`.

    Raises ReconstructionError for a camera that the format does not know.
    """
    views = scene.views
    check_cameras(views, KNOWN, "kapture")
    sensors, reconstruction = folder / "sensors", folder / "reconstruction"
    keypoints = reconstruction / "keypoints" / KIND
    cameras = ([f"camera{n}", "", "camera", *_sensor(c)] for n, c in views.cameras.items())
    _write(
        sensors / "sensors.txt", "sensor_device_id, name, sensor_type, [sensor_params]+", cameras
    )
    records = [(str(views.numbers[v]), f"camera{views.camera[v]}") for v in range(len(views))]
    _write(
        sensors / "trajectories.txt",
        "timestamp, device_id, qw, qx, qy, qz, tx, ty, tz",
        ([*record, *_pose(scene, view)] for view, record in enumerate(records)),
    )
    _write(
        sensors / "records_camera.txt",
        "timestamp, device_id, image_path",
        ([*record, name] for record, name in zip(records, views.names, strict=True)),
    )
    points = zip(scene.xyz, scene.colour, strict=True)
    _write(
        reconstruction / "points3d.txt",
        "X, Y, Z, R, G, B",
        ([*_numbers(xyz), *map(str, colour)] for xyz, colour in points),
    )
    _write(keypoints / "keypoints.txt", "name, dtype, dsize", [[KIND, "float64", "2"]])
    for name, mine in zip(views.names, rows_of_groups(scene.view, len(views)), strict=True):
        path = keypoints / f"{name}.kpt"
        path.parent.mkdir(parents=True, exist_ok=True)
        scene.xy[mine].astype("<f8").tofile(path)
    _write(
        reconstruction / "observations.txt",
        "point3d_id, keypoints_type, [image_path, feature_id]*",
        _observations(scene),
    )


def _sensor(camera: ModelCamera) -> list[str]:
    return [camera.model, str(camera.width), str(camera.height), *_numbers(camera.params)]


def _pose(scene: SparseModel, view: int) -> list[str]:
    x, y, z, w = import_pycolmap().Rotation3d(scene.views.rotation[view]).quat
    return _numbers([w, x, y, z, *scene.views.shift[view]])


def _observations(scene: SparseModel) -> Iterator[list[str]]:
    rows = scene.keypoint_rows()
    for point, mine in enumerate(rows_of_groups(scene.point, len(scene.xyz))):
        seen = [(scene.views.names[scene.view[o]], str(rows[o])) for o in mine]
        yield [str(point), KIND, *(word for pair in seen for word in pair)]


def _numbers(values: Iterable[float] | np.ndarray) -> list[str]:
    return [repr(float(value)) for value in values]


def _write(path: Path, columns: str, rows: Iterable[Iterable[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"# kapture format: 1.1\n# {columns}\n", *(", ".join(row) + "\n" for row in rows)]
    path.write_text("".join(lines), encoding="utf-8")
