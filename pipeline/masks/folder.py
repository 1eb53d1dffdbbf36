"""A folder of masks: which photograph has which mask, and reading them.

The mask of `a/b.jpg` is `a/b.jpg.png`, as for COLMAP, or else `a/b.png`.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np

from pipeline.errors import ImageError, StorageError
from pipeline.events import Listener, Progress, counted, nobody
from pipeline.masks.mask import Mask, Orientation, as_stored, as_upright, ignored_share, read_pixels
from pipeline.photos.exif import HEADER_BYTES, capture
from pipeline.photos.limits import DEFAULT_LIMITS, ImageLimits
from pipeline.photos.panoramas.source import FaceFolder
from pipeline.photos.source import Folders, photographs_of
from pipeline.store.folder import Folder, place
from pipeline.vocabulary import Reason

MASK_SUFFIX = ".png"
MASK_THREADS = 16  # a read waits for storage most of the time
BLOCK = 1024  # masks between two events of progress
SAMPLE = 20  # masks that are looked at before the work


class MaskCounts(TypedDict):
    """Numbers of a folder of masks.

    masked, unmasked: photographs with and without a mask. unused: masks of no photograph, and
    images that are no PNG.
    """

    masked: int
    unmasked: int
    unused: int


@dataclass(frozen=True)
class Masks:
    """Masks of a folder, by the names of their photographs. Picklable.

    of: the name of the mask of every photograph that is worked on and has one. files: SHA-256 of
    the contents of these masks. counts: of the whole folder. stray: the first one that is unused.
    """

    folder: Folder | Folders
    of: dict[str, str]
    files: str
    counts: MaskCounts
    stray: str = ""

    def described(self) -> dict[str, str]:
        """What tells these masks from others, for a file of the results."""
        return {"folder": self.folder.shown, "files": self.files}

    def only(self, image: str) -> Masks:
        """The same of one photograph."""
        return replace(self, of={name: self.of[name] for name in [image] if name in self.of})

    def upright(
        self,
        image: str,
        size: tuple[int, int],
        orientation: int,
        limits: ImageLimits = DEFAULT_LIMITS,
    ) -> Mask | None:
        """The mask of a photograph as EXIF turns it, None where all of its pixels are kept.

        size: (width, height) of the photograph as it is stored. orientation: EXIF, 1…8. Raises
        `ImageError` with the reason `mask`.
        """
        return self._made(image, size, limits, as_upright, lambda: orientation)

    def stored(
        self, image: str, size: tuple[int, int], photographs: Folder | Folders | FaceFolder | None
    ) -> Mask | None:
        """The mask of a photograph over the pixels of its file; see `upright`.

        photographs: tell the orientation where the mask fits the upright photograph alone.
        """

        def orientation() -> int:
            if photographs is None:
                return 1
            try:
                return capture(photographs.read_bytes(image, limit=HEADER_BYTES)).orientation
            except (StorageError, OSError):
                return 1

        return self._made(image, size, DEFAULT_LIMITS, as_stored, orientation)

    def _made(
        self,
        image: str,
        size: tuple[int, int],
        limits: ImageLimits,
        turned: Callable[[np.ndarray, str, tuple[int, int], Orientation], np.ndarray],
        orientation: Orientation,
    ) -> Mask | None:
        name = self.of.get(image)
        if name is None:
            return None
        try:
            data = self.folder.read_bytes(name, limit=limits.max_bytes)
        except (StorageError, OSError) as error:
            raise ImageError(Reason.MASK, f"its mask {name} cannot be read ({error})") from error
        if len(data) > limits.max_bytes:
            cause = f"its mask {name} has more than {limits.max_bytes} bytes"
            raise ImageError(Reason.MASK, cause)
        kept = read_pixels(data, name, size)
        if kept.all():
            return None
        return Mask.of(turned(kept, name, size, orientation))


def is_png(name: str) -> bool:
    """Whether the file of this name is a PNG by its ending, as masks are."""
    return name.lower().endswith(MASK_SUFFIX)


def mask_names(image: str) -> tuple[str, str]:
    """The two names that the mask of a photograph may have, the one that wins first."""
    return image + MASK_SUFFIX, posixpath.splitext(image)[0] + MASK_SUFFIX


def find_masks(
    folder: Folder | Folders,
    images: Sequence[str],
    used: Sequence[str] | None = None,
    listen: Listener = nobody,
) -> Masks:
    """Which photographs have a mask in a folder, which is read with its subfolders.

    used: those of the images that are worked on; None: all. listen: told after every BLOCK masks.

    Raises StorageError where the folder is missing, cannot be read or has no mask of any image.
    """
    there = photographs_of(folder.list())
    # An ending in capitals is as good; `sorted` puts it first, so that the other one stays.
    files = {f"{stem}{end.lower()}": stem + end for stem, end in map(posixpath.splitext, there)}
    of = {}
    for image in images:
        name = next((name for name in mask_names(image) if name in files), None)
        if name is not None:
            of[image] = files[name]
    if not of:
        example = f"that of {images[0]} is {mask_names(images[0])[0]}" if images else "name them so"
        raise StorageError(
            f"{folder.shown}: holds {counted(sum(map(is_png, there)), 'PNG file')} "
            f"and no mask of a photograph; {example}."
        )
    unused = set(there).difference(of.values())
    counts: MaskCounts = {
        "masked": len(of),
        "unmasked": len(images) - len(of),
        "unused": len(unused),
    }
    of = of if used is None else {image: of[image] for image in used if image in of}
    return Masks(folder, of, _digest(folder, of, listen), counts, min(unused, default=""))


def _digest(folder: Folder | Folders, of: dict[str, str], listen: Listener) -> str:
    """SHA-256 of masks, by the names of their photographs."""

    def of_file(image: str) -> str:
        try:
            return hashlib.sha256(folder.read_bytes(of[image])).hexdigest()
        except (StorageError, OSError):  # its photograph fails with a sentence when it is read
            return "unreadable"

    found, images = hashlib.sha256(), sorted(of)
    progress = Progress(len(images), "masks", listen)
    with ThreadPoolExecutor(MASK_THREADS) as threads:
        for start in range(0, len(images), BLOCK):
            block = images[start : start + BLOCK]
            for image, one in zip(block, threads.map(of_file, block), strict=True):
                found.update(f"{image}\0{one}\n".encode(errors="surrogatepass"))
            if len(images) > BLOCK:
                progress.advance(len(block))
    return found.hexdigest()


def mask_note(masks: Masks) -> str:
    """A sentence where some masks leave nothing out, or everything; empty otherwise.

    The first SAMPLE masks are looked at. One that cannot be read is told with its photograph.
    """
    shares = []
    for image in sorted(masks.of)[:SAMPLE]:
        with suppress(Exception):  # Pillow raises arbitrary types for damaged files
            shares.append(ignored_share(masks.folder.read_bytes(masks.of[image])))
    looked = counted(len(shares), "mask")
    if shares and max(shares) == 0:
        return f"nothing is left out by the first {looked}: a pixel is ignored where it is 0"
    empty = shares.count(1.0)
    if 2 * empty > len(shares):
        cause = "a pixel is ignored where it is 0"
        return f"everything is left out by {empty} of the first {looked}: {cause}"
    return ""


def check_apart(masks: Folder | Folders, images: Folder | Folders) -> None:
    """Raise StorageError where masks lie among photographs, which they would be taken for."""
    inner, outer = (
        [*source.parts.values()] if isinstance(source, Folders) else [source]
        for source in (masks, images)
    )
    for one in inner:
        if any(place(one).startswith(place(other)) for other in outer):
            raise StorageError(
                f"{one.shown}: lies in the folder of the images, where masks count as photographs; "
                "move the masks elsewhere."
            )


def masks_line(counts: MaskCounts) -> str:
    """The numbers for a person."""
    masked, unmasked = counts["masked"], counts["unmasked"]
    line = f"{masked:,} of {counted(masked + unmasked, 'image')} masked"
    return line + (f", {counted(counts['unused'], 'mask')} of no image" if counts["unused"] else "")
