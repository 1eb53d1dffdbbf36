"""The two stages that turn a shard of pairs into matches: read its images, match its pairs. Neither knows Ray.

    a row of SHARDS → ReadShard → DecodedShard → MatchShard → MatchedShard (tables of MATCHES, IMAGES, FAILURES)

An image is read and encoded once for all pairs of its shard. A pair whose image cannot be used becomes a row with
status `failed` and the image's reason; the shard goes on.

`attempt` counts how often a stage was begun for a shard, by processes that died before its end. From the second on it
does the same work with more care, and after TRIES it sets aside what it cannot do: images with the reason `crash`,
pairs with one of REASONS.
"""

from __future__ import annotations

import ctypes
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from eloftr.matching.resizing import to_original
from pipeline import isolation
from pipeline.images import Folders, ImageError, ImageLimits, read_image
from pipeline.schemas import FAILURES, IMAGES, MATCHES, ragged
from pipeline.storage import Folder

# torch is imported where a model is: the many processes that read and verify would each lose 200 MB to it.
if TYPE_CHECKING:
    from eloftr import EfficientLoFTRForKeypointMatching, Matches
    from eloftr.model import ImageFeatures

Shape = tuple[int, int]

READ_THREADS = 4  # a read waits for storage most of the time
TRIES = 4  # of a stage with a shard, then it is set aside; of them the first is the quick one
DEATHS = 2  # of a process that does nothing but read one image; then the image is to blame
SMALLER = 8  # times fewer pairs at once with every try

REASONS = {
    "out_of_memory": "the pair needs more memory than there is, even by itself",
    "worker_died": "every process that worked on its shard died",
}
DETAILS = {
    "out_of_memory": "matching this pair by itself needs more memory than there is; lower --long-side",
    "worker_died": f"{TRIES} processes that worked on its shard died, with ever fewer pairs at once; see Ray's logs",
}


@dataclass(frozen=True)
class MatchingOptions:
    """Everything besides the weights that the matches of a pair depend on, and how they are computed.

    long_side: pixels of the longer side that the network sees. dtype: of the network; None chooses by device,
    once for a run.
    batch_size: pairs that go through the network at once; None chooses by device and shape. It changes no result, and
    is halved where memory is short.
    """

    long_side: int = 640
    dtype: str | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if self.long_side < 32 or (self.batch_size is not None and self.batch_size < 1):
            raise ValueError("long_side must be at least 32 pixels and batch_size at least 1.")
        if self.dtype not in (None, "float32", "bfloat16", "float16"):
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
    """A shard whose pairs have been matched: a row of `matches` for every pair, in the order of the plan.

    failures: an image that cannot be used, or a pair that was set aside, a row.
    """

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

    def __call__(self, shard: str, names: list[str], pairs: np.ndarray, attempt: int = 1) -> DecodedShard:
        """From the second attempt on, every image is read by a process of its own, which may die of it."""
        started = time.monotonic()
        how = self._read if attempt == 1 else self._read_isolated if attempt <= TRIES else _give_up
        with ThreadPoolExecutor(READ_THREADS) as threads:
            read = list(threads.map(how, names))
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

    def _read_isolated(self, name: str) -> tuple[np.ndarray, dict] | ImageError:
        for _ in range(DEATHS):
            try:
                return isolation.call(read_image, self.folder, name, self.limits, self.long_side)
            except ImageError as error:
                return error
            except isolation.Died as death:
                cause = str(death)
        return ImageError("crash", f"{DEATHS} processes that read it and nothing else died, the last {cause}")


def _give_up(name: str) -> ImageError:
    return ImageError("crash", f"{TRIES} processes that read the images of its shard died")


class MatchShard:
    """Match the pairs of decoded shards with a model on this process's device."""

    def __init__(self, model: EfficientLoFTRForKeypointMatching, options: MatchingOptions) -> None:
        import torch

        from eloftr.matching.matcher import DEFAULT_DTYPE, Matcher

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.matcher = Matcher(model, device, getattr(torch, options.dtype or DEFAULT_DTYPE[device.type]))
        self.batch_size = options.batch_size
        self.smaller = 1  # than asked for is every batch of a shard, by this factor, once memory was short
        self.largest = 0  # of its batches

    def __call__(self, shard: DecodedShard, attempt: int = 1) -> MatchedShard:
        """Where memory is short, smaller batches, then half of the pairs at a time, whose images take less; every
        attempt after the first begins with fewer pairs."""
        self.smaller = 1
        count = len(shard.pairs)
        found: dict[int, Matches] = {}
        set_aside = dict.fromkeys(range(count), "worker_died") if attempt > TRIES else {}
        todo = [*_chunks([*range(count)], max(1, count // SMALLER ** (attempt - 1)))] if not set_aside else []
        encodes, seconds = 0, {**shard.seconds, "encode": 0.0, "match": 0.0}
        while todo:
            members = todo.pop(0)
            part = _part(shard, members) if len(members) < count else shard
            try:
                found |= {members[pair]: matches for pair, matches in self._match(part, seconds).items()}
                encodes += len(part.pixels)
                continue
            except (MemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
            # outside of the handler, where the error still holds what filled the memory
            if self.largest > 1:
                self.smaller *= 2
                todo.insert(0, members)
            elif len(members) == 1:
                set_aside[members[0]] = "out_of_memory"
            else:
                half = len(members) // 2
                todo[:0] = [members[:half], members[half:]]
        _return_memory()
        reasons = dict(zip(shard.failures["image0"].to_pylist(), shard.failures["reason"].to_pylist(), strict=True))
        names = [[shard.names[i] for i in side] for side in shard.pairs.T]
        reason = [
            reasons.get(name0, reasons.get(name1, set_aside.get(pair)))
            for pair, (name0, name1) in enumerate(zip(*names, strict=True))
        ]
        failures = pa.concat_tables([shard.failures, _failures_table(names, reason, "match")])
        return MatchedShard(shard.shard, shard.images, matches_table(names, reason, found), failures, encodes, seconds)

    def _match(self, shard: DecodedShard, seconds: dict[str, float]) -> dict[int, Matches]:
        """Matches of every pair whose images could be read, by its number."""
        from eloftr import Matches
        from eloftr.model import ImageFeatures

        started = time.monotonic()
        self.largest = 0
        rows = shard.images.to_pylist()
        row_of = {row["image"]: k for k, row in enumerate(rows)}
        features = self._encode(shard.pixels)
        encoded = time.monotonic()
        found = {}
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
        seconds["encode"] += encoded - started
        seconds["match"] += time.monotonic() - encoded
        return found

    def _encode(self, pixels: list[np.ndarray]) -> list[ImageFeatures]:
        """One ImageFeatures of one image each, in the order of `pixels`; encoded by batches of one shape."""
        by_shape: dict[Shape, list[int]] = defaultdict(list)
        for k, image in enumerate(pixels):
            by_shape[image.shape].append(k)
        features: dict[int, ImageFeatures] = {}
        for shape, members in by_shape.items():
            for batch in self._batches_of(members, shape):
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
        for shapes, members in groups.items():
            yield from self._batches_of(members, *shapes)

    def _batches_of(self, members: list[int], *shapes: Shape) -> Iterator[list[int]]:
        from eloftr.matching.matcher import pairs_at_once

        size = max(1, (self.batch_size or pairs_at_once(self.matcher.device, *shapes)) // self.smaller)
        self.largest = max(self.largest, min(size, len(members)))
        return _chunks(members, size)


def _return_memory() -> None:
    """What the encodings of a shard filled goes back to the system: glibc keeps it in pieces, and asks for more."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone
    if trim:
        trim(0)


def _chunks(items: list[int], size: int) -> Iterator[list[int]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _sizes(pixels: np.ndarray, row: dict) -> tuple[Shape, Shape]:
    return pixels.shape, (row["height"], row["width"])


def _part(shard: DecodedShard, members: list[int]) -> DecodedShard:
    """Some pairs of a shard, and the images they need."""
    pairs = shard.pairs[members]
    names = {shard.names[i] for i in pairs.ravel()}
    kept = [k for k, name in enumerate(shard.images["image"].to_pylist()) if name in names]
    pixels = [shard.pixels[k] for k in kept]
    return replace(shard, pairs=pairs, images=shard.images.take(pa.array(kept, pa.int64())), pixels=pixels)


def _out_of_memory(error: Exception) -> bool:
    """Whether memory was short: on the CPU torch says so in words only."""
    import torch

    words = ("can't allocate memory", "not enough memory", "bad_alloc", "ALLOC_FAILED")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(word in str(error) for word in words)


def set_aside(shard: MatchedShard) -> MatchedShard:
    """A matched shard that every process died of which went on with it: its pairs fail."""
    names = [shard.matches[side].to_pylist() for side in ("image0", "image1")]
    reason = [why or "worker_died" for why in shard.matches["reason"].to_pylist()]
    failures = pa.concat_tables([shard.failures, _failures_table(names, reason, "verify")])
    return replace(shard, matches=matches_table(names, reason, {}), failures=failures)


def _failures_table(names: list[list[str]], reason: list[str | None], stage: str) -> pa.Table:
    """A row for every pair that was set aside; those of images have theirs."""
    rows = [
        {"image0": name0, "image1": name1, "stage": stage, "reason": why, "detail": DETAILS[why]}
        for name0, name1, why in zip(*names, reason, strict=True)
        if why in DETAILS
    ]
    return pa.Table.from_pylist(rows, schema=FAILURES)


def matches_table(names: list[list[str]], reason: list[str | None], found: dict[int, Matches]) -> pa.Table:
    """MATCHES of pairs by their names, why they failed, and what was found by number of the pair."""
    nothing = np.empty((0, 2), np.float32), np.empty((0, 2), np.float32), np.empty(0, np.float32)
    status = [
        "failed" if why else "matched" if pair in found and len(found[pair]) else "unmatched"
        for pair, why in enumerate(reason)
    ]
    columns = {
        "image0": pa.array(names[0], pa.string()),
        "image1": pa.array(names[1], pa.string()),
        "status": pa.array(status, pa.string()),
        "reason": pa.array(reason, pa.string()),
    }
    for name, empty in zip(("keypoints0", "keypoints1", "scores"), nothing, strict=True):
        values = [getattr(found[pair], name) if pair in found else empty for pair in range(len(reason))]
        columns[name] = ragged(values, MATCHES.field(name).type)
    columns |= {f.name: pa.nulls(len(reason), f.type) for f in MATCHES if f.name not in columns}
    return pa.table([columns[name] for name in MATCHES.names], schema=MATCHES)
