"""The formats of exports: what each writes and needs, and the names that they have for lenses."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from pipeline.errors import ReconstructionError
from pipeline.reconstruct.tracks.scene import ModelCamera, ModelViews

PINHOLE = ("SIMPLE_PINHOLE", "PINHOLE")
RADIAL = ("SIMPLE_RADIAL", "RADIAL")
FISHEYE_LENSES = (
    *("SIMPLE_FISHEYE", "FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE"),
    "OPENCV_FISHEYE",
)
NO_PINHOLE = ("EQUIRECTANGULAR",)  # sees all around
DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
SAME_FOCAL = 1e-9  # by how much two focal lengths that are one may differ, relatively

SPACE = r"\s"
OUTSIDE = r"(^|/)\.\.(/|$)|^/"  # leads out of the folder in which files get these names
COMMA_OR_EDGE = r",|^\s|\s$|[\r\n]"
EDGE = r"^\s|\s$|[\r\n]"


@dataclass(frozen=True)
class Form:
    """A format.

    files: what lies at the top of the folder. images: whether photographs are `needed`, are
    copied where they are `given`, or are `unused`. refused: patterns of names that its readers
    would misread, each with what is wrong with it.
    """

    files: tuple[str, ...]
    images: str = "unused"
    run: bool = False
    refused: tuple[tuple[str, str], ...] = ()


TO_FILES = (OUTSIDE, "leads out of the folder of photographs")
NO_SPACE = (SPACE, "has a space, which ends a name there")
EXPORT_FORMS = {
    "colmap-text": Form(
        ("rigs.txt", "frames.txt", "points3D.txt", "cameras.txt", "images.txt"),
        refused=(NO_SPACE,),
    ),
    "colmap-binary": Form(("rigs.bin", "frames.bin", "points3D.bin", "cameras.bin", "images.bin")),
    "ply": Form(("points.ply",)),
    "nvm": Form(("model.nvm",), refused=(NO_SPACE,)),
    "dense": Form(
        *(
            ("images", "stereo", "run-colmap-geometric.sh", "run-colmap-photometric.sh", "sparse"),
            "needed",
        ),
        refused=(TO_FILES, (EDGE, "begins or ends with a space or has a line break")),
    ),
    "nerf": Form(("images", "points.ply", "transforms.json"), "given", refused=(TO_FILES,)),
    "openmvg": Form(("sfm_data.json",), "given", refused=(TO_FILES,)),
    "hloc": Form(
        ("features.h5", "matches.h5", "pairs.txt"), run=True, refused=(NO_SPACE, TO_FILES)
    ),
    "kapture": Form(
        *(("sensors", "reconstruction"), "given"),
        refused=(TO_FILES, (COMMA_OR_EDGE, "has a comma, a line break, or a space at an end")),
    ),
}


def check_writable_names(names: list[str], form: str) -> None:
    """Raise ReconstructionError where a format cannot hold the name of an image."""
    for pattern, why in EXPORT_FORMS[form].refused:
        for name in names:
            if re.search(pattern, name):
                raise ReconstructionError(
                    f"{name!r}: {form} cannot hold this name, which {why}; rename the photograph "
                    "and the image of the model, or export another format."
                )


def named_params(camera: ModelCamera) -> dict[str, float]:
    """Parameters by COLMAP's names for them, pixels or without unit.

    There is always fx, fy, cx, cy, and one of each of DISTORTION, 0 where the camera has none.
    """
    names = [name.strip() for name in camera.made().params_info.split(",")]
    named = dict.fromkeys(DISTORTION, 0.0) | dict(zip(names, camera.params, strict=True))
    if "f" in named:
        named["fx"] = named["fy"] = named.pop("f")
    if "k" in named:
        named["k1"] = named.pop("k")
    return named


def check_cameras(
    views: ModelViews, known: Collection[str], form: str, *, one_focal: bool = False
) -> None:
    """Raise ReconstructionError where a camera is none of those that a format knows.

    one_focal: the format has one focal length for both axes.
    """
    cure = "export --format dense, and then the model in its folder sparse"
    for number, camera in views.cameras.items():
        if camera.model not in known:
            raise ReconstructionError(
                f"camera {number}: is {camera.model}, and {form} knows {', '.join(known)}; {cure}."
            )
        named = named_params(camera)
        if one_focal and abs(named["fx"] - named["fy"]) > SAME_FOCAL * named["fx"]:
            raise ReconstructionError(
                f"camera {number}: has focal lengths {named['fx']:g} and {named['fy']:g}, and "
                f"{form} knows one for both axes; export another format, or reconstruct with a "
                "camera model of one focal length, as SIMPLE_RADIAL."
            )
