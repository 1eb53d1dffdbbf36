"""Which files of a folder are photographs, and how one of them is read."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from eloftr.formats.kinds import PHOTO_ENDINGS
from eloftr.formats.pages import several_pages
from eloftr.matching.resizing import resize
from pipeline.errors import ImageError, StorageError
from pipeline.photos.decode import decode_image
from pipeline.photos.exif import HEADER_THREADS
from pipeline.photos.limits import DEFAULT_LIMITS, ImageLimits
from pipeline.photos.sizes import bucket
from pipeline.store import disk
from pipeline.store.folder import Folder, Names
from pipeline.vocabulary import DEFAULT_LONG_SIDE, Reason

HEAD = 4096  # first bytes of a TIFF, which often hold its first directory
PREPROCESSING = 1  # counts up when the pixels that the network sees of a file change
SUFFIXES = tuple(ending for endings in PHOTO_ENDINGS.values() for ending in endings)


@dataclass(frozen=True)
class Folders:
    """Several folders read as one.

    A name is a label, a slash and the name in that folder: `query/a.jpg`. `Folders` lists and reads
    as `Folder` does, raises the same errors, and is picklable.

    parts: the folders by their labels.
    """

    parts: dict[str, Folder]

    @property
    def shown(self) -> str:
        """The folders without user, password and query, for messages and logs."""
        return ", ".join(f"{label}: {folder.shown}" for label, folder in self.parts.items())

    def list(self, suffixes: Sequence[str] = ()) -> Names:
        """Sorted names of the files of all folders that end in one of `suffixes`."""
        return sorted(
            f"{label}/{name}"
            for label, folder in self.parts.items()
            for name in folder.list(suffixes)
        )

    def read_bytes(self, name: str, limit: int | None = None) -> bytes:
        """A file's bytes, as `Folder.read_bytes` gives them."""
        label, _, inner = name.partition("/")
        return self.parts[label].read_bytes(inner, limit)

    def read_range(self, name: str, begin: int, end: int) -> bytes:
        """Bytes of a file, as `Folder.read_range` gives them."""
        label, _, inner = name.partition("/")
        return self.parts[label].read_range(inner, begin, end)


def image_source(
    images: str | dict[str, str], storage: dict[str, Any], follow_links: bool = False
) -> Folder | Folders:
    """The folder or folders that photographs are read from.

    images: a local folder or an fsspec URL, or several of them by their labels.

    The other arguments are those of `Folder`.
    """
    if isinstance(images, str):
        return Folder(images, storage, follow_links)
    return Folders({label: Folder(url, storage, follow_links) for label, url in images.items()})


def list_images(folder: Folder | Folders) -> list[str]:
    """Sorted names of the photographs of a folder and its subfolders.

    Hidden files and folders are left out.
    """
    return folder.list(SUFFIXES)


def linked_folders(folder: Folder | Folders) -> list[str]:
    """Sorted names of the linked folders whose photographs are left out: links are not followed."""
    if isinstance(folder, Folders):
        parts = folder.parts.items()
        return [f"{label}/{name}" for label, part in parts for name in linked_folders(part)]
    return disk.links_to_folders(folder.path()) if folder.local and not folder.follow_links else []


def photographs_of(listing: Sequence[str]) -> list[str]:
    """Those names of files whose endings are of photographs, in their order."""
    return [name for name in listing if name.lower().endswith(SUFFIXES)]


def with_pages(folder: Folder | Folders, names: Sequence[str]) -> list[str]:
    """Those photographs that are TIFF files of several pages, in their order.

    A few bytes of every TIFF are read. A file that cannot be read has one page.
    """
    tiffs = [name for name in names if name.lower().endswith((".tif", ".tiff"))]
    with ThreadPoolExecutor(HEADER_THREADS) as threads:
        found = [*threads.map(lambda name: _several(folder, name), tiffs)]
    return [name for name, several in zip(tiffs, found, strict=True) if several]


def _several(folder: Folder | Folders, name: str) -> bool:
    try:
        head = folder.read_bytes(name, limit=HEAD)
        return several_pages(
            lambda begin, end: (
                head[begin:end] if end <= len(head) else folder.read_range(name, begin, end)
            )
        )
    except (StorageError, OSError):
        return False


def read_file(folder: Folder | Folders, name: str, limits: ImageLimits = DEFAULT_LIMITS) -> bytes:
    """The bytes of a photograph; of a file that is too large, one more than the limits allow.

    Raises `ImageError` where the file is missing or cannot be read.
    """
    try:
        return folder.read_bytes(name, limit=limits.max_bytes)
    except FileNotFoundError as error:
        raise ImageError(Reason.MISSING, f"no file of this name in {folder.shown}") from error
    except (StorageError, OSError) as error:
        raise ImageError(Reason.UNREADABLE, str(error)) from error


def read_image(
    folder: Folder | Folders,
    name: str,
    limits: ImageLimits = DEFAULT_LIMITS,
    long_side: int = DEFAULT_LONG_SIDE,
) -> tuple[np.ndarray, dict[str, Any]]:
    """A photograph of a folder, as pixels for the network and as a row of `tables.IMAGES`.

    long_side: longer side of the pixels that the network sees.

    Returns the pixels (h, w) uint8 in the shape of their bucket, and the row. Raises `ImageError`
    with one of the reasons of `vocabulary.IMAGE_MEANINGS`.
    """
    photo = decode_image(read_file(folder, name, limits), limits, long_side, name)
    row = {key: value for key, value in vars(photo).items() if key != "gray"}
    return resize(photo.gray, bucket(photo.width, photo.height, long_side)), {"image": name, **row}
