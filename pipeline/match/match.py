"""Match the pairs of a decoded shard.

    DecodedShard → MatchShard → MatchedShard (tables of MATCHES, IMAGES, FAILURES)

An image is encoded once for all pairs of its shard. A pair whose image cannot be used becomes a row
with status `failed` and the image's reason, and the shard goes on. `attempt` counts the processes
that began the stage for this shard, this one included; the earlier ones died before its end. From
the second attempt on, the stage begins with fewer pairs. After TRIES attempts it sets all pairs
aside.
"""

from __future__ import annotations

import ctypes
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa

from eloftr.matching.resizing import to_original
from pipeline.masks.mask import Mask
from pipeline.match.options import TORCH_THREADS, MatchingOptions
from pipeline.match.read import TRIES, DecodedShard
from pipeline.photos.turns import View, unturned, views_between
from pipeline.tables import FAILURES, MATCHES, ragged
from pipeline.vocabulary import Reason, StageName, Status

# torch is imported only where a model is used. Otherwise each of the many processes that read and
# verify would need 200 MB more memory.
if TYPE_CHECKING:
    from eloftr import EfficientLoFTRForKeypointMatching, Matches
    from eloftr.model import ImageFeatures

Shape = tuple[int, int]
# Of an image the view, its shape before it was turned, the row of IMAGES, and the mask if any.
Placed = tuple[View, Shape, dict[str, Any], Mask | None]
Item = TypeVar("Item")
Result = TypeVar("Result")
SMALLER = 8  # every attempt begins with so many times fewer pairs at once
DETAILS = {
    Reason.OUT_OF_MEMORY: "matching this pair by itself needs more memory than there is; "
    "lower --long-side",
    Reason.WORKER_DIED: f"{TRIES} processes that worked on its shard died, "
    "with ever fewer pairs at once; see their logs",
}


@dataclass(frozen=True)
class MatchedShard:
    """A shard whose pairs have been matched.

    matches: a row for every pair, in the order of the plan.
    failures: a row for every image that cannot be used and every pair that was set aside.
    encodes: how many times an image was encoded. seconds: by stage.
    views: (N, 2) of every pair the turn of image 1 against image 0, and the logarithm of base 2 of
        the scale of image 0 against image 1; None: all are 0.
    """

    shard: str
    images: pa.Table
    matches: pa.Table
    failures: pa.Table
    encodes: int
    seconds: dict[str, float] = field(default_factory=dict)
    views: np.ndarray | None = None


class MatchShard:
    """Match the pairs of decoded shards with a model on this process's device."""

    def __init__(self, model: EfficientLoFTRForKeypointMatching, options: MatchingOptions) -> None:
        import torch

        from eloftr.matching.matcher import DEFAULT_DTYPE, Matcher

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.matcher = Matcher(
            model, device, getattr(torch, options.dtype or DEFAULT_DTYPE[device.type])
        )
        self.batch_size, self.looks = options.batch_size, options.looks
        self.threads = 1  # of Python; each works on batches of its own, so results do not change
        self.smaller = 1  # divides the batch size, and grows where memory was short
        self.largest = 0  # size of the largest batch of the shard

    def __call__(self, shard: DecodedShard, attempt: int = 1) -> MatchedShard:
        """Match the pairs of one shard.

        Where memory is short, batches become smaller. Where batches of one are still too large,
        half of the pairs are matched at a time, because their images need less memory. Every
        attempt after the first begins with fewer pairs.
        """
        self.smaller = 1
        count = len(shard.pairs)
        found: dict[int, Matches] = {}
        set_aside = dict.fromkeys(range(count), Reason.WORKER_DIED) if attempt > TRIES else {}
        todo = (
            [*_chunks([*range(count)], max(1, count // SMALLER ** (attempt - 1)))]
            if not set_aside
            else []
        )
        encodes, seconds = 0, {**shard.seconds, StageName.ENCODE: 0.0, StageName.MATCH: 0.0}
        while todo:
            members = todo.pop(0)
            part = _part(shard, members) if len(members) < count else shard
            try:
                found |= {
                    members[pair]: matches for pair, matches in self._match(part, seconds).items()
                }
                encodes += len(part.pixels)
                continue
            except (MemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
            # Here the error is gone; inside the handler it still holds what filled the memory.
            if self.largest > 1:
                self.smaller *= 2
                todo.insert(0, members)
            elif len(members) == 1:
                set_aside[members[0]] = Reason.OUT_OF_MEMORY
            else:
                half = len(members) // 2
                todo[:0] = [members[:half], members[half:]]
        _return_memory()
        reasons = dict(
            zip(
                shard.failures["image0"].to_pylist(),
                shard.failures["reason"].to_pylist(),
                strict=True,
            )
        )
        names = [[shard.names[i] for i in side] for side in shard.pairs.T]
        reason = [
            reasons.get(name0, reasons.get(name1, set_aside.get(pair)))
            for pair, (name0, name1) in enumerate(zip(*names, strict=True))
        ]
        failures = pa.concat_tables(
            [shard.failures, _failures_table(names, reason, StageName.MATCH)]
        )
        return MatchedShard(
            shard.shard,
            distinct_images(shard.images),
            matches_table(names, reason, found),
            failures,
            encodes,
            seconds,
            views_between(shard.views, shard.pairs),
        )

    def _match(self, shard: DecodedShard, seconds: dict[str, float]) -> dict[int, Matches]:
        """The matches of every pair whose images could be read, by the number of the pair."""
        from eloftr.model import ImageFeatures

        started = time.monotonic()
        self.largest = 0
        rows = shard.images.to_pylist()
        row_of = {view: k for k, view in enumerate(shard.read)}
        features = self._encode(shard.pixels)
        encoded = time.monotonic()

        def placed(k: int) -> Placed:
            mask = shard.masks.get(shard.read[k])
            return shard.views[shard.read[k]], shard.shapes[k], rows[k], mask and mask.mask

        def of_batch(members: list[int]) -> dict[int, Matches]:
            sides = [[row_of[view] for view in side] for side in shard.pairs[members].T]
            joined = (ImageFeatures.cat([features[k] for k in side]) for side in sides)
            kept = shard.kept(sides)
            guides = shard.guides_between(members, sides)
            results = self.matcher.match_features(
                *joined, kept=kept, looks=self.looks, guides=guides
            )
            return {
                pair: _in_original(matches, [placed(k0), placed(k1)])
                for pair, k0, k1, matches in zip(members, *sides, results, strict=True)
            }

        found: dict[int, Matches] = {}
        for part in self._threaded(of_batch, self._batches(shard)):
            found |= part
        seconds[StageName.ENCODE] += encoded - started
        seconds[StageName.MATCH] += time.monotonic() - encoded
        return found

    def _threaded(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """The results of all items, in their order, computed by `self.threads` threads."""
        if self.threads == 1:
            yield from map(work, items)
            return
        import torch

        # torch has a number of threads for each thread of Python, and sums are rounded by it.
        with ThreadPoolExecutor(
            self.threads, initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            yield from pool.map(work, items)

    def _encode(self, pixels: list[np.ndarray]) -> list[ImageFeatures]:
        """The features of every image, each for itself, in the order of `pixels`.

        Images are encoded in batches of one shape.
        """
        by_shape: dict[Shape, list[int]] = defaultdict(list)
        for k, image in enumerate(pixels):
            by_shape[image.shape].append(k)
        batches = [
            batch
            for shape, members in by_shape.items()
            for batch in self._batches_of(members, shape)
        ]

        def of_batch(batch: list[int]) -> ImageFeatures:
            return self.matcher.encode(np.stack([pixels[k] for k in batch]))

        features: dict[int, ImageFeatures] = {}
        for batch, encoded in zip(batches, self._threaded(of_batch, batches), strict=True):
            features |= {k: encoded[n : n + 1] for n, k in enumerate(batch)}
        return [features[k] for k in range(len(pixels))]

    def _batches(self, shard: DecodedShard) -> Iterator[list[int]]:
        """The pairs whose images were both read, in batches with one shape for each side."""
        for shapes, members in shard.pairs_by_shapes().items():
            yield from self._batches_of(members, *shapes)

    def _batches_of(self, members: list[int], *shapes: Shape) -> Iterator[list[int]]:
        from eloftr.matching.matcher import pairs_at_once

        size = max(
            1, (self.batch_size or pairs_at_once(self.matcher.device, *shapes)) // self.smaller
        )
        self.largest = max(self.largest, min(size, len(members)))
        return _chunks(members, size)


def make_matcher(
    stage: type[MatchShard],
    model: EfficientLoFTRForKeypointMatching,
    options: MatchingOptions,
    threads: int,
) -> MatchShard:
    """Make what matches, in an executor's process that does nothing else.

    It stands here and not beside the job, whose imports such a process would only wait for.
    """
    limit_threads()
    matcher = stage(model, options)
    matcher.threads = threads
    return matcher


def limit_threads() -> None:
    """Give torch TORCH_THREADS in this process, where there is no GPU."""
    import torch

    if not torch.cuda.is_available():
        torch.set_num_threads(TORCH_THREADS)


def distinct_images(images: pa.Table) -> pa.Table:
    """IMAGES with one row an image, however many views of it there are."""
    _, first = np.unique(images["image"].to_numpy(zero_copy_only=False), return_index=True)
    return images if len(first) == len(images) else images.take(pa.array(np.sort(first)))


def _return_memory() -> None:
    """Give the memory of a shard's encodings back to the system.

    glibc otherwise keeps it in pieces and asks the system for more.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only glibc has it
    if trim:
        trim(0)


def _chunks(items: list[int], size: int) -> Iterator[list[int]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _in_original(matches: Matches, views: list[Placed]) -> Matches:
    """Matches in pixels of the network → in pixels of the original images.

    Matches beyond the edge of a turned image, and those that begin or end in a masked place, are
    left out.
    """
    sides = (matches.keypoints0, matches.keypoints1)
    inside = np.ones(len(matches), bool)
    found = []
    for keypoints, (view, shape, row, mask) in zip(sides, views, strict=True):
        points = unturned(keypoints, view.turn, shape)
        if view.turn % 90:
            inside &= ((points >= -0.5) & (points <= np.array(shape[::-1]) - 0.5)).all(axis=1)
        found.append(to_original(points, shape, (row["height"], row["width"])))
        if mask is not None:
            inside &= mask.keeps(found[-1])
    return some_matches(replace(matches, keypoints0=found[0], keypoints1=found[1]), inside)


def some_matches(matches: Matches, kept: np.ndarray) -> Matches:
    """The matches that are kept, (M,) bool."""
    return replace(
        matches,
        keypoints0=matches.keypoints0[kept],
        keypoints1=matches.keypoints1[kept],
        scores=matches.scores[kept],
    )


def _part(shard: DecodedShard, members: list[int]) -> DecodedShard:
    """The shard reduced to some of its pairs and the images that they need."""
    pairs = shard.pairs[members]
    views = set(pairs.ravel().tolist())
    kept = [k for k, view in enumerate(shard.read) if view in views]
    return replace(
        shard,
        pairs=pairs,
        read=[shard.read[k] for k in kept],
        images=shard.images.take(pa.array(kept, pa.int64())),
        pixels=[shard.pixels[k] for k in kept],
        shapes=[shard.shapes[k] for k in kept],
        guides=None if shard.guides is None else shard.guides[members],
    )


def _out_of_memory(error: Exception) -> bool:
    """Whether memory was short. On the CPU only the text of torch's error says so."""
    import torch

    words = ("can't allocate memory", "not enough memory", "bad_alloc", "ALLOC_FAILED")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        word in str(error) for word in words
    )


def set_aside(shard: MatchedShard) -> MatchedShard:
    """A matched shard with all pairs failed, because every process that went on with it died."""
    names = [shard.matches[side].to_pylist() for side in ("image0", "image1")]
    reason = [why or Reason.WORKER_DIED for why in shard.matches["reason"].to_pylist()]
    failures = pa.concat_tables([shard.failures, _failures_table(names, reason, StageName.VERIFY)])
    return replace(shard, matches=matches_table(names, reason, {}), failures=failures)


def _failures_table(names: list[list[str]], reason: list[str | None], stage: str) -> pa.Table:
    """FAILURES with a row for every pair that was set aside; images have rows of their own."""
    rows = [
        {"image0": name0, "image1": name1, "stage": stage, "reason": why, "detail": DETAILS[why]}
        for name0, name1, why in zip(*names, reason, strict=True)
        if why in DETAILS
    ]
    return pa.Table.from_pylist(rows, schema=FAILURES)


def matches_table(
    names: list[list[str]], reason: list[str | None], found: dict[int, Matches]
) -> pa.Table:
    """MATCHES of pairs, not yet verified.

    names: the images of both sides, each a list with a name per pair.
    reason: why each pair failed, None where it did not.
    found: the matches, by the number of the pair.
    """
    nothing = np.empty((0, 2), np.float32), np.empty((0, 2), np.float32), np.empty(0, np.float32)
    status = [
        Status.FAILED
        if why
        else Status.MATCHED
        if pair in found and len(found[pair])
        else Status.UNMATCHED
        for pair, why in enumerate(reason)
    ]
    columns = {
        "image0": pa.array(names[0], pa.string()),
        "image1": pa.array(names[1], pa.string()),
        "status": pa.array(status, pa.string()),
        "reason": pa.array(reason, pa.string()),
    }
    for name, empty in zip(("keypoints0", "keypoints1", "scores"), nothing, strict=True):
        values = [
            getattr(found[pair], name) if pair in found else empty for pair in range(len(reason))
        ]
        columns[name] = ragged(values, MATCHES.field(name).type)
    columns |= {f.name: pa.nulls(len(reason), f.type) for f in MATCHES if f.name not in columns}
    return pa.table([columns[name] for name in MATCHES.names], schema=MATCHES)
