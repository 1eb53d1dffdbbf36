"""Grey values of photographs as COLMAP sees them, in stored orientation, at the size of a round."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import numpy as np
from PIL import Image

from eloftr.matching.resizing import resize
from pipeline.errors import ImageError, ReconstructionError
from pipeline.photos.exif import TRANSPOSE
from pipeline.photos.panoramas.source import FaceFolder, read_whole
from pipeline.photos.sizes import stored_size
from pipeline.photos.source import Folders
from pipeline.reconstruct.tracks.scene import ModelCamera
from pipeline.store.folder import Folder
from pipeline.vocabulary import Reason

ROTATE_90, ROTATE_270 = Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270
MOST_BYTES = 256 << 20  # of decoded photographs that a process keeps
LOOKED_AT = 8  # photographs of a folder, whether they are those of a model


def measured_shape(camera: ModelCamera, long_side: int) -> tuple[int, int]:
    """The shape (h, w) at which a photograph is measured. It is never enlarged."""
    factor = min(1.0, long_side / max(camera.width, camera.height))
    return max(1, round(camera.height * factor)), max(1, round(camera.width * factor))


def scale(camera: ModelCamera, long_side: int) -> np.ndarray:
    """Pixels (x, y) of the measured image by pixels of the stored one."""
    height, width = measured_shape(camera, long_side)
    return np.array([width / camera.width, height / camera.height])


def check_sizes_of_some(folder: Folder, cameras: Mapping[str, ModelCamera]) -> None:
    """Look at the headers of a few photographs, before any work is done.

    cameras: by the names of images. Raises ReconstructionError where no photograph of them has the
    size of its camera, as in a folder of smaller copies.
    """
    other = ""
    for name in sorted(cameras)[:: max(1, len(cameras) // LOOKED_AT)]:
        camera, size = cameras[name], stored_size(folder.read_bytes, name)
        if size == (camera.width, camera.height):
            return
        if size is not None:
            sizes = f"{size[0]}×{size[1]} pixels, and its camera {camera.width}×{camera.height}"
            other = other or f"{name} has {sizes}"
    if other:
        raise ReconstructionError(
            f"{folder.shown}: {other}; give the photographs that the model was made of."
        )


class PhotographCache:
    """Reads photographs and keeps the last ones, within a bound of memory."""

    def __init__(
        self, folder: Folder | Folders | FaceFolder, long_side: int, most: int = MOST_BYTES
    ) -> None:
        self.folder, self.long_side, self.most = folder, long_side, most
        self.kept: OrderedDict[str, np.ndarray] = OrderedDict()

    def read(self, name: str, camera: ModelCamera) -> np.ndarray:
        """The grey values (h, w) uint8 of a photograph.

        Raises ImageError where it cannot be read, or has another size than its camera.
        """
        if name in self.kept:
            self.kept.move_to_end(name)
            return self.kept[name]
        pixels = resize(self._stored(name, camera), measured_shape(camera, self.long_side))
        self.kept[name] = pixels
        while sum(kept.nbytes for kept in self.kept.values()) > self.most and len(self.kept) > 1:
            self.kept.popitem(last=False)
        return pixels

    def _stored(self, name: str, camera: ModelCamera) -> np.ndarray:
        photo = read_whole(self.folder, name)
        if (photo.stored_width, photo.stored_height) != (camera.width, camera.height):
            found = f"{photo.stored_width}×{photo.stored_height}"
            raise ImageError(
                Reason.UNREADABLE,
                f"the file has {found} pixels, and its camera {camera.width}×{camera.height}",
            )
        return stored_from_upright(photo.gray, photo.orientation)


def stored_from_upright(gray: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels as they are stored, of pixels that were turned by their EXIF orientation."""
    if orientation == 1:
        return gray
    turn = TRANSPOSE[orientation]
    back = {ROTATE_90: ROTATE_270, ROTATE_270: ROTATE_90}.get(turn, turn)
    return np.asarray(Image.fromarray(gray).transpose(back))
