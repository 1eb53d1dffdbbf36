"""`sfm_data.json` of OpenMVG, as its library cereal writes it.

Poses are rotation (world to camera) and centre. The centre of the first pixel is (0, 0), as OpenMVG
samples it when it undistorts, so principal points and observations lie half a pixel before those of
COLMAP. Pixels are of the stored photographs.

Source: sfm_data_io_cereal.cpp, pose3_io.hpp and Camera_Pinhole_*.hpp of
https://github.com/openMVG/openMVG.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.reconstruct.exports.forms import (
    FISHEYE_LENSES,
    PINHOLE,
    RADIAL,
    check_cameras,
    named_params,
)
from pipeline.reconstruct.tracks.scene import ModelCamera, SparseModel, rows_of_groups

HALF = 0.5  # pixels between the origins of COLMAP and OpenMVG
FIRST = 1 << 31  # cereal marks with it what it sees for the first time
PLAIN_POINTER = 1 << 30  # and with this a pointer to the base class itself


def write_openmvg(scene: SparseModel, photographs: str, folder: Path) -> None:
    """Write `sfm_data.json`.

    photographs: the folder of the photographs, `root_path` of the file. Raises ReconstructionError
    for a camera that the format does not know.
    """
    views = scene.views
    known = (*PINHOLE, *RADIAL, "OPENCV", *FISHEYE_LENSES)
    check_cameras(views, known, "openmvg", one_focal=True)
    place = {number: row for row, number in enumerate(views.cameras)}
    entries, poses = [], []
    for view, (name, centre) in enumerate(zip(views.names, views.centres(), strict=True)):
        camera, path = views.camera_of(view), PurePosixPath(name)
        data = {
            "local_path": "" if len(path.parts) == 1 else f"{path.parent}/",
            "filename": path.name,
            "width": camera.width,
            "height": camera.height,
            "id_view": view,
            "id_intrinsic": place[int(views.camera[view])],
            "id_pose": view,
        }
        pointer = {"id": FIRST + 1 + view, "data": data}
        entries.append(_entry(view, {"polymorphic_id": PLAIN_POINTER, "ptr_wrapper": pointer}))
        pose = {"rotation": views.rotation[view].tolist(), "center": centre.tolist()}
        poses.append(_entry(view, pose))
    content = {
        "sfm_data_version": "0.3",
        "root_path": photographs,
        "views": entries,
        "intrinsics": _intrinsics(scene, FIRST + 1 + len(views)),
        "extrinsics": poses,
        "structure": _structure(scene),
        "control_points": [],
    }
    text = json.dumps(content, indent=1, ensure_ascii=False)
    (folder / "sfm_data.json").write_text(text + "\n", encoding="utf-8")


def _entry(key: int, value: Any) -> dict[str, Any]:
    return {"key": key, "value": value}


def _intrinsics(scene: SparseModel, pointer: int) -> list[dict[str, Any]]:
    """pointer: cereal's number of the first, above those of the views."""
    types: dict[str, int] = {}
    found = []
    for row, camera in enumerate(scene.views.cameras.values()):
        kind, data = _intrinsic(camera)
        of_kind: dict[str, Any] = {"polymorphic_id": types.get(kind, 0)}
        if kind not in types:
            types[kind] = len(types) + 1
            of_kind = {"polymorphic_id": FIRST + types[kind], "polymorphic_name": kind}
        found.append(_entry(row, {**of_kind, "ptr_wrapper": {"id": pointer + row, "data": data}}))
    return found


def _intrinsic(camera: ModelCamera) -> tuple[str, dict[str, Any]]:
    """OpenMVG's name of a kind of camera, and its values."""
    named = named_params(camera)
    data = {
        "width": camera.width,
        "height": camera.height,
        "focal_length": named["fx"],
        "principal_point": [named["cx"] - HALF, named["cy"] - HALF],
    }
    if camera.model in PINHOLE:
        return "pinhole", data
    if camera.model == "SIMPLE_RADIAL":
        return "pinhole_radial_k1", data | {"disto_k1": [named["k1"]]}
    if camera.model == "RADIAL":
        return "pinhole_radial_k3", data | {"disto_k3": [named["k1"], named["k2"], 0.0]}
    if camera.model == "OPENCV":
        order = [named["k1"], named["k2"], 0.0, named["p1"], named["p2"]]
        return "pinhole_brown_t2", data | {"disto_t2": order}
    return "fisheye", data | {"fisheye": [named[name] for name in ("k1", "k2", "k3", "k4")]}


def _structure(scene: SparseModel) -> list[dict[str, Any]]:
    feature = scene.keypoint_rows()
    found = []
    for row, mine in enumerate(rows_of_groups(scene.point, len(scene.xyz))):
        observations = [
            _entry(
                int(scene.view[o]),
                {"id_feat": int(feature[o]), "x": (scene.xy[o] - HALF).tolist()},
            )
            for o in mine
        ]
        found.append(_entry(row, {"X": scene.xyz[row].tolist(), "observations": observations}))
    return found
