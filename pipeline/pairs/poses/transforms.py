"""`transforms.json` of nerfstudio and Instant-NGP: poses and cameras.

`transform_matrix` maps the camera to the world, and the camera has the axes of OpenGL. Numbers of a
camera stand at the top for all frames, or in a frame for this one. Pixels are of the stored
photograph, with (0, 0) at the corner of the first one, as with COLMAP.

Source: https://docs.nerf.studio/quickstart/data_conventions.html, and colmap2nerf.py of
https://github.com/NVlabs/instant-ngp.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.errors import PairListError
from pipeline.photos.cameras.intrinsics import Intrinsics

FISHEYE_MODEL = "OPENCV_FISHEYE"
MODELS = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", FISHEYE_MODEL)
STRAIGHT = 1e-4  # by which the axes of a rotation may miss a right angle or the length 1

FrameCamera = tuple[str, tuple[float, ...], tuple[int, int] | None]


def read_transforms(
    text: str, shown: str
) -> tuple[list[str], np.ndarray, list[FrameCamera | None]]:
    """The paths of n frames as they are written, matrices (n, 4, 4), and cameras of the frames.

    shown: how messages call the file. Raises PairListError for what is no such file.
    """
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise PairListError(f"{shown}: is no JSON ({error}); correct it.") from error
    frames = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(frames, list):
        raise PairListError(
            f"{shown}: is no transforms.json, as it has no list of frames; give frames with "
            "file_path and transform_matrix."
        )
    paths = [_path(frame, f"{shown}, frame {row}") for row, frame in enumerate(frames, 1)]
    matrices = [_matrix(frame, shown) for frame in frames]
    for path, matrix in zip(paths, matrices, strict=True):
        if not np.isfinite(matrix).all():
            number = matrix[~np.isfinite(matrix)][0]
            raise PairListError(
                f"{shown}: transform_matrix of {path} holds {number}, which is no number of a "
                "pose; correct it, or leave the frame out."
            )
        if matrix.shape not in ((3, 4), (4, 4)) or not _turns(matrix[:3, :3]):
            raise PairListError(
                f"{shown}: transform_matrix of {path} is no rotation with a place; give 4 rows of "
                "4 numbers, of a camera that is neither scaled nor mirrored."
            )
    whole = np.tile(np.eye(4), (len(paths), 1, 1))
    for row, matrix in enumerate(matrices):
        whole[row, :3] = matrix[:3]
    cameras = [_camera({**content, **frame}, f"{shown}, {frame['file_path']}") for frame in frames]
    return paths, whole, cameras


def _path(frame: Any, place: str) -> str:
    if not isinstance(frame, dict) or "file_path" not in frame:
        raise PairListError(f"{place}: has no file_path; give the path of its photograph.")
    return str(frame["file_path"])


def _matrix(frame: Mapping[str, Any], shown: str) -> np.ndarray:
    if "transform_matrix" not in frame:
        raise PairListError(
            f"{shown}: the frame of {frame['file_path']} has no transform_matrix; give 4 rows of 4 "
            "numbers, or leave the frame out."
        )
    try:
        return np.array(frame["transform_matrix"], float)
    except (TypeError, ValueError):
        raise PairListError(
            f"{shown}: transform_matrix of {frame['file_path']} is no matrix of numbers; give 4 "
            "rows of 4 numbers."
        ) from None


def grouped_cameras(
    names: list[str], cameras: list[FrameCamera | None], shown: str
) -> tuple[Intrinsics, ...]:
    """The cameras of images, those with equal numbers as one."""
    images: dict[FrameCamera, list[str]] = defaultdict(list)
    for name, camera in zip(names, cameras, strict=True):
        if camera is not None:
            images[camera].append(name)
    return tuple(
        Intrinsics(model, params, True, tuple(of), size, shown)
        for (model, params, size), of in images.items()
    )


def _turns(rotation: np.ndarray) -> bool:
    straight = np.allclose(rotation @ rotation.T, np.eye(3), atol=STRAIGHT)
    return bool(straight and np.linalg.det(rotation) > 0)


def _camera(row: Mapping[str, Any], place: str) -> FrameCamera | None:
    """The camera of a frame, None where nothing tells its focal length. Raises PairListError."""
    try:
        size = (int(row["w"]), int(row["h"])) if "w" in row and "h" in row else None
        focal = [float(row[name]) for name in ("fl_x", "fl_y") if name in row]
        if not focal and size and "camera_angle_x" in row:
            focal = [size[0] / 2 / math.tan(float(row["camera_angle_x"]) / 2)]
        if not focal:
            return None
        middle = [None, None] if size is None else [side / 2 for side in size]
        centre = [row.get(name, side) for name, side in zip(("cx", "cy"), middle, strict=True)]
        bent = {name: float(row.get(name, 0.0)) for name in ("k1", "k2", "k3", "k4", "p1", "p2")}
        kind = str(row.get("camera_model", "OPENCV"))
        pinhole = (focal[0], focal[-1], float(centre[0]), float(centre[1]))
    except (TypeError, ValueError) as error:
        cause = f"its camera lacks w, h, cx, cy or holds what is no number ({error})"
        raise PairListError(f"{place}: {cause}; give them in pixels.") from error
    if kind not in MODELS:
        raise PairListError(
            f"{place}: camera_model is {kind}; give one of {', '.join(MODELS)}, or the cameras by "
            "--intrinsics."
        )
    if kind == FISHEYE_MODEL or row.get("is_fisheye"):
        return FISHEYE_MODEL, (*pinhole, *(bent[f"k{k}"] for k in range(1, 5))), size
    if bent["k4"]:
        raise PairListError(
            f"{place}: has k4 of a lens that is no fisheye, and COLMAP knows no such lens; give "
            "the cameras by --intrinsics."
        )
    if not any(bent.values()):
        return "PINHOLE", pinhole, size
    plain = (*pinhole, bent["k1"], bent["k2"], bent["p1"], bent["p2"])
    if not bent["k3"]:
        return "OPENCV", plain, size
    return "FULL_OPENCV", (*plain, bent["k3"], 0.0, 0.0, 0.0), size
