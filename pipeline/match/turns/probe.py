"""Try a pair at several turns or scales with the coarse stage alone, on small pixels.

PlannedShard: image 0 and image 1 in several views → ReadShard → ProbeShard → PROBES
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.match.match import limit_threads
from pipeline.match.read import TRIES, DecodedShard
from pipeline.match.shards import PlannedShard
from pipeline.photos.turns import View
from pipeline.store.folder import Folder
from pipeline.tables import PROBES

if TYPE_CHECKING:  # see pipeline/match/match.py
    from eloftr import EfficientLoFTRForKeypointMatching

PROBE_LONG_SIDE = 320  # pixels of the longer side that is probed; a quarter of a match's cost
WIDE = 2**0.5  # the scale of the enlarged image where two scales are probed against each other


def planned_probe(name: str, image0: str, image1: str, turns: int) -> PlannedShard:
    """The probe of one pair at so many turns, evenly spread."""
    views = [View(round(360 * k / turns)) for k in range(turns)]
    pairs = np.array([(0, k + 1) for k in range(turns)], np.int32)
    return PlannedShard(name, [image0, *[image1] * turns], pairs, (View(), *views))


def planned_ladder(
    name: str, image0: str, image1: str, turns: Sequence[int], ratios: Sequence[float]
) -> PlannedShard:
    """The probe of one pair at every ratio of sizes, and image 1 at every turn.

    ratios: by how much image 0 is enlarged against image 1. An image that is enlarged has one
    scale, whatever the ratio, so that it is encoded once.
    """
    numbers: dict[tuple[str, View], int] = {}
    pairs = []
    for turn in turns:
        for ratio in ratios:
            scale0, scale1 = (
                (1.0, 1.0) if ratio == 1 else (WIDE * min(1, ratio), WIDE / max(1, ratio))
            )
            sides = (image0, View(0, scale0)), (image1, View(turn, scale1))
            pairs.append([numbers.setdefault(side, len(numbers)) for side in sides])
    names, views = zip(*numbers, strict=True)
    return PlannedShard(name, list(names), np.array(pairs, np.int32), views)


class ProbedShard(NamedTuple):
    """A probed shard: its name, PROBES, and FAILURES of the images that could not be read."""

    shard: str
    probes: pa.Table
    failures: pa.Table


class ProbeShard:
    """Count the coarse matches of every pair of views, with a model on this process's device."""

    def __init__(self, model: EfficientLoFTRForKeypointMatching, dtype: str) -> None:
        import torch

        from eloftr import Matcher

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.matcher = Matcher(model, device, getattr(torch, dtype))

    def __call__(self, shard: DecodedShard, attempt: int = 1) -> ProbedShard:
        """Count the matches of one shard. One that its processes die of has none."""
        from eloftr.model import ImageFeatures

        counts = np.full(len(shard.pairs), -1, np.int32)
        if attempt <= TRIES:
            row_of = {view: k for k, view in enumerate(shard.read)}
            features = [self.matcher.encode(pixels[None]) for pixels in shard.pixels]
            for batch in self._batches(shard):
                sides = [[row_of[view] for view in side] for side in shard.pairs[batch].T.tolist()]
                both = (ImageFeatures.cat([features[k] for k in side]) for side in sides)
                counts[batch] = self.matcher.count_matches(*both, kept=shard.kept(sides))
        first, second = shard.pairs.T
        turns, scales = (np.array(values) for values in zip(*shard.views, strict=True))
        names = pa.array(shard.names, pa.string())
        columns = [
            names.take(pa.array(first)),
            names.take(pa.array(second)),
            pa.array(turns[second] - turns[first], pa.int16()),
            pa.array(counts, mask=counts < 0),
            pa.array(scales[first] / scales[second], pa.float32()),
        ]
        probes = pa.Table.from_arrays(columns, schema=PROBES)
        return ProbedShard(shard.shard, probes, shard.failures)

    def _batches(self, shard: DecodedShard) -> Iterator[list[int]]:
        """The pairs that could be read; those of a batch have one shape for each side."""
        from eloftr.matching.matcher import pairs_at_once

        for shapes, members in shard.pairs_by_shapes().items():
            size = pairs_at_once(self.matcher.device, *shapes)
            for start in range(0, len(members), size):
                yield members[start : start + size]


def make_probe(model: EfficientLoFTRForKeypointMatching, dtype: str) -> ProbeShard:
    """The stage that probes, in a process of an executor that does nothing else."""
    limit_threads()
    return ProbeShard(model, dtype)


def probe_file(shard: str) -> str:
    """Where the PROBES of a shard are in a run folder."""
    return f"probes/{shard}.parquet"


class WriteProbe:
    """Write what was found of a shard; returns how many pairs of views it has."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    def __call__(self, probed: ProbedShard, attempt: int = 1) -> int:
        """See the class. The file of PROBES is the marker that the probe is done."""
        if probed.failures.num_rows:
            self.folder.publish_table(f"failures/{probed.shard}.parquet", probed.failures)
        self.folder.publish_table(probe_file(probed.shard), probed.probes)
        return int(probed.probes.num_rows)
