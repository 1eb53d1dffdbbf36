"""The two stages that turn a shard of pairs into matches: read its images, match its pairs. Neither knows Ray.

    a row of SHARDS → ReadShard → DecodedShard → MatchShard → MatchedShard (tables of MATCHES, IMAGES, FAILURES)

An image is read and encoded once for all pairs of its shard. A pair whose image cannot be used becomes a row with
status `failed` and the image's reason; the shard goes on.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from eloftr.resizing import to_original
from pipeline.images import Folders, ImageError, ImageLimits, read_image
from pipeline.schemas import FAILURES, IMAGES, MATCHES, ragged
from pipeline.storage import Folder

# torch is imported where a model is: the many processes that read and verify would each lose 200 MB to it.
if TYPE_CHECKING:
    from eloftr import EfficientLoFTRForKeypointMatching, Matches
    from eloftr.model import ImageFeatures

Shape = tuple[int, int]

READ_THREADS = 4  # a read waits for storage most of the time


@dataclass(frozen=True)
class MatchingOptions:
    """Everything besides the weights that the matches of a pair depend on, and how they are computed.

    long_side: pixels of the longer side that the network sees. dtype: of the network.
    batch_size: pairs that go through the network at once; None chooses by device, and changes no result.
    """

    long_side: int = 640
    dtype: str = "float32"
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if self.long_side < 32 or (self.batch_size is not None and self.batch_size < 1):
            raise ValueError("long_side must be at least 32 pixels and batch_size at least 1.")
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"dtype {self.dtype!r}: choose float32, bfloat16 or float16.")


@dataclass(frozen=True)
class DecodedShard:
    """A shard whose images have been read.

    names: all images of the shard; pairs (P, 2) int32: indices into them.
    images: rows of IMAGES, and pixels: (h, w) uint8, of those that could be read, in the order of names.
    """

    shard: str
    names: list[str]
    pairs: np.ndarray
    images: pa.Table
    pixels: list[np.ndarray]
    failures: pa.Table
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class MatchedShard:
    """A shard whose pairs have been matched: a row of `matches` for every pair, in the order of the plan."""

    shard: str
    images: pa.Table
    matches: pa.Table
    failures: pa.Table
    encodes: int
    seconds: dict[str, float] = field(default_factory=dict)


class ReadShard:
    """Read and decode every image of a shard, at the shape the network wants. CPU only."""

    def __init__(self, folder: Folder | Folders, limits: ImageLimits, long_side: int) -> None:
        self.folder = folder
        self.limits = limits
        self.long_side = long_side

    def __call__(self, shard: str, names: list[str], pairs: np.ndarray) -> DecodedShard:
        started = time.monotonic()
        with ThreadPoolExecutor(READ_THREADS) as threads:
            read = list(threads.map(self._read, names))
        good = [result for result in read if not isinstance(result, ImageError)]
        bad = [(name, error) for name, error in zip(names, read, strict=True) if isinstance(error, ImageError)]
        failures = [
            {"image0": name, "image1": None, "stage": "read", "reason": error.reason, "detail": error.detail}
            for name, error in bad
        ]
        return DecodedShard(
            shard,
            names,
            pairs,
            pa.Table.from_pylist([row for _, row in good], schema=IMAGES),
            [pixels for pixels, _ in good],
            pa.Table.from_pylist(failures, schema=FAILURES),
            {"read": time.monotonic() - started},
        )

    def _read(self, name: str) -> tuple[np.ndarray, dict] | ImageError:
        try:
            return read_image(self.folder, name, self.limits, self.long_side)
        except ImageError as error:
            return error


class MatchShard:
    """Match the pairs of decoded shards with a model on this process's device."""

    def __init__(self, model: EfficientLoFTRForKeypointMatching, options: MatchingOptions) -> None:
        import torch

        from eloftr.matcher import BATCH, Matcher

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.matcher = Matcher(model, device, getattr(torch, options.dtype))
        self.batch_size = options.batch_size or BATCH[device.type]

    def __call__(self, shard: DecodedShard) -> MatchedShard:
        from eloftr.matcher import Matches
        from eloftr.model import ImageFeatures

        started = time.monotonic()
        rows = shard.images.to_pylist()
        row_of = {row["image"]: k for k, row in enumerate(rows)}
        features = self._encode(shard.pixels)
        encoded = time.monotonic()
        nothing = Matches(np.empty((0, 2), np.float32), np.empty((0, 2), np.float32), np.empty(0, np.float32))
        found = [nothing] * len(shard.pairs)
        for members in self._batches(shard, row_of):
            sides = [[row_of[shard.names[i]] for i in side] for side in shard.pairs[members].T]
            joined = (ImageFeatures.cat([features[k] for k in side]) for side in sides)
            results = self.matcher.match_features(*joined)
            for pair, k0, k1, matches in zip(members, *sides, results, strict=True):
                found[pair] = Matches(
                    to_original(matches.keypoints0, *_sizes(shard.pixels[k0], rows[k0])),
                    to_original(matches.keypoints1, *_sizes(shard.pixels[k1], rows[k1])),
                    matches.scores,
                )
        seconds = {**shard.seconds, "encode": encoded - started, "match": time.monotonic() - encoded}
        reasons = dict(zip(shard.failures["image0"].to_pylist(), shard.failures["reason"].to_pylist(), strict=True))
        matches = _matches_table(shard, found, reasons)
        return MatchedShard(shard.shard, shard.images, matches, shard.failures, len(rows), seconds)

    def _encode(self, pixels: list[np.ndarray]) -> list[ImageFeatures]:
        """One ImageFeatures of one image each, in the order of `pixels`; encoded by batches of one shape."""
        by_shape: dict[Shape, list[int]] = defaultdict(list)
        for k, image in enumerate(pixels):
            by_shape[image.shape].append(k)
        features: dict[int, ImageFeatures] = {}
        for members in by_shape.values():
            for batch in _chunks(members, self.batch_size):
                encoded = self.matcher.encode(np.stack([pixels[k] for k in batch]))
                features |= {k: encoded[n : n + 1] for n, k in enumerate(batch)}
        return [features[k] for k in range(len(pixels))]

    def _batches(self, shard: DecodedShard, row_of: dict[str, int]) -> Iterator[list[int]]:
        """Pairs whose images were both read, in batches of one shape each side."""
        groups: dict[tuple[Shape, Shape], list[int]] = defaultdict(list)
        for pair, (i, j) in enumerate(shard.pairs):
            k0, k1 = row_of.get(shard.names[i]), row_of.get(shard.names[j])
            if k0 is not None and k1 is not None:
                groups[shard.pixels[k0].shape, shard.pixels[k1].shape].append(pair)
        for members in groups.values():
            yield from _chunks(members, self.batch_size)


def _chunks(items: list[int], size: int) -> Iterator[list[int]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _sizes(pixels: np.ndarray, row: dict) -> tuple[Shape, Shape]:
    return pixels.shape, (row["height"], row["width"])


def _matches_table(shard: DecodedShard, found: list[Matches], reasons: dict[str, str]) -> pa.Table:
    names = [[shard.names[i] for i in side] for side in shard.pairs.T]
    reason = [reasons.get(name0, reasons.get(name1)) for name0, name1 in zip(*names, strict=True)]
    status = [
        "failed" if why else "matched" if len(matches) else "unmatched"
        for why, matches in zip(reason, found, strict=True)
    ]
    columns = {
        "image0": pa.array(names[0], pa.string()),
        "image1": pa.array(names[1], pa.string()),
        "status": pa.array(status, pa.string()),
        "reason": pa.array(reason, pa.string()),
    }
    for name in ("keypoints0", "keypoints1", "scores"):
        columns[name] = ragged([getattr(matches, name) for matches in found], MATCHES.field(name).type)
    empty = {f.name: pa.nulls(len(found), f.type) for f in MATCHES if f.name not in columns}
    columns |= empty
    return pa.table([columns[name] for name in MATCHES.names], schema=MATCHES)
