"""Which images share a camera.

N images → groups, each of images of one stored size, and why they are together.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.errors import ReconstructionError
from pipeline.reconstruct.cameras.images import StoredImages
from pipeline.reconstruct.cameras.options import CameraOptions

# Focal lengths of EXIF that differ by less are one. Files of one setting differ by rounding.
SAME_FOCAL_RATIO = 1.01
# So many images of one size without EXIF, and no others in their folder, look like one camera's.
MANY_ALIKE = 10


@dataclass(frozen=True)
class Group:
    """Images of one camera: their rows, and why they share it."""

    rows: tuple[int, ...]
    why: str
    given: int  # index of the intrinsics that name it, −1 for none


def group_images(images: StoredImages, options: CameraOptions, given: np.ndarray) -> list[Group]:
    """Put every image into one group, in the order of the groups' first images.

    given: (N,) of `intrinsics_of_images`. Images of different intrinsics never share a camera.
        Those of one share it where `sharing` is `auto`.

    Raises ReconstructionError where a list names unknown images, or one camera for several sizes.
    """
    sizes = list(zip(images.stored_width.tolist(), images.stored_height.tolist(), strict=True))
    keys: list[tuple[Hashable, str]]
    if not isinstance(options.sharing, str):
        keys = _by_list(images, options.sharing, sizes)
    elif options.sharing == "auto":
        keys = _by_exif(images)
    elif options.sharing == "per-folder":
        keys = [(folder, f"folder {folder or '.'}") for folder in map(_folder, images.names)]
    elif options.sharing == "single":
        keys = [("all", "all images of one size")] * len(sizes)
    else:
        keys = [(row, "itself") for row in range(len(sizes))]
    found: dict[tuple[Hashable, tuple[int, int], int], tuple[list[int], str]] = {}
    for row, (key, why) in enumerate(keys):
        entry = int(given[row])
        if entry >= 0:
            place = options.intrinsics[entry].place
            together = options.sharing == "auto" or options.intrinsics[entry].slot
            key, why = ("given" if together else key), place
        found.setdefault((key, sizes[row], entry), ([], why))[0].append(row)
    return [Group(tuple(rows), why, entry) for (*_, entry), (rows, why) in found.items()]


def alike_without_exif(images: StoredImages) -> list[str]:
    """A note for every folder whose images have one size and no EXIF, so that they do not share.

    It might hold the frames of a video, or photographs of one camera whose EXIF was removed. It
    might also hold photographs of many cameras that a web site reduced to one size.
    """
    by_folder: dict[str, set[tuple[int, int] | None]] = defaultdict(set)
    counts = Counter(map(_folder, images.names))
    for row, name in enumerate(images.names):
        bare = not images.camera[row] and np.isnan(images.focal[row])
        size = (int(images.stored_width[row]), int(images.stored_height[row]))
        by_folder[_folder(name)].add(size if bare else None)
    word = "single" if len(counts) == 1 else "per-folder"
    return [
        f"the {counts[folder]} images of folder {folder or '.'} have one size and no EXIF, and "
        "each has a camera of its own; where one camera and one setting took them all, "
        f"--camera-sharing {word} gives a more exact model."
        for folder, sizes in sorted(by_folder.items())
        if counts[folder] >= MANY_ALIKE and len(sizes) == 1 and None not in sizes
    ]


def _folder(name: str) -> str:
    return str(name).rpartition("/")[0]


def _by_exif(images: StoredImages) -> list[tuple[Hashable, str]]:
    """A key by make, model, stored size and focal length; by itself where one is not known."""
    keys: list[tuple[Hashable, str]] = [(row, "itself") for row in range(len(images.names))]
    cameras: dict[tuple[str, tuple[int, int]], list[int]] = defaultdict(list)
    for row in np.flatnonzero(~np.isnan(images.focal)).tolist():
        if images.camera[row]:
            size = (int(images.stored_width[row]), int(images.stored_height[row]))
            cameras[images.camera[row], size].append(row)
    for (maker, size), rows in cameras.items():
        first = 0.0
        for row in sorted(rows, key=lambda row: float(images.focal[row])):
            focal = float(images.focal[row])
            if focal > first * SAME_FOCAL_RATIO:
                first = focal
            keys[row] = ((maker, size, first), f"EXIF says {maker}, {first:.0f} px")
    return keys


def _by_list(
    images: StoredImages, cameras: Mapping[str, str], sizes: list[tuple[int, int]]
) -> list[tuple[Hashable, str]]:
    unknown = sorted(cameras.keys() - {*images.names})
    if unknown:
        raise ReconstructionError(
            f"the list of cameras names {unknown[0]!r}, which is no image of the run; "
            "give names relative to the folder of images."
        )
    keys: list[tuple[Hashable, str]] = []
    first: dict[str, int] = {}
    for row, name in enumerate(images.names):
        camera = cameras.get(name)
        if camera is None:
            keys.append((row, "itself"))
            continue
        keys.append((("list", camera), f"the list names it {camera}"))
        before = first.setdefault(camera, row)
        if sizes[before] != sizes[row]:
            raise ReconstructionError(
                f"the list of cameras gives {images.names[before]} and {name} one camera "
                f"({camera}), but they have different sizes; give each size its own."
            )
    return keys
