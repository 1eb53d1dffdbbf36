"""Read and decode every image of a shard.

    PlannedShard → ReadShard → DecodedShard

An image is read once for all pairs of its shard. One that cannot be used becomes a row of FAILURES,
and the shard goes on. `attempt` counts how often the stage was begun for a shard, by processes that
died before its end. From the second on every image is read by a process of its own, which may die
of it. After TRIES all images of the shard are given up.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline.errors import ImageError
from pipeline.execute.worker import Died, call
from pipeline.match.shards import PlannedShard
from pipeline.photos.limits import ImageLimits
from pipeline.photos.source import Folders, read_image
from pipeline.store.folder import Folder
from pipeline.tables import FAILURES, IMAGES
from pipeline.vocabulary import Reason, Stage

READ_THREADS = 4  # a read waits for storage most of the time
TRIES = 4  # of a stage with a shard, then it is set aside; of them the first is the quick one
DEATHS = 2  # of a process that does nothing but read one image; then the image is to blame

ReadImage = tuple[np.ndarray, dict[str, Any]]  # pixels (h, w) uint8, and its row of IMAGES


@dataclass(frozen=True)
class DecodedShard:
    """A shard whose images have been read.

    names: all images of the shard; pairs (P, 2) int32: indices into them.
    images: rows of IMAGES, and pixels: (h, w) uint8, of those that could be read, in the order of
    names.
    """

    shard: str
    names: list[str]
    pairs: np.ndarray
    images: pa.Table
    pixels: list[np.ndarray]
    failures: pa.Table
    seconds: dict[str, float] = field(default_factory=dict)


class ReadShard:
    """Read and decode every image of a shard, at the shape the network wants. CPU only."""

    def __init__(self, folder: Folder | Folders, limits: ImageLimits, long_side: int) -> None:
        self.folder = folder
        self.limits = limits
        self.long_side = long_side

    def __call__(self, shard: PlannedShard, attempt: int = 1) -> DecodedShard:
        """From the second attempt on, every image is read by a process of its own, which may die of
        it.
        """
        started = time.monotonic()
        how = self._read if attempt == 1 else self._read_isolated if attempt <= TRIES else _give_up
        with ThreadPoolExecutor(READ_THREADS) as threads:
            read = list(threads.map(how, shard.images))
        good = [result for result in read if not isinstance(result, ImageError)]
        bad = [
            (name, error)
            for name, error in zip(shard.images, read, strict=True)
            if isinstance(error, ImageError)
        ]
        failures = [
            {
                "image0": name,
                "image1": None,
                "stage": Stage.READ,
                "reason": error.reason,
                "detail": error.detail,
            }
            for name, error in bad
        ]
        return DecodedShard(
            *shard,
            pa.Table.from_pylist([row for _, row in good], schema=IMAGES),
            [pixels for pixels, _ in good],
            pa.Table.from_pylist(failures, schema=FAILURES),
            {Stage.READ.value: time.monotonic() - started},
        )

    def read(self, name: str) -> ReadImage:
        """One image. Raises ImageError."""
        return read_image(self.folder, name, self.limits, self.long_side)

    def _read(self, name: str) -> ReadImage | ImageError:
        try:
            return self.read(name)
        except ImageError as error:
            return error

    def _read_isolated(self, name: str) -> ReadImage | ImageError:
        for _ in range(DEATHS):
            try:
                found: ReadImage = call(_read_alone, self.folder, name, self.limits, self.long_side)
                return found
            except ImageError as error:
                return error
            except Died as death:
                cause = str(death)
        return ImageError(
            Reason.CRASH, f"{DEATHS} processes that read it and nothing else died, the last {cause}"
        )


def _give_up(name: str) -> ImageError:
    return ImageError(Reason.CRASH, f"{TRIES} processes that read the images of its shard died")


def make_reader(folder: Folder | Folders, limits: ImageLimits, long_side: int) -> ReadShard:
    """A ReadShard in a process of an executor, which belongs to it alone: Pillow opens what the
    limits allow there.
    """
    if Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, limits.max_pixels)
    return ReadShard(folder, limits, long_side)


def _read_alone(
    folder: Folder | Folders, name: str, limits: ImageLimits, long_side: int
) -> ReadImage:
    return make_reader(folder, limits, long_side).read(name)
