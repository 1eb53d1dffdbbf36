"""Small pictures of a run's photographs for the page, and when they were taken."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial

from PIL import Image

from pipeline.errors import ImageError, StorageError
from pipeline.photos.decode import decode_thumbnail
from pipeline.photos.exif import capture
from pipeline.photos.limits import DEFAULT_LIMITS
from pipeline.photos.panoramas.source import FaceFolder, read_picture
from pipeline.photos.source import Folders, read_file
from pipeline.store.folder import Folder

LARGE_SIDE, SMALL_SIDE = 480, 128  # pixels of the longer side
QUALITY = 72  # of JPEG
MOST_SMALL = 700  # photographs that are read for their small picture alone
THREADS = 4  # a read waits for storage some of the time
TWO_FOLDERS = re.compile("query: (.*), database: (.*)")  # how a reranking names them

PhotoSource = Folder | Folders | FaceFolder


@dataclass
class Pictures:
    """What was found in photographs, by their names.

    small, large: JPEG as base64; every photograph that was read has a small one.
    taken: when, as `2024-05-01 12:30:00`, by the camera's clock.
    missing: those that could not be read.
    """

    small: dict[str, str] = field(default_factory=dict)
    large: dict[str, str] = field(default_factory=dict)
    taken: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def photographs_of_run(shown: str, storage: dict[str, object]) -> Folder | Folders:
    """The folder of the photographs of a run, from the `images` of its run.json."""
    both = TWO_FOLDERS.fullmatch(shown)
    if both is None:
        return Folder(shown, storage)
    labels = zip(("query", "database"), both.groups(), strict=True)
    return Folders({label: Folder(url, storage) for label, url in labels})


def read_pictures(photographs: PhotoSource, large: Sequence[str], small: Sequence[str]) -> Pictures:
    """Read photographs once each and make small pictures of them.

    large: those that are shown at LARGE_SIDE. small: the others. A photograph that cannot be read
    is named in the result, and nothing is raised.
    """
    wanted = [(name, LARGE_SIDE) for name in dict.fromkeys(large)]
    wanted += [(name, SMALL_SIDE) for name in dict.fromkeys(small) if name not in {*large}]
    found = Pictures()
    with ThreadPoolExecutor(THREADS) as threads:
        read = threads.map(partial(_picture, photographs), *zip(*wanted, strict=True))
        for (name, side), one in zip(wanted, read if wanted else (), strict=True):
            if one is None:
                found.missing.append(name)
                continue
            found.small[name], large_one, seconds = one
            if side == LARGE_SIDE:
                found.large[name] = large_one
            if math.isfinite(seconds):
                taken = datetime.fromtimestamp(seconds, timezone.utc)
                found.taken[name] = taken.strftime("%Y-%m-%d %H:%M:%S")
    return found


def _picture(photographs: PhotoSource, name: str, side: int) -> tuple[str, str, float] | None:
    """A small JPEG and one of a side, and the seconds of `Capture`; None for what is unreadable."""
    try:
        if isinstance(photographs, FaceFolder) and name in photographs.faces:
            pixels, _ = read_picture(photographs, name, DEFAULT_LIMITS, side)
            return *_encoded(Image.fromarray(pixels), side), math.nan
        folder = photographs.folder if isinstance(photographs, FaceFolder) else photographs
        data = read_file(folder, name, DEFAULT_LIMITS)
        picture, _ = decode_thumbnail(data, side, name=name)
        return *_encoded(picture, side), capture(data, name).seconds
    except (ImageError, StorageError, OSError, KeyError):  # KeyError: a label of another folder
        return None
    except Exception:  # Pillow's decoders raise whatever their input provokes
        return None


def _encoded(image: Image.Image, side: int) -> tuple[str, str]:
    """A picture at SMALL_SIDE and at a side that is not smaller, JPEG as base64."""
    image = image.convert("RGB")
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    large = _jpeg(image)
    if side == SMALL_SIDE:
        return large, large
    image.thumbnail((SMALL_SIDE, SMALL_SIDE), Image.Resampling.LANCZOS)
    return _jpeg(image), large


def _jpeg(image: Image.Image) -> str:
    image.save(data := io.BytesIO(), "JPEG", quality=QUALITY, optimize=True)
    return base64.b64encode(data.getvalue()).decode()
