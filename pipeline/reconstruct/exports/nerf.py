"""`transforms.json`, which Instant-NGP and nerfstudio read, with `points.ply`.

`transform_matrix` goes from the camera to the world. The camera has the axes of OpenGL: x to the
right, y up, and it looks along −z. The world is the one of the model, without turn or scale. Pixels
are of the stored photographs, whose EXIF orientation both programs leave alone, and (0, 0) is the
corner of the first one, as with COLMAP.

Source: https://docs.nerf.studio/quickstart/data_conventions.html, and colmap2nerf.py of
https://github.com/NVlabs/instant-ngp.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import ReconstructionError
from pipeline.reconstruct.exports.forms import (
    DISTORTION,
    FISHEYE_LENSES,
    PINHOLE,
    RADIAL,
    check_cameras,
    named_params,
)
from pipeline.reconstruct.tracks.scene import ModelCamera, ModelViews, SparseModel

OPENGL = np.diag([1.0, -1.0, -1.0])  # axes of OpenGL in those of COLMAP: x right, y down, z forward


def write_nerf(scene: SparseModel, folder: Path) -> None:
    """Write `transforms.json` and `points.ply`. Photographs are named as `images/NAME`.

    Raises ReconstructionError for a camera that the format does not know.
    """
    views = scene.views
    check_cameras(views, (*PINHOLE, *RADIAL, "OPENCV", *FISHEYE_LENSES), "nerf")
    if len({camera.model in FISHEYE_LENSES for camera in views.cameras.values()}) > 1:
        raise ReconstructionError(
            "nerf: the model has cameras with and without fisheye lenses, and transforms.json "
            "has one kind for all; export --format dense, and then the model in its folder sparse."
        )
    cameras = {number: _intrinsics(camera) for number, camera in views.cameras.items()}
    shared = next(iter(cameras.values())) if len(cameras) == 1 else {}
    named = {"camera_model", "is_fisheye"}  # of all images together
    of_all = shared or {k: v for k, v in next(iter(cameras.values())).items() if k in named}
    frames = []
    for view, name in enumerate(views.names):
        frame: dict[str, Any] = {"file_path": f"images/{name}"}
        if not shared:
            mine = cameras[int(views.camera[view])]
            frame |= {key: value for key, value in mine.items() if key not in named}
        frames.append(frame | {"transform_matrix": _camera_to_world(views, view).tolist()})
    content = {**of_all, "ply_file_path": "points.ply", "frames": frames}
    text = json.dumps(content, indent=1, ensure_ascii=False)
    (folder / "transforms.json").write_text(text + "\n", encoding="utf-8")
    scene.made().export_PLY(folder / "points.ply")


def _intrinsics(camera: ModelCamera) -> dict[str, Any]:
    """Of one camera: pixels, radians, and no unit for the distortion."""
    named = named_params(camera)
    found: dict[str, Any] = {"camera_model": "OPENCV"}
    if camera.model in FISHEYE_LENSES:
        found = {"camera_model": "OPENCV_FISHEYE", "is_fisheye": True}
    found |= {"w": camera.width, "h": camera.height, "fl_x": named["fx"], "fl_y": named["fy"]}
    found |= {"cx": named["cx"], "cy": named["cy"]}
    found |= {
        "camera_angle_x": 2 * math.atan(camera.width / 2 / named["fx"]),
        "camera_angle_y": 2 * math.atan(camera.height / 2 / named["fy"]),
    }
    return found | {name: named[name] for name in DISTORTION}


def _camera_to_world(views: ModelViews, view: int) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3] = views.rotation[view].T @ OPENGL
    pose[:3, 3] = views.centres()[view]
    return pose
