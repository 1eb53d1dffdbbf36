"""NVM_V3, the format of VisualSFM.

A line an image: name, focal length, rotation as w x y z (world to camera), centre, r, 0. A line a
point: its place, colour and observations (image, feature, x, y), in pixels of the stored image from
the principal point, which readers take to be the middle of the image. VisualSFM's lens undoes the
distortion: `(x, y) · (1 + r · |x, y|² / f²)` is where a pinhole camera would see the point.
SIMPLE_RADIAL of COLMAP applies it, so r is fitted to the observations.

Source: the description of the format in VisualSFM's manual.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pipeline.extras import import_pycolmap
from pipeline.reconstruct.exports.forms import PINHOLE, check_cameras, named_params
from pipeline.reconstruct.tracks.scene import ModelCamera, SparseModel, rows_of_groups

EXACT = 1e-3  # pixels, below which nothing is said of a difference


def write_nvm(scene: SparseModel, folder: Path) -> list[str]:
    """Write `model.nvm`. Returns notes on what the format holds only nearly.

    Raises ReconstructionError for a camera that the format does not know.
    """
    views = scene.views
    check_cameras(views, (*PINHOLE, "SIMPLE_RADIAL"), "nvm", one_focal=True)
    lenses = {number: _fitted(scene, number) for number in views.cameras}
    centres = views.centres()
    lines = ["NVM_V3", "", str(len(views))]
    for view, name in enumerate(views.names):
        number = int(views.camera[view])
        x, y, z, w = import_pycolmap().Rotation3d(views.rotation[view]).quat
        focal, r = views.cameras[number].params[0], lenses[number][0]
        lines.append(f"{name} {_text([focal, w, x, y, z, *centres[view], r])} 0")
    lines += ["", str(len(scene.xyz))]
    lines += _points(scene)
    (folder / "model.nvm").write_text("\n".join([*lines, "", "0", ""]), encoding="utf-8")
    return _notes(scene, max(error for _, error in lenses.values()))


def _points(scene: SparseModel) -> list[str]:
    views = scene.views
    principal = np.array([_principal(views.camera_of(view)) for view in range(len(views))])
    xy = scene.xy - principal.reshape(-1, 2)[scene.view]
    feature = scene.keypoint_rows()
    lines = []
    for row, mine in enumerate(rows_of_groups(scene.point, len(scene.xyz))):
        seen = [f"{scene.view[o]} {feature[o]} {_text(xy[o])}" for o in mine]
        colour = " ".join(map(str, scene.colour[row]))
        lines.append(f"{_text(scene.xyz[row])} {colour} {len(mine)} {' '.join(seen)}")
    return lines


def _principal(camera: ModelCamera) -> list[float]:
    named = named_params(camera)
    return [named["cx"], named["cy"]]


def _fitted(scene: SparseModel, number: int) -> tuple[float, float]:
    """VisualSFM's r of a camera, and by how many pixels it errs at most where points are seen."""
    camera = scene.views.cameras[number]
    mine = scene.views.camera[scene.view] == number
    if named_params(camera)["k1"] == 0 or not mine.any():
        return 0.0, 0.0
    focal, *principal, _ = camera.params
    bent = np.linalg.norm((scene.xy[mine] - principal) / focal, axis=1)
    straight = np.linalg.norm(camera.made().cam_from_img(scene.xy[mine]), axis=1)
    good = np.isfinite(straight)
    bent, straight = bent[good], straight[good]
    r = float((straight - bent) @ bent**3 / (bent**6).sum())
    return r, float(focal * np.abs(bent + r * bent**3 - straight).max())


def _notes(scene: SparseModel, error: float) -> list[str]:
    notes = []
    if error > EXACT:
        notes.append(
            f"nvm has another lens than SIMPLE_RADIAL: it is up to {error:.3f} px off where points "
            "are seen"
        )
    middle = max(
        float(np.abs(np.array(_principal(camera)) - [camera.width / 2, camera.height / 2]).max())
        for camera in scene.views.cameras.values()
    )
    if middle > EXACT:
        notes.append(
            f"readers of nvm take the middle of an image as its principal point, which is up to "
            f"{middle:.3f} px away"
        )
    return notes


def _text(values: Iterable[float]) -> str:
    return " ".join(repr(float(value)) for value in values)
