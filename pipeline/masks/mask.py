"""One mask: its file as pixels, and which points and cells of a photograph it keeps.

A pixel whose value is 0 is ignored and every other is kept, as by COLMAP. Of a picture in colours a
pixel is ignored where all three colours are 0. Transparency does not count.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from eloftr.config import CELL
from eloftr.matching.resizing import to_original
from pipeline.errors import ImageError
from pipeline.photos.exif import TRANSPOSE
from pipeline.photos.turns import View, canvas, unturned
from pipeline.vocabulary import Reason

Orientation = Callable[[], int]  # gives that of EXIF, 1…8
AROUND = 4  # pixels from the centre of a cell in which its matches begin and end
# From the upright picture to the stored one, where the two differ in shape.
BACK = {
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@dataclass(frozen=True)
class Mask:
    """Which pixels of a picture are kept. Small enough to be handed from process to process.

    shape: (H, W). packed: the compressed bits of all rows, each a whole number of bytes.
    """

    shape: tuple[int, int]
    packed: bytes

    @classmethod
    def of(cls, kept: np.ndarray) -> Mask:
        """The mask of (H, W) bool."""
        height, width = kept.shape
        return cls((height, width), zlib.compress(np.packbits(kept, axis=1).tobytes(), 1))

    def __getstate__(self) -> dict[str, Any]:
        return {"shape": self.shape, "packed": self.packed}

    @cached_property
    def _bits(self) -> np.ndarray:
        return np.frombuffer(zlib.decompress(self.packed), np.uint8).reshape(self.shape[0], -1)

    def keeps(self, points: np.ndarray) -> np.ndarray:
        """(N,) bool: whether the pixel nearest to each point is kept.

        points: (N, 2) (x, y) in pixels of the picture, the centre of the top-left one at (0, 0). A
        point outside of the picture has the nearest pixel of its edge.
        """
        places = np.floor(np.asarray(points, np.float64) + 0.5)
        last = np.array(self.shape[::-1]) - 1
        x, y = places.clip(0, last).astype(np.int64).reshape(-1, 2).T
        kept: np.ndarray = (self._bits[y, x >> 3] >> (7 - (x & 7)) & 1).astype(bool)
        return kept

    def cells(self, view: View, shape: tuple[int, int]) -> np.ndarray:
        """(h/8, w/8) bool: the cells of the network that hold a kept pixel.

        view: how the photograph is shown to the network. shape: (h, w) of its pixels there before
        they were turned. A place beside the photograph, in a corner of a turned one, counts as
        kept.
        """
        rows, columns = (_places(side) for side in canvas(shape, view.turn))
        points = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2)
        found = unturned(points.astype(np.float64), view.turn, shape)
        kept = self.keeps(to_original(found, shape, self.shape))
        if view.turn % 90:
            kept |= ((found < -0.5) | (found > np.array(shape[::-1]) - 0.5)).any(axis=1)
        width = 2 * AROUND + 1
        grid = kept.reshape(len(rows) // width, width, len(columns) // width, width)
        return np.asarray(grid.any(axis=(1, 3)))


def read_pixels(data: bytes, name: str, size: tuple[int, int]) -> np.ndarray:
    """The bytes of a mask → (H, W) bool, which pixels it keeps, as they lie in the file.

    name: of the mask, for messages. size: (width, height) of the photograph as it is stored. A mask
    has this size, or width and height changed over.

    Raises `ImageError` with the reason `mask`.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.size not in (size, size[::-1]):
                raise _other_size(name, image.size, size)
            values = _values(image)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise _unfit(name, "is no PNG") from error
    except Exception as error:  # Pillow's decoders raise whatever their input provokes
        raise _unfit(name, f"cannot be decoded as a PNG ({error})") from error
    return np.asarray(values.reshape(*values.shape[:2], -1).any(axis=2))


def ignored_share(data: bytes) -> float:
    """The share of the pixels of a mask that are ignored. Raises whatever Pillow does."""
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        values = _values(image)
    return float(1.0 - values.reshape(*values.shape[:2], -1).any(axis=2).mean())


def _values(image: Image.Image) -> np.ndarray:
    """Grey values (H, W) of any number of bits, or colours (H, W, 3) of 8 bits."""
    if image.mode == "LA":
        return np.asarray(image.getchannel("L"))
    if image.mode[0] in "1LI":  # I has 16 bits
        return np.asarray(image)
    return np.asarray(image.convert("RGBA"))[:, :, :3]


def as_upright(
    kept: np.ndarray, name: str, size: tuple[int, int], orientation: Orientation
) -> np.ndarray:
    """The pixels of a mask, turned as the photograph's EXIF orientation turns the photograph.

    kept: of `read_pixels`. size: (width, height) of the photograph as it is stored. A mask that
    fits only the upright photograph stays as it is. Raises as `read_pixels`.
    """
    told = orientation()
    if kept.shape == size[::-1]:
        return _transposed(kept, TRANSPOSE[told]) if told > 1 else kept
    _check_turned(name, size, told)
    return kept


def as_stored(
    kept: np.ndarray, name: str, size: tuple[int, int], orientation: Orientation
) -> np.ndarray:
    """The pixels of a mask over those of the photograph's file; see `as_upright`.

    orientation: is asked only where the mask does not fit the file.
    """
    if kept.shape == size[::-1]:
        return kept
    told = orientation()
    _check_turned(name, size, told)
    return _transposed(kept, BACK[told])


def _check_turned(name: str, size: tuple[int, int], orientation: int) -> None:
    """Raise where a mask with width and height changed over does not fit the upright photograph."""
    if orientation not in BACK:
        raise _other_size(name, size[::-1], size)


def _other_size(name: str, found: tuple[int, int], size: tuple[int, int]) -> ImageError:
    is_there, wanted = ("×".join(map(str, one)) for one in (found, size))
    return _unfit(name, f"has {is_there} pixels, and the photograph {wanted}")


def _unfit(name: str, cause: str) -> ImageError:
    return ImageError(Reason.MASK, f"its mask {name} {cause}")


def _transposed(kept: np.ndarray, how: Image.Transpose) -> np.ndarray:
    return np.asarray(Image.fromarray(kept.astype(np.uint8)).transpose(how)).astype(bool)


def _places(side: int) -> np.ndarray:
    """Along a side of so many pixels, the 2 · AROUND + 1 pixels of each cell in turn."""
    around = np.arange(-AROUND, AROUND + 1)
    return np.add.outer(np.arange(0, side, CELL), around).ravel().clip(0, side - 1)
