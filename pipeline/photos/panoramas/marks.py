"""Which photographs are panoramas: those whose XMP says so, or all that are twice as wide as high.

The words are those of Google's Photo Sphere XMP (developers.google.com/streetview,
"photo sphere XMP metadata"). A file may show a part of a panorama. It then names the size of the
whole and where the part lies.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from eloftr.formats.opening import ORIENTATION, read_header, xmp_of
from pipeline.errors import ImageError, StorageError
from pipeline.photos.exif import HEADER_BYTES, HEADER_THREADS
from pipeline.photos.panoramas.sphere import Panorama
from pipeline.photos.source import Folders
from pipeline.store.folder import Folder
from pipeline.vocabulary import PanoramaMode, Reason

TIFF = (b"II*\0", b"MM\0*")  # first bytes of a file whose pixels Pillow gives upright
MARK = re.compile(rb"""GPano:ProjectionType\s*(?:=\s*["']|>)\s*equirectangular""", re.IGNORECASE)
# Numbers of GPano: the size of the whole, the place of the part, and the size of the part.
WHOLE = b"FullPanoWidthPixels", b"FullPanoHeightPixels"
PLACE = b"CroppedAreaLeftPixels", b"CroppedAreaTopPixels"
PART = b"CroppedAreaImageWidthPixels", b"CroppedAreaImageHeightPixels"
NEAR = 0.01  # by which the sides of a whole panorama, as a ratio, may be off 2


@dataclass(frozen=True)
class FoundPanoramas:
    """The panoramas of a folder by name, and why others that are marked cannot be used."""

    panoramas: dict[str, Panorama] = field(default_factory=dict)
    refused: dict[str, ImageError] = field(default_factory=dict)


def find_panoramas(
    folder: Folder | Folders, names: Sequence[str], mode: PanoramaMode
) -> FoundPanoramas:
    """Look for panoramas among photographs, in the first HEADER_BYTES of each.

    A file that cannot be read is no panorama here; whoever reads its pixels says what is wrong.
    """
    if mode is PanoramaMode.OFF:
        return FoundPanoramas()

    def of_file(name: str) -> Panorama | ImageError | None:
        try:
            data = folder.read_bytes(name, limit=HEADER_BYTES)
        except (StorageError, OSError):
            return None
        return read_panorama(name, data, mode)

    with ThreadPoolExecutor(HEADER_THREADS) as threads:
        found = dict(zip(names, threads.map(of_file, names), strict=True))
    return FoundPanoramas(
        {name: one for name, one in found.items() if isinstance(one, Panorama)},
        {name: one for name, one in found.items() if isinstance(one, ImageError)},
    )


def read_panorama(name: str, data: bytes, mode: PanoramaMode) -> Panorama | ImageError | None:
    """The panorama of a file by its first bytes, what is wrong with it, or None where it is none.

    mode: ALL takes also a file for a panorama that has no mark, if it is twice as wide as high.
    """
    xmp = xmp_of(data)
    marked = MARK.search(xmp) is not None
    if not (marked or mode is PanoramaMode.ALL):
        return None
    try:
        exif, (width, height) = read_header(data, name)
        turned = exif.get(ORIENTATION, 1) >= 5 and not data.startswith(TIFF)
    except Exception:  # Pillow raises arbitrary types for what is cut or no image
        return None
    width, height = (height, width) if turned else (width, height)
    if not marked:
        return Panorama(name, width, height, width, height) if width == 2 * height else None
    placed = _placed(name, width, height, xmp)
    if isinstance(placed, Panorama) and not placed.faces():
        return _refusal(f"it shows {_degrees(placed)}, and no face of 90 by 90 degrees whole")
    return placed


def _placed(name: str, width: int, height: int, data: bytes) -> Panorama | ImageError:
    """A marked panorama of so many pixels, where its numbers make sense."""
    whole, place, part = ([_number(data, word) for word in words] for words in (WHOLE, PLACE, PART))
    if not any(math.isfinite(value) for value in (*whole, *place, *part)):
        whole, place, part = [width, height], [0, 0], [width, height]
    if not all(math.isfinite(value) for value in (*whole, *place, *part)):
        return _refusal("its XMP names only some of the numbers that place a part of a panorama")
    if min(*whole, *part) < 1 or min(place) < 0 or not _inside(whole, place, part):
        return _refusal("its XMP names a part that lies not inside of the panorama")
    if abs(whole[0] / whole[1] - 2) > NEAR:
        cause = f"the whole panorama has {whole[0]:.0f}×{whole[1]:.0f} pixels"
        return _refusal(f"{cause}, and one of 360 by 180 degrees is twice as wide as high")
    # The file may be smaller than the part that its XMP describes.
    x, y = width / part[0], height / part[1]
    if abs(x / y - 1) > NEAR:
        return _refusal(f"its {width}×{height} pixels have not the shape that its XMP names")
    return Panorama(name, width, height, whole[0] * x, whole[1] * y, place[0] * x, place[1] * y)


def _inside(whole: list[float], place: list[float], part: list[float]) -> bool:
    """Whether a part lies in the whole. It may lie across the seam."""
    return part[0] <= whole[0] and place[1] + part[1] <= whole[1]


def _degrees(panorama: Panorama) -> str:
    across = 360 * panorama.width / panorama.full_width
    return f"{across:.0f} by {180 * panorama.height / panorama.full_height:.0f} degrees"


def _refusal(cause: str) -> ImageError:
    return ImageError(
        Reason.PARTIAL_PANORAMA, f"{cause}; give --panoramas off to match it as it is"
    )


def _number(data: bytes, word: bytes) -> float:
    """The number behind a word of GPano, NaN where it is absent."""
    pattern = rb"""GPano:%s\s*(?:=\s*["']|>)\s*\+?(-?\d+(?:\.\d+)?)""" % word
    found = re.search(pattern, data)
    return float(found[1]) if found else math.nan
