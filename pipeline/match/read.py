"""Read and decode every image of a shard.

    PlannedShard → ReadShard → DecodedShard

An image is read once for all pairs of its shard. An image that cannot be used becomes a row of
FAILURES, and the shard goes on. `attempt` counts the processes that began the stage for this shard,
this one included; the earlier ones died before its end. From the second attempt on, every image is
read by a process of its own, which may die. After TRIES attempts all images of the shard are given
up.
"""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps

from eloftr.config import CELL
from pipeline.errors import ImageError
from pipeline.execute.worker import Died, call
from pipeline.masks.folder import Masks
from pipeline.masks.mask import Mask
from pipeline.match.options import LEAST_LONG_SIDE
from pipeline.match.shards import PlannedShard
from pipeline.photos.limits import ImageLimits
from pipeline.photos.panoramas.source import FaceFolder, read_picture
from pipeline.photos.source import Folders
from pipeline.photos.turns import View, canvas_from_original, turned
from pipeline.store.folder import Folder
from pipeline.tables import FAILURES, IMAGES
from pipeline.vocabulary import Reason, StageName

IMAGE_THREADS = 4  # a read waits for storage most of the time
TRIES = 4  # attempts at a stage of a shard before the shard is set aside
DEATHS = 2  # an image is to blame when so many processes died that read it alone


class ViewMask(NamedTuple):
    """The mask of a view's upright photograph, and the network's cells (h/8, w/8) that it keeps.

    mask: None of a tile, whose matches are looked at when they are in the photograph's pixels.
    """

    mask: Mask | None
    cells: np.ndarray


# Pixels (h, w) uint8, their shape before they were turned, the row of IMAGES, and the mask, None
# where no pixel is masked.
ReadImage = tuple[np.ndarray, tuple[int, int], dict[str, Any], ViewMask | None]


@dataclass(frozen=True)
class DecodedShard:
    """A shard whose images have been read.

    names: the image of every view; a view is an image at a turn and a scale.
    pairs: (P, 2) int32, indices into `names`.
    views: the turn and the scale of every one of `names`.
    read: the views that could be read, as indices into `names`.
    images: a row of IMAGES for each of these.
    pixels: (h, w) uint8 of each of these, turned.
    shapes: (h, w) of each of these before they were turned.
    failures: a row of FAILURES for every image that could not be read.
    seconds: by stage.
    masks: of the views whose image has masked pixels, as indices into `names`.
    guides: as of `PlannedShard`.
    """

    shard: str
    names: list[str]
    pairs: np.ndarray
    views: tuple[View, ...]
    read: list[int]
    images: pa.Table
    pixels: list[np.ndarray]
    shapes: list[tuple[int, int]]
    failures: pa.Table
    seconds: dict[str, float] = field(default_factory=dict)
    masks: dict[int, ViewMask] = field(default_factory=dict)
    guides: np.ndarray | None = None

    def pairs_by_shapes(self) -> dict[tuple[tuple[int, int], tuple[int, int]], list[int]]:
        """The pairs whose images were both read, by the shapes of the pixels of their two sides."""
        shape_of = {n: pixels.shape for n, pixels in zip(self.read, self.pixels, strict=True)}
        groups: dict[tuple[tuple[int, int], tuple[int, int]], list[int]] = defaultdict(list)
        for pair, (i, j) in enumerate(self.pairs.tolist()):
            if i in shape_of and j in shape_of:
                groups[shape_of[i], shape_of[j]].append(pair)
        return groups

    def kept(self, sides: list[list[int]]) -> tuple[np.ndarray, np.ndarray] | None:
        """The cells (P, h/8, w/8) bool of both sides of P pairs that are not masked.

        sides: the view of each pair, as rows of `read`; those of a side have one shape. Returns
        None where no view of the pairs has a mask.
        """
        views = [[self.read[k] for k in side] for side in sides]
        if self.masks.keys().isdisjoint(itertools.chain.from_iterable(views)):
            return None
        cells = []
        for side, numbers in zip(sides, views, strict=True):
            height, width = self.pixels[side[0]].shape
            whole = np.ones((height // CELL, width // CELL), bool)
            of_side = (self.masks[n].cells if n in self.masks else whole for n in numbers)
            cells.append(np.stack([*of_side]))
        return cells[0], cells[1]

    def guides_between(self, members: list[int], sides: list[list[int]]) -> np.ndarray | None:
        """The guides (P, 3, 3) of P pairs, from the pixels of image 0 to those of image 1.

        members: the pairs. sides: as of `kept`. Returns None where none are told.
        """
        if self.guides is None:
            return None
        rows = self.images.to_pylist()
        to0, to1 = (
            np.stack(
                [
                    canvas_from_original(self.views[self.read[k]], self.shapes[k], rows[k])
                    for k in side
                ]
            )
            for side in sides
        )
        between: np.ndarray = to1 @ self.guides[members] @ np.linalg.inv(to0)
        return between


class ReadShard:
    """Read and decode every view of a shard, at the shape the network wants. CPU only.

    equalised: whether grey levels are spread evenly over their range, which shows the network the
        texture of fields, water and haze.
    masks: of the images; None: there are none.
    """

    def __init__(
        self,
        folder: Folder | Folders | FaceFolder,
        limits: ImageLimits,
        long_side: int,
        equalised: bool = False,
        masks: Masks | None = None,
    ) -> None:
        self.folder = folder
        self.masks = masks
        self.limits = limits
        self.long_side = long_side
        self.equalised = equalised

    def __call__(self, shard: PlannedShard, attempt: int = 1) -> DecodedShard:
        """Read the images of one shard.

        From the second attempt on, every image is read by a process of its own, which may die.
        """
        started = time.monotonic()
        how = self._read if attempt == 1 else self._read_isolated if attempt <= TRIES else _give_up
        views = shard.views or (View(),) * len(shard.images)
        with ThreadPoolExecutor(IMAGE_THREADS) as threads:
            read = list(threads.map(how, shard.images, views))
        good = [
            (number, result)
            for number, result in enumerate(read)
            if not isinstance(result, ImageError)
        ]
        bad = {
            name: error
            for name, error in zip(shard.images, read, strict=True)
            if isinstance(error, ImageError)
        }
        failures = [
            {
                "image0": name,
                "image1": None,
                "stage": StageName.READ,
                "reason": error.reason,
                "detail": error.detail,
            }
            for name, error in bad.items()
        ]
        return DecodedShard(
            shard.shard,
            shard.images,
            shard.pairs,
            views,
            [number for number, _ in good],
            pa.Table.from_pylist([row for _, (_, _, row, _) in good], schema=IMAGES),
            [pixels for _, (pixels, _, _, _) in good],
            [shape for _, (_, shape, _, _) in good],
            pa.Table.from_pylist(failures, schema=FAILURES),
            {StageName.READ.value: time.monotonic() - started},
            {number: mask for number, (_, _, _, mask) in good if mask is not None},
            shard.guides,
        )

    def read(self, name: str, view: View) -> ReadImage:
        """Read one image at a scale and turn it, and its mask.

        Raises ImageError where one of the two cannot be used.
        """
        long_side = max(LEAST_LONG_SIDE, round(self.long_side * view.scale))
        pixels, row = read_picture(self.folder, name, self.limits, long_side)
        height, width = pixels.shape
        mask = self._mask(row, view, (height, width))
        if self.equalised:
            pixels = np.asarray(ImageOps.equalize(Image.fromarray(pixels)))
        return turned(pixels, view.turn) if view.turn else pixels, (height, width), row, mask

    def _mask(self, row: dict[str, Any], view: View, shape: tuple[int, int]) -> ViewMask | None:
        if self.masks is None:
            return None
        size = row["stored_width"], row["stored_height"]
        mask = self.masks.upright(row["image"], size, row["orientation"], self.limits)
        return None if mask is None else ViewMask(mask, mask.cells(view, shape))

    def _read(self, name: str, view: View) -> ReadImage | ImageError:
        try:
            return self.read(name, view)
        except ImageError as error:
            return error

    def _read_isolated(self, name: str, view: View) -> ReadImage | ImageError:
        for _ in range(DEATHS):
            try:
                masks = None if self.masks is None else self.masks.only(name)
                how = self.limits, self.long_side, self.equalised, masks
                found: ReadImage = call(_read_alone, self.folder, name, view, *how)
                return found
            except ImageError as error:
                return error
            except Died as death:
                cause = str(death)
        return ImageError(
            Reason.CRASH, f"{DEATHS} processes that read it and nothing else died, the last {cause}"
        )


def _give_up(name: str, view: View) -> ImageError:
    return ImageError(Reason.CRASH, f"{TRIES} processes that read the images of its shard died")


def make_reader(
    folder: Folder | Folders | FaceFolder,
    limits: ImageLimits,
    long_side: int,
    equalised: bool = False,
    masks: Masks | None = None,
) -> ReadShard:
    """A ReadShard for an executor's process that does nothing else.

    Pillow's limit, a setting of the whole process, is raised to what `limits` allow.
    """
    if Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, limits.max_pixels)
    return ReadShard(folder, limits, long_side, equalised, masks)


def _read_alone(
    folder: Folder | Folders | FaceFolder,
    name: str,
    view: View,
    limits: ImageLimits,
    long_side: int,
    equalised: bool = False,
    masks: Masks | None = None,
) -> ReadImage:
    return make_reader(folder, limits, long_side, equalised, masks).read(name, view)
