"""Small upright photographs for a page, as many as a number of bytes holds."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.errors import ImageError, StorageError
from pipeline.photos.decode import decode_thumbnail
from pipeline.photos.panoramas.render import face_pixels
from pipeline.photos.panoramas.source import FaceFolder
from pipeline.photos.source import Folders, read_file
from pipeline.store.folder import Folder

LONGER_SIDES = (
    320,
    240,
    180,
    128,
    96,
)  # longer sides in pixels: the largest with which all have room
QUALITY = 72  # of a JPEG
TRIED = 12  # photographs that tell how many bytes one takes
THREADS = 4
OF_A_PANORAMA = 4  # times the side of a face that its panorama is read with

PhotographFolder = Path | Folder | Folders | FaceFolder


@dataclass(frozen=True)
class Thumbnail:
    """A small upright photograph. jpeg: its file. orientation: EXIF of the photograph, 1…8."""

    jpeg: bytes
    orientation: int

    def uri(self) -> str:
        """The file as a `data:` URI."""
        return "data:image/jpeg;base64," + base64.b64encode(self.jpeg).decode()


def thumbnail(photographs: PhotographFolder, name: str, side: int) -> Thumbnail:
    """One photograph, or one face of a panorama.

    side: longer side in pixels. Raises ImageError for one that cannot be read, and StorageError.
    """
    folder = Folder(str(photographs)) if isinstance(photographs, Path) else photographs
    face = folder.faces.get(name) if isinstance(folder, FaceFolder) else None
    if isinstance(folder, FaceFolder):
        name, folder = folder.file_of(name), folder.folder
    data = read_file(folder, name)
    picture, orientation = decode_thumbnail(
        data, side if face is None else OF_A_PANORAMA * side, name=name
    )
    if face is not None:
        picture = Image.fromarray(face_pixels(np.asarray(picture), face, side))
        orientation = 1
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY, optimize=True)
    return Thumbnail(file.getvalue(), orientation)


def thumbnails(
    photographs: PhotographFolder, names: Sequence[str], budget: int
) -> dict[str, Thumbnail | str]:
    """PhotographFolder by their names; for one that cannot be read, a sentence that says why.

    budget: bytes of all files. Where they would be more, photographs are smaller, down to the last
    of `LONGER_SIDES`, and then some are left out: those have no row. The ones that stay are spread
    evenly.
    """
    if not names:
        return {}
    spread = np.unique(np.linspace(0, len(names) - 1, TRIED).round().astype(int)).tolist()
    with ThreadPoolExecutor(THREADS) as threads:
        for side in LONGER_SIDES:
            read = partial(_read, photographs, side=side)
            tried = dict(zip(spread, threads.map(read, [names[k] for k in spread]), strict=True))
            sizes = [len(one.jpeg) for one in tried.values() if isinstance(one, Thumbnail)]
            room = int(budget / np.mean(sizes)) if sizes else len(names)
            if room >= len(names):
                break
        chosen = np.unique(np.linspace(0, len(names) - 1, min(room, len(names))).astype(int))
        rest = [k for k in chosen.tolist() if k not in tried]
        found = tried | dict(zip(rest, threads.map(read, [names[k] for k in rest]), strict=True))
    kept: dict[str, Thumbnail | str] = {}
    left = budget
    for row in sorted(found):
        one = found[row]
        left -= len(one.jpeg) if isinstance(one, Thumbnail) else 0
        if left >= 0:
            kept[names[row]] = one
    return kept


def _read(photographs: PhotographFolder, name: str, side: int) -> Thumbnail | str:
    try:
        return thumbnail(photographs, name, side)
    except (ImageError, StorageError, OSError) as error:
        return f"{name}: {error}"
