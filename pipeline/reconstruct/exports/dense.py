"""Undistorted photographs and their model, ready for COLMAP's dense reconstruction.

`images/` holds them, each cut so that no pixel is blank, `sparse/` the model with pinhole cameras,
`stereo/` what `colmap patch_match_stereo` begins with. The scripts `run-colmap-*.sh` are COLMAP's.
"""

from __future__ import annotations

import struct
from pathlib import Path

from PIL import Image

from pipeline.errors import ReconstructionError
from pipeline.extras import import_pycolmap
from pipeline.reconstruct.exports.forms import NO_PINHOLE
from pipeline.reconstruct.tracks.scene import SparseModel
from pipeline.store import disk

ORIENTATION_TAG = 0x0112  # the tag of EXIF, a number of 2 bytes


def write_dense(scene: SparseModel, photographs: Path, folder: Path) -> None:
    """Write the folders.

    photographs: local folder, in which COLMAP can use those of all images. Raises
    ReconstructionError for a camera that no pinhole camera can stand for.
    """
    for number, camera in scene.views.cameras.items():
        if camera.model in NO_PINHOLE:
            raise ReconstructionError(
                f"camera {number}: is {camera.model}, which sees all around, so that no "
                "undistorted image can show it; cut the photographs into perspective views."
            )
    model = folder / "model"
    model.mkdir()
    disk.write_whole(scene.made(), model)
    import_pycolmap().undistort_images(folder, model, photographs)
    for path in model.iterdir():
        path.unlink()
    model.rmdir()
    for name in scene.views.names:
        if not (folder / "images" / name).is_file():
            raise ReconstructionError(
                f"{name}: COLMAP wrote no undistorted image; check the space on the disk."
            )
        lie_as_stored(folder / "images" / name)


def lie_as_stored(path: Path) -> None:
    """Set the EXIF orientation of an image to 1, and leave its pixels as they are.

    COLMAP copies the orientation of the photograph. Programs that obey it would turn the image
    against its camera, which is of the stored pixels.
    """
    with Image.open(path) as image:
        if image.getexif().get(ORIENTATION_TAG, 1) == 1:
            return
        if image.format != "JPEG":  # the others lose nothing by being written again
            image.load()
            image.save(path, format=image.format)
            return
    data = bytearray(path.read_bytes())
    start = data.index(b"Exif\0\0") + 6
    order = "<" if data[start : start + 2] == b"II" else ">"
    (ifd,) = struct.unpack_from(f"{order}I", data, start + 4)
    (count,) = struct.unpack_from(f"{order}H", data, start + ifd)
    for entry in range(start + ifd + 2, start + ifd + 2 + 12 * count, 12):
        if struct.unpack_from(f"{order}H", data, entry) == (ORIENTATION_TAG,):
            struct.pack_into(f"{order}H", data, entry + 8, 1)
    path.write_bytes(data)
